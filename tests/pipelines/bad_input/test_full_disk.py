"""A disk that fills up: one clear line, nothing finished is lost, nothing half-written.

Everything goes through the entry point `mtl`. Where a command refuses, the whole working folder is compared byte for
byte with what it was: frames table, cache and marks, runs, studies, backbones and mtl.toml at once.
"""

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zarr.storage import LocalStore

from cache.writing import folder_place
from helpers.bad_input import EXTRACT, FINETUNE, PREPARE, Refused, contents, use
from helpers.cli import typed
from pipelines.fitting import checkpoint


def no_space() -> OSError:
    """As writing raises it: without a file's name."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Lets no file of this process grow beyond so many bytes: what the system then does is what a full disk does, but
    for the words ("File too large")."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# A disk that fills up


@pytest.fixture(params=["rows", "sync", "mark"])
def full_disk(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Makes the disk full where the second shard is written: half of its rows, all but their sync, or all but its
    mark are there by then."""
    patch = pytest.MonkeyPatch()
    real_set, real_sync, real_fsync = LocalStore.set, folder_place.sync, os.fsync

    async def set_half(store: LocalStore, key: str, value: Any) -> None:
        if key == "c/1/0":
            await real_set(store, key, type(value).from_bytes(value.to_bytes()[: len(value) // 2]))
            raise no_space()
        await real_set(store, key, value)

    def sync(path: Path) -> None:
        if path.match("embedding/c/1"):
            raise no_space()
        real_sync(path)

    def fsync(descriptor: int) -> None:
        if "00000001.mark" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise no_space()
        real_fsync(descriptor)

    def fill() -> Callable[[], None]:
        if request.param == "rows":
            patch.setattr(LocalStore, "set", set_half)
        elif request.param == "sync":
            patch.setattr(folder_place, "sync", sync)
        else:
            patch.setattr(os, "fsync", fsync)
        return patch.undo

    yield fill
    patch.undo()


def test_a_disk_that_fills_up(project: Path, full_disk: Callable[[], Callable[[], None]]) -> None:
    """The shard before it stays; with room again the same command resumes, to what an undisturbed one makes."""
    assert typed(*EXTRACT, "--set", "cache.path=whole.zarr")[0] == 0
    kept = {name: data for name, data in contents(project).items() if not name.startswith("cache.zarr")}
    make_room = full_disk()
    code, out, err = typed(*EXTRACT)
    make_room()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mtl: error: ")
    assert "cache.zarr/expr/base" in err
    assert ": No space left on device; free some space and run the same command again, finished work is kept" in err
    half = contents(project / "cache.zarr")
    mark = "expr/base/embedding/marks/00000000.mark"
    assert [name for name in half if "marks/0" in name] == [mark]
    whole = contents(project / "whole.zarr")
    del half[mark]  # moves into the manifest
    assert {name: whole[name] for name in half} == half  # nothing of the second shard is left
    assert {name: data for name, data in contents(project).items() if not name.startswith("cache.zarr")} == kept
    code, out, err = typed("train-head")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "mtl extract --backbone expr" in err
    code, out, err = typed(*EXTRACT)
    assert (code, err) == (0, "")
    assert out.startswith("63 faces into 1 stream (expr)")
    assert "16 faces were in 1 stream (expr) already" in out
    assert contents(project / "cache.zarr") == whole
    assert typed("cache", "verify")[0] == 0


@use("extracted")
@pytest.mark.parametrize("target", ["e.h5", "e.npy", "e.parquet", "e"])
def test_a_disk_that_is_full_when_a_stream_is_exported(project: Path, refused: Refused, target: str) -> None:
    """HDF5's own writing would have ended the process with a segmentation fault."""
    words = ("cache", "export", "expr", "--to", target, *(["--per-video"] if target == "e" else []))
    with room_for(300):
        assert f"{target}: File too large" in refused(*words)
    assert typed(*words)[0] == 0


def test_a_disk_that_is_full_when_a_project_is_begun(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "new").mkdir()
    monkeypatch.chdir(project / "new")
    with room_for(100):
        code, out, err = typed("init")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "File too large" in err
    assert not [path for path in Path().rglob("*") if path.is_file()]
    assert typed("init")[0] == 0
    assert all(path.stat().st_size for path in Path("grids").iterdir())


@pytest.mark.parametrize("file", ["va.checkpoint.safetensors", "va.safetensors"])
def test_a_disk_that_is_full_when_weights_are_saved(
    project: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    """Earlier weights and the section of mtl.toml stay, whether a checkpoint or the weights find no room."""
    assert typed(*FINETUNE, "va")[0] == 0
    if file == "va.safetensors":
        monkeypatch.setattr(checkpoint, "write_checkpoint", lambda *_: None)
    with room_for(4096):
        assert f"backbones/{file}: File too large" in refused(*FINETUNE, "va", "--set", "finetune.lr=0.1")


@use("trained")
@pytest.mark.parametrize("num_bytes", [100, 3000, 10000])
def test_a_disk_that_is_full_when_a_run_is_saved(project: Path, refused: Refused, num_bytes: int) -> None:
    with room_for(num_bytes):
        assert "runs/two: File too large" in refused("train-head", "--seed", "1", "--name", "two")
        assert "runs/one: File too large" in refused("train-head", "--seed", "1", "--name", "one", "--force")


def test_a_disk_that_is_full_when_the_frames_table_is_saved(refused: Refused) -> None:
    with room_for(100):
        assert "frames.parquet: File too large" in refused(*PREPARE)
