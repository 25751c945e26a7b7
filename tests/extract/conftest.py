"""A folder of faces, and sources of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from extract.faces.source import FaceSource

if TYPE_CHECKING:
    from helpers.made_sources import Sourced  # it draws videos, and a machine for GPU tests may lack the encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    return tmp_path / "faces"


@pytest.fixture
def sourced(folder: Path) -> "Iterator[Sourced]":
    """A `FaceSource` of `folder`, closed at the end."""
    made: list[FaceSource] = []

    def make(num_open: int = 64) -> FaceSource:
        made.append(FaceSource(folder, num_open))
        return made[-1]

    yield make
    for source in made:
        source.close()
