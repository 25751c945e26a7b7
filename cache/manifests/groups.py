"""Face digests and states of a group of shards, each array in one file: what moves beside its manifest.

Letters: R rows of a group.
"""

from collections.abc import Mapping

import numpy as np

from cache import shards
from cache.marks import KEPT_DIGEST_BYTES, Mark
from cache.shards import FACE_DIGEST, STATE, Layout, shard_file
from cache.storage.encoding import encode_shard


def digests_key(group: int) -> str:
    return shard_file(FACE_DIGEST, group)


def states_key(group: int) -> str:
    return shard_file(STATE, group)


def num_bytes(name: str, layout: Layout, group: int) -> int:
    """Of the group's file of the array `name`."""
    start, stop = layout.rows_of_group(group)
    inner_rows = shards.inner_rows_of(name, layout.group_rows)
    row_bytes = KEPT_DIGEST_BYTES if name == FACE_DIGEST else 1
    index_bytes = layout.group_rows // inner_rows * shards.INDEX_ENTRY_BYTES + shards.INDEX_CHECKSUM_BYTES
    return -(-(stop - start) // inner_rows) * inner_rows * row_bytes + index_bytes


def encode_digests(face_digests: np.ndarray, layout: Layout) -> bytes:
    """The file of a group's face digests [R, 8]."""
    return _encode(FACE_DIGEST, face_digests, layout)


def decode_digests(data: bytes | None, layout: Layout, group: int, start: int, stop: int) -> np.ndarray | None:
    """[stop - start, 8] of rows [start, stop) of the stream, of the bytes of their group's file; None where they are
    not in it."""
    first = (start - layout.rows_of_group(group)[0]) * KEPT_DIGEST_BYTES
    size = (stop - start) * KEPT_DIGEST_BYTES
    if data is None or len(data) < first + size:
        return None
    return np.frombuffer(data, np.uint8, size, first).reshape(-1, KEPT_DIGEST_BYTES)


def encode_states(marks: Mapping[int, Mark], layout: Layout, group: int) -> bytes:
    """The file of the states of a group of which `marks` are there."""
    first, end = layout.rows_of_group(group)
    states = np.full(end - first, shards.NOT_DONE, np.uint8)
    for mark in marks.values():
        start, stop = mark.rows
        states[start - first : stop - first] = shards.DONE
        states[[row - first for row in mark.failed]] = shards.FAILED
    return _encode(STATE, states, layout)


def _encode(name: str, values: np.ndarray, layout: Layout) -> bytes:
    return encode_shard(values, layout.group_rows, shards.inner_rows_of(name, layout.group_rows))
