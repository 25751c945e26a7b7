"""What is wrong with the files of a stream: by their sizes, quick enough for every extraction, or by every byte.

Nothing is changed here. Letters: R rows of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cache import shards
from cache.locks import Part, part_of
from cache.manifests.groups import decode_digests, digests_key, encode_digests, encode_states, num_bytes, states_key
from cache.manifests.manifest import Manifest, encode_manifest, manifest_key
from cache.marks import KEPT_DIGEST_BYTES, faces_digest
from cache.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """`shards` that have to be made again; `groups` of which only what their marks tell is lost."""

    shards: list[int]
    groups: list[int]


def lost_by_size(stream: Stream, part: Part) -> Lost:
    """Of the shards of `part` that are done: those whose mark is damaged, or whose files are missing or of another size
    than they should be."""
    seen, own, layout = stream.look(part), part_of(part, stream.num_shards), stream.layout
    size = stream.files.sizes(f"{name}/{shards.CHUNKS}" for name in shards.ARRAYS)
    done = sorted(set(own).intersection(seen.done()))
    lost, groups = set(), []
    for shard, mark in zip(done, stream.try_marks(done, seen), strict=True):
        key = shards.shard_file(shards.EMBEDDING, shard)
        if isinstance(mark, ValueError) or mark.file.size_fault(size(key)):
            lost.add(shard)
    for group in sorted(seen.manifests):
        if size(digests_key(group)) != num_bytes(shards.FACE_DIGEST, layout, group):
            lost |= seen.manifests[group].marks.keys() & set(own) - seen.single
        if size(states_key(group)) != num_bytes(shards.STATE, layout, group):
            groups.append(group)
    return Lost(shards=sorted(lost), groups=groups)


def group_faults(stream: Stream, group: int, manifest: Manifest, moved: set[int]) -> Iterator[tuple[int | None, str]]:
    """What is wrong with face digests and states of a group, by every byte: for each of the shards that have `moved`
    into the `manifest` and whose digests are damaged, it and the fault; else None and what its marks can tell anew."""
    layout, key = stream.layout, digests_key(group)
    first, end = layout.rows_of_group(group)
    data, states, lines = stream.files.get_many([key, states_key(group), manifest_key(group)])
    rows = np.zeros((end - first, KEPT_DIGEST_BYTES), np.uint8)
    is_whole = True
    for shard in sorted(moved & manifest.marks.keys()):
        start, stop = layout.rows(shard)
        found = decode_digests(data, layout, group, start, stop)
        if found is None or faces_digest(found) != manifest.marks[shard].faces:
            is_whole = False
            what = _fault(data, f"has changed since extraction (rows {start} to {stop - 1})")
            yield shard, f"{stream.files.name(key)} {what}"
        else:
            rows[start - first : stop - first] = found
    if len(moved & manifest.marks.keys()) < len(layout.group(group)):
        return  # both files are as they were when the group was whole, or not there yet
    if is_whole and data != encode_digests(rows, layout):
        yield None, f"{stream.files.name(key)} {_fault(data, 'has changed since extraction')}"
    if lines != encode_manifest(manifest.marks, layout, group):
        what = "has lines that are not the shards' in their order"
        yield None, f"{stream.files.name(manifest_key(group))} {_fault(lines, what)}"
    if states != encode_states(manifest.marks, layout, group):
        yield None, f"{stream.files.name(states_key(group))} {_fault(states, 'has changed since extraction')}"


def _fault(data: bytes | None, what: str) -> str:
    return "is missing" if data is None else what
