"""The Zarr v3 arrays of a stream: embedding [N, D] float16 or float32, face_digest [N, 8] uint8, state [N] uint8.

Embeddings are cut into shards of `shard_rows` rows. A shard is the raw rows, then an index; every Zarr v3 reader reads
it, and it is read here as a plain file where its layout is found to be exactly that. The two small arrays have one
shard for a whole group of embedding shards (`cache.manifests`).

zarr is imported where it is called: its import takes 0.3 s of CPU time, and what lists or reads streams does without.
Letters: N frames, D width, R rows of a shard.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.marks import EMBEDDING, KEPT_DIGEST_BYTES
from cache.storage.base import Storage, StorageError
from cache.storage.folder import FolderStorage

if TYPE_CHECKING:
    import zarr
    from zarr.storage import LocalStore, MemoryStore

FACE_DIGEST, STATE = "face_digest", "state"
ARRAYS = (EMBEDDING, FACE_DIGEST, STATE)
CHUNKS = "c"
# Embedding shards of a group: as many objects as one request lists or deletes.
GROUP_SHARDS = 1000
NOT_DONE, DONE, FAILED = 0, 1, 2
# Rows of an inner chunk at most: what another Zarr reader loads for one row, and what the last shard is padded to.
INNER_ROWS, SMALL_INNER_ROWS = 64, 512
# Read at once, and the fewer calls the better; but from reads of megabytes that find nothing in memory, Linux keeps
# pages of 4 KiB, and reading these costs twice as much, now and ever after; from smaller ones larger and larger pages.
READ_BYTES = 512 << 10
INDEX_ENTRY_BYTES, INDEX_CHECKSUM_BYTES = 16, 4
DTYPES = ("float16", "float32")  # what embeddings may be stored in


@dataclass(frozen=True, slots=True)
class Layout:
    """How the arrays lie on the disk; `inner_rows`, of the embeddings, is None where only zarr can tell. `group_shards`
    embedding shards are a group, the last one may have fewer."""

    num_rows: int
    width: int
    shard_rows: int
    group_shards: int
    inner_rows: int | None
    dtype: str = DTYPES[0]

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.shard_rows)

    @property
    def num_groups(self) -> int:
        return -(-self.num_shards // self.group_shards)

    @property
    def group_rows(self) -> int:
        """Rows of a group, and of a shard of the small arrays."""
        return self.group_shards * self.shard_rows

    def rows(self, shard: int) -> tuple[int, int]:
        """[start, stop) of a shard's rows."""
        assert 0 <= shard < self.num_shards, f"shard {shard} of {self.num_shards}"
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows)

    def group_of(self, shard: int) -> int:
        return shard // self.group_shards

    def groups_of(self, shard_numbers: range) -> range:
        """The groups that have some of neighbouring shards."""
        if not shard_numbers:
            return range(0)
        return range(self.group_of(shard_numbers[0]), self.group_of(shard_numbers[-1]) + 1)

    def group(self, group: int) -> range:
        """The shards of a group."""
        return range(group * self.group_shards, min((group + 1) * self.group_shards, self.num_shards))

    def rows_of_group(self, group: int) -> tuple[int, int]:
        """[start, stop) of a group's rows."""
        return group * self.group_rows, min((group + 1) * self.group_rows, self.num_rows)


