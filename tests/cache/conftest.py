"""Fixtures around `made_stream`: an empty, a complete stream, and the faces it was made from."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from cache.store import Cache
from cache.stream import Stream
from helpers import made_stream as made


@pytest.fixture(autouse=True)
def _small_groups() -> Iterator[None]:
    with made.small_groups():
        yield


@pytest.fixture
def frames() -> pl.DataFrame:
    return made.make_frames()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.open(tmp_path / "cache.zarr", create=True)


@pytest.fixture
def empty(cache: Cache, frames: pl.DataFrame) -> Stream:
    """No row written yet."""
    return cache.create("expr", made.make_identity(frames), made.SHARD_ROWS, made.PROVENANCE)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that is written once; tests work on copies, since each write waits for the disk."""
    path = tmp_path_factory.mktemp("complete") / "cache.zarr"
    made.extract_into(path)
    return path


@pytest.fixture
def stream(complete: Path, cache: Cache) -> Stream:
    """Complete, with two failed rows."""
    shutil.copytree(complete, cache.path, dirs_exist_ok=True)
    return cache.stream("expr")


@pytest.fixture
def faces(tmp_path: Path, frames: pl.DataFrame) -> Path:
    """The face files of `frames`, with the bytes their digests in `stream` were taken of."""
    folder = tmp_path / "faces"
    for row, path in enumerate(frames["path"]):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(made.face_bytes(row))
    return folder


@pytest.fixture
def reopen(cache: Cache) -> Callable[[], Stream]:
    """Opens the stream anew, as the next process would."""
    return lambda: Cache.open(cache.path).stream("expr")
