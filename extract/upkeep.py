"""Finished shards that have to be made again: files lost or cut short, and failed faces that were put right.

Needs no torch. What only a look at every byte shows, `mtl cache verify` finds.
"""

from pathlib import Path
from typing import Protocol

from cache.damage import Lost, lost_by_size
from cache.frames_file import Column, Frames
from cache.locks import Part, part_of
from cache.marks import Mark
from cache.stream import Stream
from extract.faces.source import FaceSource


class Digests(Protocol):
    """Where the files are that rows were made of."""

    def digest(self, path: str) -> bytes | None:
        """[16]; None where there is no file."""


def forget_bad(stream: Stream, part: Part, paths: Column | None, source: Digests) -> int:
    """Unmarks, within `part`, shards that lost a file or hold a failed row whose file, of those in `paths` [N], was put
    right; `paths` is None where the files are not there. The number of the former."""
    lost = lost_by_size(stream, part)
    if lost.shards:
        stream.forget(lost.shards)
    stream.rewrite_groups(lost.groups)
    repaired = [] if paths is None else repaired_shards(stream, part, paths, source)
    if repaired:
        stream.forget(repaired)
    return len(lost.shards)


def repaired_shards(stream: Stream, part: Part, paths: Column, source: Digests) -> list[int]:
    """Shards of `part`, none damaged, with a failed row whose file, of those in `paths` [N], has changed since: it is
    like any other now."""
    seen, own = stream.look(part), set(part_of(part, stream.num_shards))
    done = sorted(own.intersection(seen.done()))
    found = zip(done, stream.read_marks(done, seen), strict=True)
    return [shard for shard, mark in found if _is_repaired(stream, shard, mark, paths, source)]


def is_settled(stream: Stream, part: Part, frames: Frames, faces: Path, source: FaceSource) -> bool:
    """Whether an extraction of `part` would find nothing to do."""
    if not stream.is_settled(part) or lost_by_size(stream, part) != Lost(shards=[], groups=[]):
        return False
    return not faces.is_dir() or not repaired_shards(stream, part, frames["path"], source)


def _is_repaired(stream: Stream, shard: int, mark: Mark, paths: Column, source: Digests) -> bool:
    failed, start = mark.failed, mark.rows[0]
    if not failed:
        return False
    kept = stream.shard_face_digests(shard)
    num_bytes = kept.shape[1]
    return any(
        (source.digest(paths[row]) or bytes(num_bytes))[:num_bytes] != kept[row - start].tobytes() for row in failed
    )
