"""Finding damage: shards against the digests in their marks, faces against the digests kept beside their embeddings.

Nothing is changed but by `repair`. Letters: N frames, R rows of a shard.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cache import shards
from cache.damage import group_faults
from cache.frames import Frames, frames_digest
from cache.frames_file import Column
from cache.identity import SOUND
from cache.marks import KEPT_DIGEST_BYTES, Mark
from cache.store import Cache
from cache.stream import Stream

ProblemKind = Literal["metadata", "frames", "incomplete", "mark", "shard", "group", "face"]
Advance = Callable[[int], None]
# The digests of faces as they are now, in the order of their paths; None where there is no face to be had.
FaceDigests = Callable[[Sequence[str]], Iterable[bytes | None]]
NO_FACE = bytes(KEPT_DIGEST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is wrong: `what` in a line, `remedy` what to type.

    `shard` is the damaged shard, None for the stream as a whole; `row` the row whose face has changed; `group` that of
    the shards whose states or face digests are to be written anew, which needs no extraction.
    """

    stream: str
    view: str
    kind: ProblemKind
    what: str
    remedy: str
    shard: int | None = None
    row: int | None = None
    group: int | None = None

    @property
    def is_repairable(self) -> bool:
        """Whether `repair` gives it up or mends it: not what is not extracted yet, nor a stream as a whole."""
        return self.kind != "incomplete" and (self.shard is not None or self.group is not None)


def verify_named(
    cache: Cache,
    name: str,
    view: str,
    frames: Frames | None,
    faces: FaceDigests | None,
    advance: Advance,
    sounds: FaceDigests | None = None,
) -> list[Damage]:
    """`verify` of one stream of `cache`; metadata too damaged for it to open are a damage of their own."""
    try:
        stream = cache.stream(name, view)
    except ValueError as error:
        what, remedy = _what_and_remedy(error)
        return [Damage(stream=name, view=view, kind="metadata", what=what, remedy=remedy)]
    return verify(stream, frames, faces, advance, sounds)


def verify(
    stream: Stream,
    frames: Frames | None,
    faces: FaceDigests | None,
    advance: Advance,
    sounds: FaceDigests | None = None,
) -> list[Damage]:
    """All damage of `stream`.

    Args:
        stream: read, never changed.
        frames: [N rows] the frames table, or None to leave it unchecked.
        faces: asked for the digests of a shard's faces at a time, None to leave the faces unchecked; needs `frames`.
        sounds: as `faces`, of a stream of sound, asked for videos instead of paths.
        advance: called with numbers of rows: N for the shards and, where they are checked, N for the faces.
    """
    found = _check_shards(stream, advance)
    if frames is None:
        return found
    if frames_digest(frames) != stream.identity.frames:
        what = f"made for another frame list ({stream.num_rows} frames, the table has {len(frames)})"
        return [*found, _damage(stream, "frames", what, stream.remake_hint)]
    what, digests = "face", faces if stream.identity.sees_faces else None
    if stream.identity.pooling == SOUND:
        what, digests = "video", sounds
    if digests is None:
        advance(0 if faces is None else stream.num_rows)
        return found
    return found + _check_files(stream, frames["path" if what == "face" else "video"], what, digests, advance)


def repair(stream: Stream, damages: Iterable[Damage]) -> list[int]:
    """Removes the marks of the damaged shards of `stream`, so that the next extraction redoes just these, and writes
    anew what marks tell.

    Returns:
        The shards whose marks it removed.
    """
    mine = [each for each in damages if (each.stream, each.view) == (stream.name, stream.view)]
    done = set(stream.done_shards())
    damaged = sorted({each.shard for each in mine if each.shard is not None and each.shard in done})
    groups = sorted({each.group for each in mine if each.group is not None})
    if damaged or groups:
        with stream.writer_lock():
            stream.forget(damaged)
            stream.rewrite_groups(groups)
    return damaged


def num_rows_to_check(cache: Cache, name: str, view: str, with_faces: bool) -> int:
    """What `advance` counts up to; 0 where the stream cannot be opened."""
    try:
        return cache.stream(name, view).num_rows * (2 if with_faces else 1)
    except ValueError:
        return 0


def _check_shards(stream: Stream, advance: Advance) -> list[Damage]:
    found, seen = [], stream.look()
    done = seen.done()
    marks = dict(zip(done, stream.try_marks(done, seen), strict=True))

    def check(shard: int) -> list[Damage]:
        return _check_shard(stream, shard, marks.get(shard))

    for shard, damages in enumerate(stream.in_parallel(check, range(stream.num_shards))):
        found += damages
        start, stop = stream.rows(shard)
        advance(stop - start)
    for group, manifest in sorted(seen.manifests.items()):
        moved = set(stream.layout.group(group)) - seen.single
        for lost, what in group_faults(stream, group, manifest, moved):
            if lost is None:
                found.append(_damage(stream, "group", what, stream.repair_hint, group=group))
            else:
                found.append(_damage(stream, "shard", what, stream.repair_hint, lost))
    return found


def _check_shard(stream: Stream, shard: int, mark: Mark | ValueError | None) -> list[Damage]:
    if mark is None:
        start, stop = stream.rows(shard)
        what = f"rows {start} to {stop - 1} are not extracted yet"
        return [_damage(stream, "incomplete", what, stream.extract_hint, shard)]
    if isinstance(mark, ValueError):
        return [_damage(stream, "mark", str(mark), stream.repair_hint, shard)]
    key = shards.shard_file(shards.EMBEDDING, shard)
    fault = mark.file.fault(stream.files, key)
    return [_damage(stream, "shard", f"{stream.files.name(key)} {fault}", stream.repair_hint, shard)] if fault else []


def _check_files(stream: Stream, paths: Column, what: str, digests: FaceDigests, advance: Advance) -> list[Damage]:
    """The files `paths` [N] that the rows of the shards that are done were made of, each of a shard once."""
    found: dict[tuple[int, str], Damage] = {}
    for shard in stream.done_shards():
        start, stop = stream.rows(shard)
        try:
            kept = stream.shard_face_digests(shard)
        except ValueError:  # `_check_shards` has said so
            continue
        for row, digest in enumerate(digests(paths[start:stop].to_list()), start):
            fault = _file_fault(kept[row - start].tobytes(), _as_kept(digest))
            if fault:
                words = f"{what} {paths[row]} {fault}"
                found.setdefault((shard, paths[row]), _damage(stream, "face", words, stream.repair_hint, shard, row))
        advance(stop - start)
    return list(found.values())


def _as_kept(digest: bytes | None) -> bytes:
    """[8] as a stream keeps it; NO_FACE where there is none, which extraction stores too."""
    return NO_FACE if digest is None else digest[:KEPT_DIGEST_BYTES]


def _file_fault(kept: bytes, now: bytes) -> str | None:
    if kept == now:
        return None
    if now == NO_FACE:
        return "is missing or cannot be read"
    return "could not be read at extraction and now can" if kept == NO_FACE else "has changed since extraction"


def _what_and_remedy(error: ValueError) -> tuple[str, str]:
    """The two parts of "what; type what to do"."""
    what, _, remedy = str(error).rpartition("; ")
    return what, remedy.removeprefix("type ")


def _damage(
    stream: Stream,
    kind: ProblemKind,
    what: str,
    remedy: str,
    shard: int | None = None,
    row: int | None = None,
    group: int | None = None,
) -> Damage:
    return Damage(
        stream=stream.name,
        view=stream.view,
        kind=kind,
        what=what,
        remedy=remedy,
        shard=shard,
        row=row,
        group=group,
    )