def create_arrays(folder: Path, num_rows: int, width: int, shard_rows: int, dtype: str = DTYPES[0]) -> None:
    """Makes the three arrays, without rows, in the group at `folder`."""
    group_rows = max(1, min(GROUP_SHARDS, -(-num_rows // shard_rows))) * shard_rows
    _create(folder / EMBEDDING, (num_rows, width), dtype, shard_rows)
    _create(folder / FACE_DIGEST, (num_rows, KEPT_DIGEST_BYTES), "uint8", group_rows)
    _create(folder / STATE, (num_rows,), "uint8", group_rows)


def inner_rows_of(name: str, shard_rows: int) -> int:
    """Rows of an inner chunk of the array `name`."""
    most = INNER_ROWS if name == EMBEDDING else SMALL_INNER_ROWS
    return max(rows for rows in range(1, min(most, shard_rows) + 1) if shard_rows % rows == 0)


def _create(path: Path, shape: tuple[int, ...], dtype: str, shard_rows: int) -> None:
    import zarr
    from zarr.storage import LocalStore

    inner_rows = inner_rows_of(path.name, shard_rows)
    zarr.create_array(
        LocalStore(path),
        shape=shape,
        dtype=dtype,
        chunks=(inner_rows, *shape[1:]),
        shards=(shard_rows, *shape[1:]),
        compressors=None,
        filters=None,
        fill_value=0,
        zarr_format=3,
    )
    (path / CHUNKS).mkdir()  # so that a shard's writer need not sync the array's folder


def open_for_writing(folder: Path, name: str) -> "zarr.Array[Any]":
    """The array `name`, every chunk of which is written even when it is all zero: a dropped one would leave no file.

    zarr 3.1 ignores `open_array(config=...)`, hence `with_config`.
    """
    import zarr
    from zarr.storage import LocalStore

    return zarr.open_array(LocalStore(folder / name), mode="r+").with_config({"write_empty_chunks": True})


def shard_file(name: str, shard: int) -> str:
    """Path of a shard of the array `name` inside the stream's folder; of the small arrays a shard is a group."""
    return f"{name}/{CHUNKS}/{shard}" if name == STATE else f"{name}/{CHUNKS}/{shard}/0"


def read_layout(files: Storage) -> Layout:
    """The layout of the arrays, from their zarr.json.

    Raises:
        ValueError: the metadata cannot be read, or are not those of [N, D] of `DTYPES` in shards of whole rows and of
            small arrays that lie in groups of these.
    """
    metadata, (num_rows, width), (shard_rows, shard_width) = _read_array(files, EMBEDDING, 2)
    if metadata["data_type"] not in DTYPES or shard_width != width or shard_rows < 1:
        raise ValueError(
            f"{_metadata_of(files, EMBEDDING)}: the array's metadata cannot be read (not [N, D] of "
            f"{' or '.join(DTYPES)} in shards of whole rows)"
        )
    inner_rows = _inner_rows(metadata, (shard_rows, width))
    _, _, (group_rows,) = state = _read_array(files, STATE, 1)
    for name, found, inner_shape in (
        (STATE, state, []),
        (FACE_DIGEST, _read_array(files, FACE_DIGEST, 2), [KEPT_DIGEST_BYTES]),
    ):
        kind = found[0]["data_type"], *found[1:], _inner_rows(found[0], found[2])
        wanted = "uint8", [num_rows, *inner_shape], [group_rows, *inner_shape], inner_rows_of(name, group_rows)
        if kind != wanted or group_rows % shard_rows:
            raise ValueError(f"{_metadata_of(files, name)}: the array has other shards than the embeddings")
    return Layout(num_rows, width, shard_rows, group_rows // shard_rows, inner_rows, metadata["data_type"])


def _metadata_of(files: Storage, name: str) -> str:
    return files.name(f"{name}/zarr.json")


def _read_array(files: Storage, name: str, num_axes: int) -> tuple[dict[str, Any], list[int], list[int]]:
    """An array's metadata, its shape, and that of a shard. Raises ValueError where they cannot be read."""
    try:
        metadata = json.loads(files.get(f"{name}/zarr.json"))
        shape, shard_shape = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
        if len(shape) != num_axes or len(shard_shape) != num_axes or min(shard_shape) < 1:
            raise ValueError(f"not {num_axes} axes")
        metadata["data_type"], metadata["codecs"][0]["name"], metadata["chunk_key_encoding"]  # what is read of them
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{_metadata_of(files, name)}: the array's metadata cannot be read ({error})") from None
    return metadata, shape, shard_shape


def _inner_rows(metadata: dict[str, Any], shard_shape: Sequence[int]) -> int | None:
    """Rows of an inner chunk where a shard is raw little-endian rows and an index at its end, else None."""
    raw = [{"name": "bytes", "configuration": {"endian": "little"}}]
    codecs = metadata["codecs"]
    if len(codecs) != 1 or codecs[0].get("name") != "sharding_indexed" or sys.byteorder != "little":
        return None
    sharding = codecs[0]["configuration"]
    rows, *inner_shape = sharding["chunk_shape"]
    is_raw = sharding["codecs"] == raw or (metadata["data_type"] == "uint8" and _names(sharding["codecs"]) == ["bytes"])
    linear = (
        is_raw
        and _names(sharding["index_codecs"]) == ["bytes", "crc32c"]
        and sharding["index_codecs"][0] == raw[0]
        and sharding.get("index_location", "end") == "end"
        and (inner_shape, shard_shape[0] % rows) == (list(shard_shape[1:]), 0)
        and metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and not metadata.get("storage_transformers")
    )
    return int(rows) if linear else None


def _names(codecs: Sequence[dict[str, Any]]) -> list[str]:
    return [codec["name"] for codec in codecs]


def copy_rows(path: Path, layout: Layout, out: np.ndarray) -> bool:
    """Copies the rows of the embedding shard in the file `path` into `out` [R, D] (the layout's dtype), if they lie in
    line in a whole file.

    False where the file is not there or short, or the rows lie otherwise: only zarr can tell, and `out` holds
    anything.
    """
    if layout.inner_rows is None:
        return False
    try:
        # Read, not mapped: threads that map wait for one another, and a file cut short meanwhile would end the process.
        with open(path, "rb", buffering=0) as file:
            return is_in_line(file, layout, len(out)) and _read_into(file, out)
    except FileNotFoundError:
        return False


def is_in_line(file: FileIO, layout: Layout, num_rows: int) -> bool:
    """Whether the shard's own index says that its first `num_rows` rows lie one after the other from its start."""
    assert layout.inner_rows is not None
    chunk_bytes = _chunk_bytes(layout)
    num_chunks, num_used = layout.shard_rows // layout.inner_rows, -(-num_rows // layout.inner_rows)
    index_start = os.fstat(file.fileno()).st_size - num_chunks * INDEX_ENTRY_BYTES - INDEX_CHECKSUM_BYTES
    if index_start < num_used * chunk_bytes:
        return False
    index = np.zeros(2 * num_used, "<u8")
    file.seek(index_start)
    whole = _read_into(file, index)
    file.seek(0)
    return whole and np.array_equal(index, _index_in_line(num_used, chunk_bytes))


def _read_into(file: FileIO, values: np.ndarray) -> bool:
    """Fills `values` (contiguous) from where the file stands; False where the file ends before."""
    flat, done = values.reshape(-1).view(np.uint8), 0
    while done < len(flat):
        count = file.readinto(flat.data[done : done + READ_BYTES])
        if not count:
            return False
        done += count
    return True


def copy_values(data: bytes, layout: Layout, out: np.ndarray) -> bool:
    """As `copy_rows`, from the bytes of the shard."""
    if layout.inner_rows is None:
        return False
    chunk_bytes, num_used = _chunk_bytes(layout), -(-len(out) // layout.inner_rows)
    index_start = len(data) - layout.shard_rows // layout.inner_rows * INDEX_ENTRY_BYTES - INDEX_CHECKSUM_BYTES
    if index_start < num_used * chunk_bytes:
        return False
    index = np.frombuffer(data, "<u8", 2 * num_used, index_start)
    if not np.array_equal(index, _index_in_line(num_used, chunk_bytes)):
        return False
    out.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8, out.nbytes)
    return True


def read_through_zarr(files: Storage, shard: int, start: int, stop: int) -> np.ndarray:
    """The embeddings of rows [start, stop), of the `shard`.

    Raises:
        ValueError: zarr cannot read them.
    """
    import zarr

    try:
        return np.asarray(zarr.open_array(_zarr_store(files, shard), mode="r")[start:stop])
    except StorageError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{files.name(EMBEDDING)}: zarr cannot read rows {start} to {stop - 1} ({error})") from None


def _zarr_store(files: Storage, shard: int) -> "LocalStore | MemoryStore":
    """Where zarr finds a shard of the embeddings: the folder, or what is there of it in memory."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import LocalStore, MemoryStore

    if isinstance(files, FolderStorage):
        return LocalStore(files.path / EMBEDDING, read_only=True)
    keys = ("zarr.json", shard_file(EMBEDDING, shard).partition("/")[2])
    values = {key: default_buffer_prototype().buffer.from_bytes(files.get(f"{EMBEDDING}/{key}")) for key in keys}
    return MemoryStore(values, read_only=True)


def _chunk_bytes(layout: Layout) -> int:
    assert layout.inner_rows is not None
    return layout.inner_rows * layout.width * np.dtype(layout.dtype).itemsize


@lru_cache(maxsize=4)
def _index_in_line(num_chunks: int, chunk_bytes: int) -> np.ndarray:
    """[2 * num_chunks]: offset and length of inner chunks that lie one after the other from the file's start."""
    offsets = np.arange(num_chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
    return np.stack([offsets, np.full_like(offsets, chunk_bytes)], axis=1).reshape(-1)
