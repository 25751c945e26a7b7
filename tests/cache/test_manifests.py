"""Marks that move into manifests: nothing is lost or told twice, whoever looks or is killed at whatever moment."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache import marks, shards
from cache.locks import BeingWritten
from cache.manifests import moving
from cache.manifests.manifest import Marks, encode_manifest, parse_manifest
from cache.storage import claims
from cache.storage.folder import FolderStorage
from cache.storage.objects import ObjectStorage
from cache.store import Cache
from cache.stream import Stream
from cache.verify import repair, verify
from helpers import killed_moves
from helpers import made_stream as made
from helpers.object_store import objects_of
from helpers.processes import program

NEEDS_FORK = pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")
PARTS = [(1, 2), (2, 2)]


@pytest.fixture(params=["folder", pytest.param("store", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a cache may be made."""
    return tmp_path / "cache.zarr" if request.param == "folder" else request.getfixturevalue("s3_url")


def files_at(place: Path | str) -> dict[str, bytes]:
    return made.files_of(place) if isinstance(place, Path) else objects_of(place)


def opened(place: Path | str) -> Stream:
    return Cache.open(place).stream("expr")


def names(stream: Stream) -> list[str]:
    """Of the files that hold marks."""
    found = (key.rpartition("/")[2] for key in stream.files.keys(marks.MARKS))
    return sorted(name for name in found if not name.endswith(".lock"))


# Where marks are


def test_a_whole_group_has_one_manifest(empty: Stream) -> None:
    made.fill(empty, [0, 2, 3])
    assert names(empty) == ["00000000.mark", "00000002.mark", "manifest-00001.jsonl"]
    assert not (empty.folder / "state/c/0").exists()
    made.fill(empty, [1])
    assert names(empty) == ["manifest-00000.jsonl", "manifest-00001.jsonl"]
    assert empty.is_complete
    assert verify(empty, None, None, lambda count: None) == []


def test_a_shard_that_is_forgotten_leaves_the_others(stream: Stream) -> None:
    before = made.files_of(stream.folder)
    stream.forget([1])
    assert stream.missing_shards() == [1]
    assert [each.rows for each in stream.done_marks()] == [(0, 40), (80, 120), (120, 150)]
    assert np.array_equal(stream.read_shard(2), made.expected_rows()[80:120])
    with pytest.raises(ValueError, match="40 of 150 rows are not extracted yet"):
        stream.read()
    states = np.frombuffer((stream.folder / "state/c/0").read_bytes(), np.uint8, 120)
    assert set(states[40:80]) == {shards.NOT_DONE}
    made.fill(stream)
    assert made.files_of(stream.folder) == before
    stream.forget([0, 1, 2])
    assert stream.missing_shards() == [0, 1, 2]
    assert not (stream.folder / "state/c/0").exists()


def test_a_manifest_is_what_marks_were(stream: Stream) -> None:
    data = stream.files.get("embedding/marks/manifest-00000.jsonl")
    found = parse_manifest(data, stream.layout, 0)
    assert encode_manifest(found.marks, stream.layout, 0) == data
    assert found.damaged == frozenset()
    assert parse_manifest(data, stream.layout, 1).damaged == {3}, "that of another group"
    some = encode_manifest({2: found.marks[2]}, stream.layout, 0)
    assert set(parse_manifest(some, stream.layout, 0).marks) == {2}
    assert parse_manifest(some, stream.layout, 0).damaged == frozenset()


def test_a_damaged_line_costs_its_shard(stream: Stream) -> None:
    before, path = made.files_of(stream.folder), stream.folder / "embedding/marks/manifest-00000.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1].replace(b"4", b"5"), *lines[2:]]))
    assert stream.done_shards() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"manifest-00000.jsonl: the mark of shard 1 is damaged; type `mtl cache ver"):
        stream.read()
    assert [each.rows for each in stream.read_marks([0, 2, 3])] == [(0, 40), (80, 120), (120, 150)]
    stream.forget([1])
    made.fill(stream)
    assert made.files_of(stream.folder) == before


@pytest.mark.parametrize("change", ["surplus", "doubled", "reversed"])
def test_lines_that_are_not_the_shards_in_their_order_are_found(stream: Stream, change: str) -> None:
    before, path = made.files_of(stream.folder), stream.folder / "embedding/marks/manifest-00000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    other = (stream.folder / "embedding/marks/manifest-00001.jsonl").read_bytes()
    path.write_bytes(
        b"".join({"surplus": [*lines, other], "doubled": [lines[0], *lines], "reversed": lines[::-1]}[change])
    )
    stream = Cache.open(stream.folder.parents[1]).stream(stream.name)
    found = verify(stream, None, None, lambda count: None)
    assert [(each.kind, each.group, each.shard) for each in found] == [("group", 0, None)]
    assert "manifest-00000.jsonl has lines that are not the shards' in their order" in found[0].what
    assert repair(stream, found) == []
    assert made.files_of(stream.folder) == before


