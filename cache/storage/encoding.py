"""A whole shard of a Zarr v3 array as bytes: rows, then the index of its inner chunks, then the index's crc32c.

They are those that zarr itself writes, to the byte; an object store gets them in one request.
"""

import google_crc32c
import numpy as np

NO_CHUNK = np.uint64(2**64 - 1)  # what the index has for an inner chunk behind the array's end


def encode_shard(values: np.ndarray, shard_rows: int, inner_rows: int) -> bytes:
    """The shard of `values` [R, ...], at most `shard_rows` of them; the last inner chunk that has any is filled up with
    zeros."""
    num_used, num_chunks = -(-len(values) // inner_rows), shard_rows // inner_rows
    padded = np.zeros((num_used * inner_rows, *values.shape[1:]), values.dtype.newbyteorder("<"))
    padded[: len(values)] = values
    index = np.full((num_chunks, 2), NO_CHUNK, "<u8")
    chunk_bytes = padded.nbytes // num_used
    index[:num_used, 0] = np.arange(num_used) * chunk_bytes
    index[:num_used, 1] = chunk_bytes
    entries = index.tobytes()
    return padded.tobytes() + entries + int(google_crc32c.value(entries)).to_bytes(4, "little")
