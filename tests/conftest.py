"""Fixtures of every room: where real faces and weights are, for the tests marked `real`."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real faces and weights: `MTL_REAL_DATA`, else `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MTL_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MTL_REAL_DATA to a folder that has talking/ and weights/")
    return folder
