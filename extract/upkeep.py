"""Finished shards that have to be made again: files lost or cut short, and failed faces that were put right.

Needs no torch. What only a look at every byte shows, `mtl cache verify` finds.
"""

from pathlib import Path
from typing import Protocol

from cache.frames_file import Column, Frames
from cache.locks import Part, part_of
from cache.marks import Mark
from cache.stream import Stream
from extract.faces.source import FaceSource


class Digests(Protocol):
    """Where the files are that rows were made of."""

    def digest(self, path: str) -> bytes | None:
        """[16]; None where there is no file."""


def damaged_shards(stream: Stream, part: Part) -> list[int]:
    """Shards of `part` whose files are missing or of another size than their mark says, or whose mark is damaged."""
    return stream.damaged_by_size(_done(stream, part))


def repaired_shards(stream: Stream, part: Part, paths: Column, source: Digests) -> list[int]:
    """Shards of `part`, none damaged, with a failed row whose file, of those in `paths` [N], has changed since: it is
    like any other now."""
    done = _done(stream, part)
    found = zip(done, stream.read_marks(done), strict=True)
    return [shard for shard, mark in found if _is_repaired(stream, shard, mark, paths, source)]


def is_settled(stream: Stream, part: Part, frames: Frames, faces: Path, source: FaceSource) -> bool:
    """Whether an extraction of `part` would find nothing to do."""
    if set(part_of(part, stream.num_shards)).intersection(stream.missing_shards()) or damaged_shards(stream, part):
        return False
    return not faces.is_dir() or not repaired_shards(stream, part, frames["path"], source)


def _done(stream: Stream, part: Part) -> list[int]:
    own = part_of(part, stream.num_shards)
    return [shard for shard in stream.done_shards() if shard in own]


def _is_repaired(stream: Stream, shard: int, mark: Mark, paths: Column, source: Digests) -> bool:
    failed, start = mark.failed, mark.rows[0]
    if not failed:
        return False
    kept = stream.shard_face_digests(shard)
    num_bytes = kept.shape[1]
    return any(
        (source.digest(paths[row]) or bytes(num_bytes))[:num_bytes] != kept[row - start].tobytes() for row in failed
    )
