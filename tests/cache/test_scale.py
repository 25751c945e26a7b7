"""Very many videos, very long ones, very many shards: nothing grows faster than they do."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache import marks, shard_reader, shards
from cache.store import Cache
from cache.stream import Stream
from cache.summary import summarise
from cache.verify import verify
from helpers import made_stream as made
from helpers import scaled_stream
from helpers.processes import environment, program

EVENTS: list[tuple[str, str]] = []
HOOKED: list[bool] = []
WATCHING = [False]


def watch(event: str, args: tuple) -> None:
    """An audit hook (there is no taking one away): notes listings and openings."""
    if WATCHING[0] and event in ("os.scandir", "os.listdir", "open"):
        EVENTS.append((event, str(args[0])))


@pytest.fixture
def events() -> Iterator[list[tuple[str, str]]]:
    """(event, path) of every folder listed and every file opened."""
    if not HOOKED:
        sys.addaudithook(watch)
        HOOKED.append(True)
    EVENTS.clear()
    WATCHING[0] = True
    yield EVENTS
    WATCHING[0] = False


@pytest.fixture
def many(cache: Cache) -> Stream:
    """60 shards of one row."""
    identity = made.make_identity(made.make_frames(60), width=3)
    return cache.create("expr", identity, 1, {})


def fill(many: Stream) -> None:
    with many.writer_lock():
        for shard in range(many.num_shards):
            many.write_shard(shard, made.embeddings_of(shard, shard + 1, 3), made.digests_of(shard, shard + 1), {})


def test_writing_a_shard_lists_no_folder_of_all_shards(many: Stream, events: list[tuple[str, str]]) -> None:
    fill(many)
    shared = (str(many.folder / "state" / shards.CHUNKS), str(many.folder / marks.MARKS))
    assert sum(event != "open" and path in shared for event, path in events) <= 4 + many.layout.num_groups


def test_leftovers_of_other_shards_stay(many: Stream) -> None:
    """Another process may be writing them at the time."""
    mine, other = (many.folder / f"embedding/c/{shard}/0.0f.partial" for shard in (5, 6))
    for path in (mine, other):
        path.parent.mkdir()
        path.write_bytes(b"")
    many.write_shard(5, made.embeddings_of(5, 6, 3), made.digests_of(5, 6), {})
    assert (mine.exists(), other.exists()) == (False, True)


def test_a_summary_reads_each_manifest_once(many: Stream, events: list[tuple[str, str]]) -> None:
    fill(many)
    EVENTS.clear()
    summarise(Cache.open(many.folder.parent.parent), made.make_frames(60))
    assert sum("/marks/" in path and event == "open" for event, path in events) == many.num_shards // made.GROUP_SHARDS


def test_sizes_while_files_come_and_go(many: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mtl cache ls` beside a running extraction, whose temporaries vanish between listing and looking."""
    ghost = many.folder / ".tmp-gone"
    real = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: [*real(path, pattern), ghost])
    assert many.files.total_bytes() > 0


# Reading by threads


@pytest.mark.parametrize("num_readers", [1, 2, 7])
def test_readers_give_the_same(complete: Path, monkeypatch: pytest.MonkeyPatch, num_readers: int) -> None:
    monkeypatch.setattr(shard_reader.ShardReader, "num_threads", num_readers)
    found = Cache.open(complete).stream("expr")
    assert np.array_equal(found.read(), made.expected_rows())
    assert np.array_equal(found.read(check=False), made.expected_rows())


@pytest.mark.parametrize("num_readers", [1, 7])
def test_the_first_faulty_shard_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch, num_readers: int) -> None:
    monkeypatch.setattr(shard_reader.ShardReader, "num_threads", num_readers)
    made.extract_into(cache.path)
    found = cache.stream("expr")
    for shard in (3, 1, 2):
        path = found.folder / shards.shard_file("embedding", shard)
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match=r"embedding/c/1/0|rows 40 to 79"):
        found.read()


def test_a_file_that_gives_less_than_its_size(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short between looking and reading: refused, where a mapped file would have ended the process."""
    found = Cache.open(complete).stream("expr")
    monkeypatch.setattr(shards, "is_in_line", lambda file, layout, num_rows: not file.seek(0, os.SEEK_END) or True)
    monkeypatch.setattr(shards, "read_through_zarr", lambda *given: made.embeddings_of(given[2], given[3]))
    with pytest.raises(ValueError, match="has changed since extraction"):
        found.read()  # rows 41 and 149 were stored as zeros


# Marks


@pytest.mark.parametrize(("name", "shards"), [("manifest-00000.jsonl", {0, 1, 2}), ("00000001.mark", {1})])
def test_every_bit_of_a_mark_counts(cache: Cache, name: str, shards: set[int]) -> None:
    """A changed bit costs one shard, or the two whose lines it joins."""
    found = made.extract_into(cache.path)
    if name.endswith(".mark"):
        found.forget([0])
        found.forget([1])
        made.fill(found, [1])
    path = found.folder / marks.MARKS / name
    data, seen = path.read_bytes(), set()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        damages = [each for each in verify(found, None, None, lambda count: None) if each.kind == "mark"]
        assert 1 <= len(damages) <= 2
        seen |= {each.shard for each in damages}
    assert seen == shards


# Lost groups


def test_what_a_killed_removal_left_is_completed(cache: Cache, frames: pl.DataFrame) -> None:
    (cache.path / "expr").mkdir()
    cache.create("expr", made.make_identity(frames), made.SHARD_ROWS, {})
    assert (cache.path / "expr" / "zarr.json").is_file()
    assert not [path for path in cache.path.iterdir() if path.name.startswith(".tmp-")]


# Sizes


def scaled(folder: Path, num_videos: int, frames_per_video: int) -> dict:
    """What `scaled_stream.py` prints."""
    env = environment(POLARS_MAX_THREADS="2")
    return json.loads(program(scaled_stream.main, folder, num_videos, frames_per_video, env=env))


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to read memory from")
@pytest.mark.parametrize(
    ("num_videos", "frames_per_video", "megabytes"),
    [(100_000, 1, 250), pytest.param(1, 500_000, 500, marks=pytest.mark.slow)],
)
def test_sizes(tmp_path: Path, num_videos: int, frames_per_video: int, megabytes: int) -> None:
    """Seconds stay far below what anything quadratic would take; they are of CPU, so that a busy machine adds few."""
    found = scaled(tmp_path, num_videos, frames_per_video)
    assert found["peak_bytes"] < megabytes * 1_000_000
    seconds = found["seconds"]
    assert sum(seconds.values()) - seconds["write"] < 15
    assert seconds["write"] < 60