def test_lines_that_contradict_each_other_cost_their_shard(stream: Stream) -> None:
    data = stream.files.get("embedding/marks/manifest-00000.jsonl")
    absent = encode_manifest({}, stream.layout, 0).splitlines(keepends=True)
    found = parse_manifest(data + absent[1], stream.layout, 0)
    assert (set(found.marks), found.damaged) == ({0, 2}, {1})


def test_a_group_with_a_damaged_mark_waits(empty: Stream) -> None:
    """It is not moved, and the damage is named."""
    made.fill(empty, [0, 1])
    path = empty.folder / marks.mark_key(1)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # of the face digests
    path.write_bytes(data)
    made.fill(empty, [2, 3])
    assert names(empty)[:3] == ["00000000.mark", "00000001.mark", "00000002.mark"]
    assert [(each.kind, each.shard) for each in verify(empty, None, None, lambda count: None)] == [("mark", 1)]


# Whoever looks meanwhile


class Moving:
    """A storage in which the marks of a group move after the first of the requests that a look consists of."""

    def __init__(self, files: FolderStorage, move: Callable[[], object]) -> None:
        self.files, self._move = files, move

    def keys(self, prefix: str) -> Iterator[str]:
        found = list(self.files.keys(prefix))
        self._once()
        return iter(found)

    def get_many(self, keys: list[str]) -> Iterator[bytes | None]:
        found = list(self.files.get_many(keys))
        self._once()
        return iter(found)

    def name(self, key: str = "") -> str:
        return self.files.name(key)

    def _once(self) -> None:
        move, self._move = self._move, lambda: None
        move()


