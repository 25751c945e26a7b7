"""Fixtures of the tests of extraction."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

MADE = Path(__file__).with_name("made_extraction.py")


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """The module `made_extraction`, which lies beside this file and in no package."""
    spec = importlib.util.spec_from_file_location("made_extraction", MADE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
