"""The working folder in which bad input is tried, at three stages."""

import contextlib
import shutil
from pathlib import Path

import pytest

from helpers.bad_input import EXTRACT, GRID, PREPARE, TOML, Refused, contents
from helpers.cli import refused as refuse
from helpers.cli import typed


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after `mtl demo-data` and `mtl prepare`: 79 faces of 9 videos."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "mtl.toml").write_text(TOML)
    (folder / "grid.toml").write_text(GRID)
    mtl_in(folder, "demo-data", "data", "--videos", "9", "--frames", "8")
    mtl_in(folder, *PREPARE)
    return folder


@pytest.fixture(scope="session")
def extracted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `mtl extract`."""
    folder = tmp_path_factory.mktemp("extracted") / "work"
    shutil.copytree(prepared, folder)
    mtl_in(folder, *EXTRACT)
    return folder


@pytest.fixture(scope="session")
def trained(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `mtl train-head`, the run called `one`."""
    folder = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(extracted, folder)
    mtl_in(folder, "train-head", "--name", "one")
    return folder


@pytest.fixture
def project(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the prepared working folder, or of the one that a test names by `use`, typed in."""
    folder = tmp_path / "work"
    shutil.copytree(request.getfixturevalue(getattr(request, "param", "prepared")), folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MTL_DEBUG", raising=False)
    return folder


@pytest.fixture
def refused(project: Path) -> Refused:
    """Runs `mtl ARGUMENTS`, which must fail with one line and leave every file as it was; gives that line."""

    def run(*arguments: str) -> str:
        before = contents(project)
        line = refuse(*arguments)
        assert contents(project) == before
        return line

    return run


def mtl_in(folder: Path, *arguments: str) -> None:
    """Runs `mtl ARGUMENTS` in `folder`, which must succeed."""
    with contextlib.chdir(folder):
        assert typed(*arguments).code == 0