@pytest.fixture
def unmoved(empty: Stream, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Complete, all marks in files of their own."""
    with monkeypatch.context() as patch:
        patch.setattr("cache.writing.shard_writer.gather_marks", lambda *given: False)
        made.fill(empty)
    assert len(names(empty)) == 4
    return empty


def move(stream: Stream) -> None:
    for group in (0, 1):
        assert moving.gather_marks(stream.files, stream.layout, group, lambda: None)


def test_marks_that_move_while_somebody_looks(unmoved: Stream) -> None:
    """Names of single marks first, manifests then: the other way round, all of them would be missed."""
    found = Marks(Moving(unmoved.files, lambda: move(unmoved)), unmoved.layout)
    assert found.look().done() == [0, 1, 2, 3]
    assert len(names(unmoved)) == 2


def test_marks_that_move_after_somebody_looked(unmoved: Stream) -> None:
    """As of a listing that is old."""
    found = Marks(unmoved.files, unmoved.layout)
    seen = found.look()
    move(unmoved)
    assert seen.single == {0, 1, 2, 3}
    assert [each.rows for each in found.read(range(4), seen)] == [(0, 40), (40, 80), (80, 120), (120, 150)]
    assert np.array_equal(found.face_digests(1), made.digests_of(40, 80)[:, :8])
    unmoved.forget([1])
    with pytest.raises(ValueError, match=r"00000001\.mark: the shard has no mark"):
        list(found.read([1], seen))


def test_a_shard_that_was_redone_since_its_mark_was_read(stream: Stream, cache: Cache) -> None:
    """By another process; the reader looks at its mark again."""
    stream.read()
    start, stop = stream.rows(1)
    other = made.embeddings_of(start, stop) + np.float16(1)
    cache.stream("expr").write_shard(1, other, made.digests_of(start, stop), {})
    assert np.array_equal(stream.read_shard(1), other)
    assert np.array_equal(stream.read()[start:stop], other)
    assert np.array_equal(stream.shard_face_digests(1), made.digests_of(start, stop)[:, :8])


# Several writers


@pytest.mark.parametrize("order", [PARTS, PARTS[::-1]])
def test_parts_that_share_a_group(place: Path | str, complete: Path, order: list) -> None:
    """Whichever ends last moves the marks of both."""
    for part in order:
        made.extract_into(place, part)
    assert files_at(place) == made.files_of(complete)


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=[pytest.mark.long, pytest.mark.slow])])
def test_parts_at_the_same_time(place: Path | str, complete: Path, rounds: int) -> None:
    whole = made.files_of(complete)
    for number in range(rounds):
        there = place / str(number) if isinstance(place, Path) else f"{place}/{number}"
        made.extract_into(there, (1, 4))
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda part, there=there: made.fill(opened(there), part=part), [(2, 4), (3, 4), (4, 4)]))
        assert files_at(there) == whole, number


def test_a_part_redoes_a_shard_of_a_shared_manifest(place: Path | str, complete: Path) -> None:
    stream = made.extract_into(place)
    with stream.writer_lock((2, 2)):
        stream.forget([2])
        assert stream.missing_shards() == [2]
        with opened(place).writer_lock((1, 2)):
            pass
        assert names(stream)[0] == "manifest-00000.jsonl"
        made.fill(stream)
    assert files_at(place) == made.files_of(complete)


def test_moving_is_one_writer_s_at_a_time(s3_url: str, complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other waits; where that takes too long, the marks stay where they are, and the next command moves them."""
    monkeypatch.setattr("cache.writing.store_place.MOVING_S", 0.1)
    monkeypatch.setattr("cache.writing.store_place.POLL_S", 0.05)
    stream = made.extract_into(s3_url, (1, 2))
    with stream.writer_lock((1, 2)), stream._writer._place.moving():
        made.extract_into(s3_url, (2, 2))
        assert names(stream) == ["00000000.mark", "00000001.mark", "00000002.mark", "manifest-00001.jsonl"]
        other = opened(s3_url)
        with other.writer_lock((2, 2)), pytest.raises(BeingWritten, match=f"is being written by process {os.getpid()}"):
            other.forget([2])
        assert other.is_complete
    with opened(s3_url).writer_lock():
        pass
    assert objects_of(s3_url) == made.files_of(complete)


def test_a_mover_that_stood_still_moves_no_more(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another took its claim over meanwhile: no manifest is written over the other's."""
    made.extract_into(s3_url, (1, 2))
    stream = opened(s3_url)
    put, written = ObjectStorage.put, []

    def stood_still(self: ObjectStorage, key: str, data: bytes) -> None:
        if key == "face_digest/c/0/0":
            held = stream._writer._place._files.below("embedding/moving")
            claim = next(iter(held.keys(claims.CLAIMS)))
            put(held, claim, b"another's")
            for thread_claim in claims_of(stream):
                thread_claim._written_s -= claims.EXPIRY_S
        written.append(key)
        put(self, key, data)

    held_claims: list[claims.Claim] = []
    start = claims.Claim.start
    monkeypatch.setattr(claims.Claim, "start", lambda self: (held_claims.append(self), start(self))[1])

    def claims_of(stream: Stream) -> list[claims.Claim]:
        return held_claims[1:]

    monkeypatch.setattr(ObjectStorage, "put", stood_still)
    made.fill(stream, [2], (2, 2))
    assert "face_digest/c/0/0" in written
    assert "embedding/marks/manifest-00000.jsonl" not in written
    assert names(stream)[:3] == ["00000000.mark", "00000001.mark", "00000002.mark"]


# Killed


def check_killed(action: str, place: Path | str, numbers: tuple[int, int, int], whole: dict[str, bytes]) -> None:
    found = json.loads(program(killed_moves.main, action, place, *numbers))
    assert len(found) > 2
    for number in found:
        there = f"{place}/{number}.zarr"
        assert files_at(Path(there) if isinstance(place, Path) else there) == whole, f"killed before {number}"


@NEEDS_FORK
@pytest.mark.parametrize("action", ["part", "repair"])
def test_killed_while_marks_move(tmp_path: Path, complete: Path, action: str) -> None:
    check_killed(action, tmp_path, (3, 17, 1000), made.files_of(complete))


@pytest.mark.long
@pytest.mark.slow
@NEEDS_FORK
@pytest.mark.parametrize("action", ["part", "repair"])
@pytest.mark.parametrize("first", range(1, 11))
def test_killed_before_every_change_while_marks_move(
    place: Path | str, complete: Path, first: int, action: str
) -> None:
    there = place.parent if isinstance(place, Path) else place
    check_killed(action, there, (first, 10, 1000), made.files_of(complete))


# What it costs


def test_requests_of_opening(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One per group, and few besides; none per shard."""
    identity = made.make_identity(made.make_frames(60), width=3)
    stream = Cache.open(s3_url, create=True).create("expr", identity, 1, {})
    with stream.writer_lock():
        for shard in range(stream.num_shards):
            stream.write_shard(shard, made.embeddings_of(shard, shard + 1, 3), made.digests_of(shard, shard + 1), {})
    ask, asked = ObjectStorage._ask, []
    monkeypatch.setattr(
        ObjectStorage,
        "_ask",
        lambda self, key, *words, **options: asked.append(key) or ask(self, key, *words, **options),
    )
    found = Cache.open(s3_url, read_only=True).stream("expr")
    num_opening = len(asked)
    assert found.is_complete
    assert found.valid().all()
    assert num_opening < 16
    assert len(asked) - num_opening == 2 * (1 + stream.layout.num_groups)
