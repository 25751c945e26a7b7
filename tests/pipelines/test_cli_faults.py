"""Extraction and cache from the outside in trouble: signals, every kind of damage, odd places and odd names.

What `mtl cache verify` says to type is typed, to the letter; then the bytes are those of an undisturbed extraction.
"""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg
import torch

from cache.frames import conform, write_frames
from cache.store import Cache
from cache.stream import SCHEMA
from helpers import signalled
from helpers.cli import Ended, typed
from helpers.processes import environment, program, start
from pipelines.cli import main

NUM_FACES, SHARD_ROWS = 30, 8
TOML = f"""
[data]
faces = "faces"
[cache]
shard_rows = {SHARD_ROWS}
[backbones.expr]
model = "test_resnet"
weights = "random"
size_px = 32
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_project(folder: Path, names: list[str]) -> None:
    """mtl.toml, 30 noise faces of 32 px in videos `names`, and their frames table."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(NUM_FACES):
        video = names[index % len(names)]
        path = f"{video}/{index:05d}.jpg"
        (folder / "faces" / video).mkdir(parents=True, exist_ok=True)
        jpeg = simplejpeg.encode_jpeg(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        (folder / "faces" / path).write_bytes(jpeg)
        rows.append((video, index, path))
    frames = pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row")
    write_frames(conform(frames, "test"), folder / "frames.parquet")
    (folder / "mtl.toml").write_text(TOML)


def mtl(*words: str) -> Ended:
    return typed(*words, stdin="y\n", columns=200)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a whole cache, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_project(folder, ["v0", "v1"])
    program(main, "extract", cwd=folder)
    return folder


@pytest.fixture
def project(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, typed in at a terminal."""
    monkeypatch.setattr("pipelines.cli.cache._is_terminal", lambda: True)
    monkeypatch.chdir(shutil.copytree(undisturbed, tmp_path / "project"))
    return tmp_path / "project"


def files_of(root: Path) -> dict[str, bytes]:
    """Every file of a cache but the locks: path -> bytes."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def type_what_it_says(found: str) -> list[Ended]:
    """Runs each command in backticks of the last line that begins with "type"."""
    lines = [line.strip() for line in found.splitlines() if line.strip().startswith("type ")]
    assert lines, found
    return [mtl(*shlex.split(command)[1:]) for line in dict.fromkeys(lines) for command in re.findall("`(.*?)`", line)]


def written_since(root: Path, before: dict[str, tuple[int, int]]) -> set[str]:
    """Files of the cache that are not the ones of `before` (as `files_on_disk` gives them)."""
    now = files_on_disk(root)
    return {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}


def files_on_disk(root: Path) -> dict[str, tuple[int, int]]:
    """Which file each is, and since when: another one where it was written again."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "zeroed": zero,
    "deleted": Path.unlink,
    "one bit": flip,
    "emptied": lambda path: path.write_bytes(b""),
}
BASE = "expr/base"
EMBEDDING = f"{BASE}/embedding/c/1/0"
# The shards that each harm costs; those of which marks tell all are redone without an extraction.
ALL = [0, 1, 2, 3]
COSTS: dict[str, dict[str, list[int]]] = {
    EMBEDDING: {},
    f"{BASE}/face_digest/c/0/0": {harm: [2] if harm == "one bit" else ALL for harm in HARMS},
    f"{BASE}/state/c/0": {harm: [] for harm in HARMS},
    f"{BASE}/embedding/marks/manifest-00000.jsonl": {
        "truncated": [2, 3],
        "one bit": [2],
        "zeroed": ALL,
        "deleted": ALL,
        "emptied": ALL,
    },
}
BESIDE = set(COSTS) - {EMBEDDING}


def embeddings_in(names: set[str]) -> list[int]:
    """The shards whose embeddings are among them."""
    return sorted(int(name.split("/")[-2]) for name in names if name.startswith(f"{BASE}/embedding/c/"))


def done_files(root: Path) -> set[str]:
    """Of the embeddings of finished shards."""
    done = Cache.open(root).stream("expr").done_shards()
    return {f"{BASE}/embedding/c/{shard}/0" for shard in done}


METADATA = [
    f"{BASE}/zarr.json",
    *(f"{BASE}/{name}/zarr.json" for name in ("embedding", "face_digest", "state")),
]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", COSTS)
def test_damaged_shards_are_redone_alone(project: Path, undisturbed: Path, name: str, harm: str) -> None:
    root = project / "cache.zarr"
    HARMS[harm](root / name)
    before = files_on_disk(root)
    code, out, _ = mtl("cache", "verify")
    assert code == 1
    assert name in out or "rows 8 to 15 are not extracted yet" in out
    assert written_since(root, before) == set()
    assert type_what_it_says(out)[-1][0] == 0
    assert files_of(root) == files_of(undisturbed / "cache.zarr")
    written = written_since(root, before)
    assert embeddings_in(written) == COSTS[name].get(harm, [1])
    assert {each for each in written if not each.startswith(f"{BASE}/embedding/c/")} == BESIDE
    assert mtl("cache", "verify")[0] == 0


@pytest.mark.parametrize("harm", ["truncated", "zeroed", "deleted", "emptied"])
@pytest.mark.parametrize("name", METADATA)
def test_damaged_metadata(project: Path, undisturbed: Path, name: str, harm: str) -> None:
    HARMS[harm](project / "cache.zarr" / name)
    code, out, _ = mtl("cache", "verify")
    assert code == 1
    assert name in out or "zarr.json" in out
    assert type_what_it_says(out)[-1][0] == 0
    assert files_of(project / "cache.zarr") == files_of(undisturbed / "cache.zarr")


@pytest.mark.parametrize("harm", ["truncated", "zeroed", "deleted", "emptied"])
@pytest.mark.parametrize("name", ["zarr.json", "expr/zarr.json"])
def test_a_lost_group_costs_no_extraction(project: Path, undisturbed: Path, name: str, harm: str) -> None:
    root = project / "cache.zarr"
    HARMS[harm](root / name)
    before = files_on_disk(root)
    code, out, _ = mtl("cache", "verify")
    assert code == 1
    assert f"cache.zarr/{name}: is missing or damaged" in out
    assert type_what_it_says("type" + out.partition("; type")[2])[-1][0] == 0
    assert files_of(root) == files_of(undisturbed / "cache.zarr")
    assert written_since(root, before) == {name}


def test_many_damages_at_once(project: Path, undisturbed: Path) -> None:
    root = project / "cache.zarr"
    flip(root / f"{BASE}/embedding/c/0/0")
    (root / f"{BASE}/state/c/0").unlink()
    truncate(root / f"{BASE}/embedding/marks/manifest-00000.jsonl")
    code, out, _ = mtl("cache", "verify", "--json")
    assert code == 1
    assert {each["shard"] for each in json.loads(out)["damages"]} == {0, 2, 3}
    type_what_it_says(mtl("cache", "verify")[1])
    assert files_of(root) == files_of(undisturbed / "cache.zarr")


# Faces


FACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda path: path.write_bytes(face_bytes(99)), "has changed since extraction"),
    "truncated": (truncate, "has changed since extraction"),
    "deleted": (Path.unlink, "is missing or cannot be read"),
    "one bit": (flip, "has changed since extraction"),
}


def face_bytes(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    return simplejpeg.encode_jpeg(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("harm", FACES)
def test_a_face_that_changed(project: Path, harm: str) -> None:
    """Only its shard is done again; the bytes are those of a first extraction of the faces as they are now."""
    change, said = FACES[harm]
    root, path = project / "cache.zarr", "v1/00003.jpg"  # row 16: v0 comes first
    change(project / "faces" / path)
    before = files_on_disk(root)
    code, out, _ = mtl("cache", "verify")
    assert code == 1
    assert f"face {path} {said}" in out
    codes = [code for code, _, _ in type_what_it_says(out)]
    assert codes == [1, int(harm != "changed")]  # a face that cannot be read is told of
    assert embeddings_in(written_since(root, before)) == [2]
    assert mtl("cache", "verify")[0] == 0
    assert mtl("extract", "--set", "cache.path=anew.zarr")[0] == codes[1]
    assert files_of(root) == files_of(project / "anew.zarr")


# Formats


def set_schema(project: Path, schema: int) -> None:
    path = project / "cache.zarr" / BASE / "zarr.json"
    document = json.loads(path.read_bytes())
    document["attributes"]["schema"] = schema
    path.write_text(json.dumps(document))


def test_a_cache_of_an_older_format(project: Path, undisturbed: Path) -> None:
    set_schema(project, SCHEMA - 1)
    code, out, _ = mtl("cache", "verify")
    assert code == 1
    assert f"has the old format {SCHEMA - 1}" in out
    assert type_what_it_says(out)[-1][0] == 0
    assert files_of(project / "cache.zarr") == files_of(undisturbed / "cache.zarr")


def test_a_cache_of_a_newer_format_is_left_alone(project: Path) -> None:
    set_schema(project, SCHEMA + 1)
    before = files_of(project / "cache.zarr")
    for arguments in (("cache", "verify"), ("cache", "verify", "--repair"), ("extract",), ("cache", "info", "expr")):
        code, out, err = mtl(*arguments)
        assert code in (1, 2)
        assert "update mtl" in out + err
    assert files_of(project / "cache.zarr") == before


# Places and names


WRITES: list[tuple[str, str]] = []
WATCHED: list[str] = []
CHANGING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def watch(event: str, args: tuple) -> None:
    """An audit hook (there is no taking one away): notes whatever would change something below `WATCHED`."""
    if not WATCHED or event not in ("open", "os.utime", *CHANGING):
        return
    writes = event != "open" or (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes and any(folder in str(args[0]) for folder in WATCHED):
        WRITES.append((event, str(args[0])))


@pytest.fixture
def writes(project: Path) -> Iterator[list[tuple[str, str]]]:
    """What is written below the cache; permission bits alone would not bind root."""
    sys.addaudithook(watch)
    WRITES.clear()
    WATCHED.append(str(project / "cache.zarr"))
    yield WRITES
    WATCHED.clear()


def test_a_read_only_cache(project: Path, writes: list[tuple[str, str]]) -> None:
    """All that reads works, and tries to write nothing."""
    root = project / "cache.zarr"
    flip(root / f"{BASE}/state/c/0")
    assert writes  # the hook sees
    writes.clear()
    before = files_of(root)
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    writes.clear()
    try:
        for arguments, wanted in ((("ls",), 0), (("info", "expr"), 0), (("verify",), 1), (("verify", "--json"), 1)):
            assert mtl("cache", *arguments)[0] == wanted
        assert len(Cache.open(root, read_only=True).stream("expr").read()) == NUM_FACES
        assert writes == []
    finally:
        for path in paths:
            path.chmod(0o755)
    assert files_of(root) == before


def test_a_moved_cache(project: Path, tmp_path: Path, undisturbed: Path) -> None:
    moved = tmp_path / "дальше" / "other name.zarr"
    moved.parent.mkdir()
    shutil.move(project / "cache.zarr", moved)
    there = ("--set", f"cache.path='{moved}'")
    assert mtl("cache", "verify", *there)[0] == 0
    assert mtl("extract", *there)[1] == "30 faces were in 1 stream (expr) already\n"
    flip(moved / EMBEDDING)
    assert mtl("cache", "verify", "--repair", *there)[0] == 1
    assert mtl("extract", *there)[0] == 0
    assert files_of(moved) == files_of(undisturbed / "cache.zarr")
    code, _, err = mtl("cache", "verify")
    assert code == 2
    assert "there is no cache here; `mtl extract` makes one" in err


NAMES = {
    "non-ASCII": ["видео-é", "日本語 の 動画", "e\u0301clair 😀"],
    "long": ["x" * 240, "é" * 120, "y" * 100 + "/" + "z" * 200],
    "spaces and signs": [" a b ", "100%", "[red]'\"$(id)`", "-rf"],
}


@pytest.mark.parametrize("names", NAMES)
def test_odd_names_of_videos(project: Path, names: str) -> None:
    """Extracted, verified, found when changed, redone."""
    shutil.rmtree(project)
    project.mkdir()
    make_project(project, NAMES[names])
    os.chdir(project)
    code, out, err = mtl("extract")
    assert (code, err) == (0, "")
    before = files_of(project / "cache.zarr")
    assert mtl("cache", "verify")[0] == 0
    path = f"{NAMES[names][1]}/00001.jpg"
    whole = (project / "faces" / path).read_bytes()
    truncate(project / "faces" / path)
    code, out, _ = mtl("cache", "verify")
    assert code == 1
    assert f"face {path} has changed since extraction" in out
    type_what_it_says(out)
    code, _, err = mtl("extract")
    assert code == 1
    assert path in err
    (project / "faces" / path).write_bytes(whole)
    assert mtl("extract")[0] == 0
    assert files_of(project / "cache.zarr") == before


# The disk


class Full:
    """Stands for a function that finds the disk full from its `after`-th call on."""

    def __init__(self, function: Callable, after: int) -> None:
        self.function, self.left = function, after

    def __call__(self, *args: object, **options: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.function(*args, **options)


@pytest.mark.parametrize("after", [0, 4, 9, 14, 21, 30, 44])
def test_disk_full(project: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """At any of the moments that wait for the disk: one line, what is whole stays, the same command resumes."""
    root = project / "cache.zarr"
    shutil.rmtree(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Full(os.fsync, after))
        code, out, err = mtl("extract")
    assert (code, out) == (2, "")
    assert err.endswith(
        "No space left on device; free some space and run the same command again, finished work is kept\n"
    )
    assert err.count("\n") == 1
    assert not [path for path in root.rglob("*") if ".tmp-" in path.name or ".partial" in path.name]
    before = files_on_disk(root)
    done = done_files(root) if (root / BASE).is_dir() else set()
    assert mtl("extract")[0] == 0
    assert not done & written_since(root, before)
    assert files_of(root) == files_of(undisturbed / "cache.zarr")


# Signals


@pytest.fixture
def long_project(undisturbed: Path, tmp_path: Path) -> Path:
    """160 frames in 20 shards, of the same 30 faces again and again."""
    project = shutil.copytree(undisturbed, tmp_path / "long", ignore=shutil.ignore_patterns("*.zarr"))
    paths = pl.read_parquet(project / "frames.parquet")["path"].to_list()
    rows = [("v", frame, paths[frame % NUM_FACES]) for frame in range(160)]
    frames = pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row")
    write_frames(conform(frames, "test"), project / "frames.parquet")
    return project


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(
    ("number", "wanted"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signals(long_project: Path, number: int, wanted: int) -> None:
    """One line, no leftovers, whole shards kept, the same command finishes."""
    root = long_project / "cache.zarr"
    moment = ("cache.marks", "write_mark", 2, int(number))
    code, out, err = start(signalled.main, *moment, "extract", cwd=long_project).end()
    assert (code, out) == (wanted, "")
    assert err == "mtl: stopped; finished work is kept, the same command resumes from here\n"
    assert not [path for path in root.rglob("*") if ".tmp-" in path.name or ".partial" in path.name]
    before = files_on_disk(root)
    done = done_files(root)
    assert 2 <= len(done) < 20
    os.chdir(long_project)
    code, out, err = mtl("extract")
    assert (code, err) == (0, "")
    assert f"{SHARD_ROWS * len(done)} faces were in 1 stream (expr) already" in out
    assert not done & written_since(root, before)
    stream = Cache.open(root).stream("expr")
    assert np.array_equal(stream.read()[:NUM_FACES], stream.read()[NUM_FACES : 2 * NUM_FACES])


AT_EXIT = """
import atexit, sys, time
from pipelines.cli import program
atexit.register(lambda: (print("leaving", file=sys.stderr, flush=True), time.sleep(60)))
program()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(("number", "wanted"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_python_goes_down_is_no_traceback_and_no_success(number: int, wanted: int) -> None:
    command = [sys.executable, "-c", AT_EXIT, "--version"]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "leaving\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (wanted, "")
    assert out.startswith("mtl-affect "), "what was printed is not lost"
