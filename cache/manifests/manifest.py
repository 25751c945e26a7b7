"""The manifest of a group: the marks of its shards, a line each in their order.

A shard of the group that is not done has a line too, which says just that, so every line belongs to one shard and a
damaged one costs no other. Face digests and states of the group's rows lie beside it, each array in one file.

A mark moves in this order: digests, states, manifest, and only when these are durable is its own file deleted. So at
any moment it is in one place or in both, and then the same. Whoever looks reads the names of single marks first and
the manifests after that, each by its name: a listing is a view of some moment, and a mark that had moved before it was
taken is in a manifest by then.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cache.manifests.groups import decode_digests, digests_key
from cache.marks import MARKS, Mark, faces_digest, mark_key, open_line, sealed_line, single_marks
from cache.shards import Layout
from cache.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Manifest:
    """Marks by shard, and the shards whose lines are damaged."""

    marks: dict[int, Mark] = field(default_factory=dict)
    damaged: frozenset[int] = frozenset()


NONE = Manifest()


@dataclass(frozen=True, slots=True)
class Found:
    """The marks of a stream at a moment: `single` shards have theirs in a file of its own, `manifests` are by group.
    Where a mark is in both, the single one counts."""

    single: frozenset[int]
    manifests: Mapping[int, Manifest]

    def done(self) -> list[int]:
        """Shards with a mark, in order, also with a damaged one."""
        found = set(self.single)
        for each in self.manifests.values():
            found |= each.marks.keys() | each.damaged
        return sorted(found)

    def is_complete(self, layout: Layout, group: int) -> bool:
        """Whether every shard of the group has a mark."""
        manifest = self.manifests.get(group, NONE)
        return all(shard in self.single or shard in manifest.marks for shard in layout.group(group))

    def unmoved(self, layout: Layout, groups: Iterable[int]) -> list[int]:
        """Those of `groups` whose marks can move into the manifest."""
        waiting = {layout.group_of(shard) for shard in self.single}
        return [group for group in groups if group in waiting and self.is_complete(layout, group)]


class Marks:
    """The marks of the stream in `files`; what was parsed is kept while its bytes are the same."""

    def __init__(self, files: Storage, layout: Layout) -> None:
        self._files, self._layout = files, layout
        self._kept: dict[int, tuple[bytes, Manifest]] = {}
        self._digests: tuple[int, bytes | None] = (-1, None)  # of the group that was asked for last

    def look(self, groups: Sequence[int] | None = None) -> Found:
        """All marks there are now, or of the manifests those of some `groups`."""
        single = single_marks(self._files)
        return Found(frozenset(shard for shard in single if shard < self._layout.num_shards), self.manifests(groups))

    def manifests(self, groups: Sequence[int] | None = None) -> dict[int, Manifest]:
        """The manifests there are now, by group."""
        wanted = range(self._layout.num_groups) if groups is None else groups
        data = self._files.get_many([manifest_key(group) for group in wanted])
        return {
            group: self._parsed(group, found) for group, found in zip(wanted, data, strict=True) if found is not None
        }

    def read(self, shard_numbers: Sequence[int], found: Found | None = None) -> Iterator[Mark]:
        """The mark of each of some shards, in order, of a look just taken or of one taken here; of an object store,
        several are read at once. Raises ValueError where one is missing or damaged; says which."""
        for each in self.try_read(shard_numbers, self.look() if found is None else found):
            if isinstance(each, ValueError):
                raise each
            yield each

    def try_read(self, shard_numbers: Sequence[int], found: Found) -> Iterator[Mark | ValueError]:
        """As `read`, with the error in the place of a mark that is missing or damaged."""
        data = self._files.get_many([mark_key(shard) for shard in shard_numbers if shard in found.single])
        for shard in shard_numbers:
            single = next(data) if shard in found.single else None
            try:
                if single is not None:
                    yield self._parsed_single(shard, single)[0]
                elif shard in found.single:  # it has moved since
                    yield self._of_manifest(shard, self.manifests([self._layout.group_of(shard)]))
                else:
                    yield self._of_manifest(shard, found.manifests)
            except ValueError as error:
                yield error

    def one(self, shard: int, anew: bool = False) -> Mark:
        """A shard's mark; that of a manifest as it was when last read, or `anew`. Raises as `read`."""
        group = self._layout.group_of(shard)
        _, manifest = self._kept.get(group, (b"", NONE))
        if shard in manifest.marks and not anew:
            return manifest.marks[shard]
        found = self._single(shard)
        return self._of_manifest(shard, self.manifests([group])) if found is None else found[0]

    def forget(self) -> None:
        """What was read is no longer so."""
        self._kept.clear()
        self._digests = -1, None

    def face_digests(self, shard: int) -> np.ndarray:
        """[R, 8] uint8 of a shard that is done. Raises ValueError where they, or its mark, are damaged or not there.

        What was read last is asked first: the group's file is that of all its shards.
        """
        group, (start, stop) = self._layout.group_of(shard), self._layout.rows(shard)
        _, manifest = self._kept.get(group, (b"", NONE))
        mark, key = manifest.marks.get(shard), digests_key(group)
        for is_kept in (True, False):
            if not is_kept:
                found = self._single(shard)
                if found is not None:
                    return found[1]
                mark = self._of_manifest(shard, self.manifests([group]))
            if mark is not None:
                if self._digests[0] != group or not is_kept:
                    self._digests = group, next(self._files.get_many([key]))
                rows = decode_digests(self._digests[1], self._layout, group, start, stop)
                if rows is not None and faces_digest(rows) == mark.faces:
                    return rows
        what = "is missing" if self._digests[1] is None else f"rows {start} to {stop - 1} have changed since extraction"
        raise ValueError(f"{self._files.name(key)}: {what}")

    def _single(self, shard: int) -> tuple[Mark, np.ndarray] | None:
        """The shard's own mark with its face digests; None where there is none."""
        data = next(self._files.get_many([mark_key(shard)]))
        return None if data is None else self._parsed_single(shard, data)

    def _parsed_single(self, shard: int, data: bytes) -> tuple[Mark, np.ndarray]:
        where = self._files.name(mark_key(shard))
        try:
            found = Mark.from_file(data)
        except ValueError:
            raise ValueError(f"{where}: the shard's mark is damaged") from None
        if found[0].rows != self._layout.rows(shard):
            raise ValueError(f"{where}: the mark is of another shard")
        return found

    def _of_manifest(self, shard: int, manifests: Mapping[int, Manifest]) -> Mark:
        manifest = manifests.get(self._layout.group_of(shard), NONE)
        if shard in manifest.marks:
            return manifest.marks[shard]
        if shard in manifest.damaged:
            where = self._files.name(manifest_key(self._layout.group_of(shard)))
            raise ValueError(f"{where}: the mark of shard {shard} is damaged")
        raise ValueError(f"{self._files.name(mark_key(shard))}: the shard has no mark")

    def _parsed(self, group: int, data: bytes) -> Manifest:
        kept, manifest = self._kept.get(group, (None, NONE))
        if kept != data:
            manifest = parse_manifest(data, self._layout, group)
            self._kept[group] = data, manifest
        return manifest


