"""Verification: every kind of damage is found and named, repair unmarks just the damaged shards."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache import marks, shards
from cache.identity import bytes_digest
from cache.store import Cache
from cache.stream import Stream
from cache.summary import describe, summarise
from cache.verify import Damage, num_rows_to_check, repair, verify, verify_named
from helpers import made_stream as made

REPAIR = "`mtl cache verify expr --repair`, then `mtl extract --backbone expr`"


def ignore(count: int) -> None:
    """Stands for a progress bar."""


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_early(path: Path) -> None:
    """In the rows themselves, of whichever array."""
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


def digests_in(folder: Path) -> Callable[[Sequence[str]], Iterator[bytes | None]]:
    """What `verify` asks for the faces of `folder`, all of them plain files."""

    def of(paths: Sequence[str]) -> Iterator[bytes | None]:
        for path in paths:
            yield bytes_digest((folder / path).read_bytes()) if (folder / path).exists() else None

    return of


def kinds(damages: list[Damage]) -> list[tuple]:
    return [(each.kind, each.shard, each.row) for each in damages]


def test_a_whole_stream_has_no_damage(stream: Stream, cache: Cache, frames: pl.DataFrame, faces: Path) -> None:
    counted: list[int] = []
    assert verify(stream, frames, digests_in(faces), counted.append) == []
    assert sum(counted) == num_rows_to_check(cache, "expr", "base", with_faces=True) == 2 * stream.num_rows


@pytest.mark.parametrize(
    ("name", "shard", "wanted"),
    [
        ("embedding", 2, [("shard", 2, None)]),
        ("face_digest", 1, [("shard", 3, None)]),
        ("state", 1, [("group", None, None)]),
    ],
)
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip_early, "has changed since extraction"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:9]), "bytes long, not|has changed since extraction"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "has changed since extraction"),
    ],
)
def test_damaged_shards(
    stream: Stream,
    frames: pl.DataFrame,
    faces: Path,
    name: str,
    shard: int,
    wanted: list,
    harm: Callable[[Path], None],
    said: str,
) -> None:
    """The second group of the small arrays is that of the last shard alone."""
    harm(stream.folder / shards.shard_file(name, shard))
    found = [each for each in verify(stream, frames, digests_in(faces), ignore) if each.kind != "face"]
    assert kinds(found) == wanted
    assert re.search(said, found[0].what)
    assert found[0].remedy == REPAIR


def test_one_bit_of_face_digests_costs_one_shard(stream: Stream, frames: pl.DataFrame, faces: Path) -> None:
    path = stream.folder / shards.shard_file("face_digest", 0)
    data = bytearray(path.read_bytes())
    data[8 * 45] ^= 1
    path.write_bytes(data)
    found = verify(stream, frames, digests_in(faces), ignore)
    assert kinds(found) == [("shard", 1, None)]
    assert "face_digest/c/0/0 has changed since extraction (rows 40 to 79)" in found[0].what
    assert repair(stream, found) == [1]
    made.fill(stream)
    assert verify(stream, frames, digests_in(faces), ignore) == []


@pytest.mark.parametrize("name", ["face_digest/c/0/0", "state/c/0"])
def test_every_bit_beside_a_manifest_counts(stream: Stream, name: str) -> None:
    """Padding and index too; what marks can tell is written anew, and no shard is redone for it."""
    before, path = made.files_of(stream.folder), stream.folder / name
    data = path.read_bytes()
    for position in range(0, len(data), 13):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        found = verify(stream, None, None, ignore)
        assert len(found) == 1
    assert (found[0].kind, found[0].group) == ("group", 0)
    assert repair(stream, found) == []
    assert made.files_of(stream.folder) == before


def test_every_bit_of_a_shard_counts(stream: Stream) -> None:
    path = stream.folder / shards.shard_file("embedding", 1)
    data = path.read_bytes()
    for position in range(0, len(data), 37):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert kinds(verify(stream, None, None, ignore)) == [("shard", 1, None)]


def test_shards_not_done_and_damaged_marks(stream: Stream) -> None:
    stream.forget([0])
    (stream.folder / marks.mark_key(3)).write_bytes(b"{")
    incomplete, mark = verify(stream, None, None, ignore)
    assert (incomplete.kind, incomplete.shard) == ("incomplete", 0)
    assert incomplete.what == "rows 0 to 39 are not extracted yet"
    assert incomplete.remedy == "`mtl extract --backbone expr`"
    assert (mark.kind, mark.shard, mark.remedy) == ("mark", 3, REPAIR)


def test_changed_faces(stream: Stream, frames: pl.DataFrame, faces: Path) -> None:
    paths = frames["path"]
    (faces / paths[5]).write_bytes(b"another face")
    (faces / paths[60]).unlink()
    (faces / paths[61]).write_bytes((faces / paths[61]).read_bytes()[:-1])
    (faces / paths[130]).write_bytes(b"")
    found = verify(stream, frames, digests_in(faces), ignore)
    assert kinds(found) == [("face", 0, 5), ("face", 1, 60), ("face", 1, 61), ("face", 3, 130)]
    assert found[0].what == f"face {paths[5]} has changed since extraction"
    assert found[1].what == f"face {paths[60]} is missing or cannot be read"
    assert all(each.remedy == REPAIR for each in found)
    assert repair(stream, found) == [0, 1, 3]
    assert stream.missing_shards() == [0, 1, 3]


def test_a_face_that_was_missing_and_still_is(stream: Stream, frames: pl.DataFrame, faces: Path) -> None:
    start, stop = stream.rows(1)
    digests = made.digests_of(start, stop)
    digests[2] = 0
    stream.write_shard(1, made.embeddings_of(start, stop), digests, {2: "no such file"})
    path = faces / frames["path"][start + 2]
    found = verify(stream, frames, digests_in(faces), ignore)
    assert [each.what for each in found] == [f"face {frames['path'][42]} could not be read at extraction and now can"]
    path.unlink()
    assert verify(stream, frames, digests_in(faces), ignore) == []


def test_two_frames_with_equal_pixels(stream: Stream, frames: pl.DataFrame, faces: Path) -> None:
    """Rows go by frame, not by content: changing one of two equal faces concerns its own row alone."""
    paths = frames["path"]
    for row in (10, 11):
        (faces / paths[row]).write_bytes(b"the same face")
    start, stop = stream.rows(0)
    digests, embeddings = made.digests_of(start, stop), made.embeddings_of(start, stop)
    digests[[10, 11]] = np.frombuffer(bytes_digest(b"the same face"), np.uint8)
    embeddings[11] = embeddings[10]
    stream.write_shard(0, embeddings, digests, {})
    assert verify(stream, frames, digests_in(faces), ignore) == []
    (faces / paths[11]).write_bytes(b"another face")
    assert kinds(verify(stream, frames, digests_in(faces), ignore)) == [("face", 0, 11)]


def test_another_frames_table(stream: Stream, faces: Path) -> None:
    found = verify(stream, made.make_frames(149), digests_in(faces), ignore)
    assert kinds(found) == [("frames", None, None)]
    assert "150 frames, the table has 149" in found[0].what
    assert found[0].remedy.startswith("`mtl cache rm expr`")


@pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json"])
def test_damaged_metadata(stream: Stream, cache: Cache, name: str) -> None:
    (stream.folder / name).write_bytes(b"{")
    (found,) = verify_named(cache, "expr", "base", None, None, ignore)
    assert found.kind == "metadata"
    assert found.remedy == "`mtl cache rm expr`, then `mtl extract --backbone expr`"
    assert num_rows_to_check(cache, "expr", "base", with_faces=True) == 0


def test_a_newer_format_is_not_to_be_removed(stream: Stream, cache: Cache) -> None:
    path = stream.folder / "zarr.json"
    document = json.loads(path.read_bytes())
    document["attributes"]["schema"] = 9
    path.write_text(json.dumps(document))
    (found,) = verify_named(cache, "expr", "base", None, None, ignore)
    assert found.remedy == "update mtl"


def test_repair_redoes_just_the_damaged_shards(stream: Stream) -> None:
    before = made.files_of(stream.folder)
    flip(stream.folder / shards.shard_file("embedding", 1))
    (stream.folder / shards.shard_file("embedding", 3)).unlink()
    kept = (stream.folder / shards.shard_file("embedding", 0)).stat().st_mtime_ns
    found = verify(stream, None, None, ignore)
    assert made.files_of(stream.folder) != before
    assert repair(stream, found) == [1, 3]
    assert stream.missing_shards() == [1, 3]
    made.fill(stream)
    assert made.files_of(stream.folder) == before
    assert (stream.folder / shards.shard_file("embedding", 0)).stat().st_mtime_ns == kept
    assert verify(stream, None, None, ignore) == []


def test_summary(stream: Stream, cache: Cache, frames: pl.DataFrame) -> None:
    stream.forget([0])
    (whole,) = summarise(cache, frames)
    assert (whole.num_rows, whole.num_done, whole.num_failed, whole.width) == (150, 110, 2, made.WIDTH)
    assert whole.coverage == {"train": (59, 100), "val": (49, 50)}
    assert whole.num_bytes > 150 * made.WIDTH * 2
    (other,) = summarise(cache, made.make_frames(10))
    assert other.coverage is None


def test_summary_of_a_damaged_stream(stream: Stream, cache: Cache) -> None:
    (stream.folder / "zarr.json").unlink()
    (found,) = summarise(cache, None)
    assert "damaged metadata" in found.fault


def test_describe_is_json(stream: Stream) -> None:
    found = json.loads(json.dumps(describe(stream)))
    assert found["identity"] == stream.identity.to_json()
    assert found["provenance"] == stream.provenance
    assert found["failed"] == {str(row): reason for row, reason in made.FAILED.items()}
    assert found["num_done"] == found["num_rows"] == made.NUM_ROWS
