"""Small faces and a working folder, for the tests of fine-tuning."""

from pathlib import Path

import pytest

from helpers import small_faces
from helpers.small_faces import Given
from pipelines.config import Config


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A folder of faces, for reading, and their frames table."""
    folder = tmp_path_factory.mktemp("faces")
    return folder, small_faces.make_faces(folder)


@pytest.fixture
def project(tmp_path: Path, faces: Given) -> Config:
    return small_faces.configure(tmp_path, faces[0])