def manifest_key(group: int) -> str:
    """The key of a group's manifest below its stream."""
    return f"{MARKS}/manifest-{group:05d}.jsonl"


def encode_manifest(marks: Mapping[int, Mark], layout: Layout, group: int) -> bytes:
    """The manifest of a group of which `marks` are there."""
    lines = (
        marks[shard].to_line() if shard in marks else sealed_line({"rows": layout.rows(shard)})
        for shard in layout.group(group)
    )
    return b"".join(line + b"\n" for line in lines)


def parse_manifest(data: bytes, layout: Layout, group: int) -> Manifest:
    """What the bytes of a group's manifest say; a shard of which no line tells, or several tell different things, is
    damaged. Verification finds other lines."""
    shard_of = {layout.rows(shard): shard for shard in layout.group(group)}
    told: dict[int, Mark | None] = {}
    torn: set[int] = set()
    for line in data.split(b"\n"):
        try:
            document = open_line(line)
            shard = shard_of[tuple(document["rows"])]
            mark = Mark.from_document(document) if len(document) > 1 else None
        except (ValueError, KeyError, TypeError):
            continue
        if told.setdefault(shard, mark) != mark:
            torn.add(shard)
    marks = {shard: mark for shard, mark in told.items() if mark is not None and shard not in torn}
    return Manifest(marks, frozenset(layout.group(group)) - told.keys() | torn)
