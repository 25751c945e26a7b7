"""Reading the embeddings of a shard: from a folder, from an object store, or from the local copy of one.

Letters: R rows of a shard, D width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cache import marks, shards
from cache.cores import num_cores
from cache.storage.base import Storage
from cache.storage.folder import FolderStorage
from cache.storage.local_copy import LocalCopy

ALIGNMENT = 64  # bytes: the kernel copies to memory that is not so aligned, as most of numpy's is, at half the speed
MAX_READERS = 4  # more threads than that wait for memory
MAX_FETCHES = 8  # shards of an object store under way at once: each is held whole


def aligned_empty(num_rows: int, width: int, dtype: "np.dtype[Any]") -> np.ndarray:
    """[num_rows, width], not filled, that reading is quick into."""
    num_bytes = num_rows * width * dtype.itemsize
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(num_rows, width)


class ShardReader:
    """Reads shards of the stream in `files`, which `where` names in errors; `local` keeps what an object store gave."""

    def __init__(
        self, files: Storage, layout: shards.Layout, local: LocalCopy | None, where: str, repair_hint: str
    ) -> None:
        self._files, self._layout, self._local = files, layout, local
        self._where, self._repair_hint = where, repair_hint

    @property
    def num_threads(self) -> int:
        """That copy shards: the cores this process may use, a few at most; more where they wait for a store."""
        return min(MAX_READERS, num_cores()) if isinstance(self._files, FolderStorage) else MAX_FETCHES

    def read(self, shard: int, out: np.ndarray, mark: marks.Mark, check: bool = True) -> None:
        """A shard's rows into `out` [R, D], compared with the checksum in `mark`.

        Raises:
            ValueError: the shard is missing, short, cannot be read or has changed; says what to type.
        """
        if not self._copy(shard, out, mark):
            self._read_slowly(shard, out, mark)
        if not check or marks.checksum(out) == mark.checksum:
            return
        key = shards.shard_file(shards.EMBEDDING, shard)
        if self._local is not None and self._local.drop(mark.file.blake2b):  # the copy was damaged
            self.read(shard, out, mark)
            return
        raise ValueError(f"{self._files.name(key)}: the shard has changed since extraction; type {self._repair_hint}")

    def file(self, shard: int, read_mark: Callable[[int], marks.Mark]) -> Path:
        """A file of this machine that has the shard. Raises ValueError as `read`, or where there is no local copy."""
        if isinstance(self._files, FolderStorage):
            return self._files.path / shards.shard_file(shards.EMBEDDING, shard)
        if self._local is None:
            raise ValueError(
                f"{self._where}: does not fit into memory, so it is read by ranges, for which a store needs a local "
                "copy; set local under [cache] in mtl.toml"
            )
        return self._fetched(shard, read_mark(shard), self._local)

    def _copy(self, shard: int, out: np.ndarray, mark: marks.Mark) -> bool:
        """Whether `out` has the shard's rows now; False where they do not lie in line."""
        key = shards.shard_file(shards.EMBEDDING, shard)
        if isinstance(self._files, FolderStorage):
            return shards.copy_rows(self._files.path / key, self._layout, out)
        if self._local is not None:
            return shards.copy_rows(self._fetched(shard, mark, self._local), self._layout, out)
        return shards.copy_values(self._fetch(key, mark), self._layout, out)

    def _fetched(self, shard: int, mark: marks.Mark, local: LocalCopy) -> Path:
        key = shards.shard_file(shards.EMBEDDING, shard)
        path = local.path(mark.file.blake2b, mark.file.num_bytes, lambda: self._fetch(key, mark))
        if path is None:
            raise ValueError(
                f"{self._files.name(key)}: the shard has changed since extraction; type {self._repair_hint}"
            )
        return path

    def _fetch(self, key: str, mark: marks.Mark) -> bytes:
        """The bytes of the embeddings' file, of the number that `mark` has."""
        try:
            data: bytes | None = self._files.get(key)
        except FileNotFoundError:
            data = None
        fault = mark.file.size_fault(None if data is None else len(data))
        if data is None or fault:
            raise ValueError(f"{self._files.name(key)}: the shard {fault}; type {self._repair_hint}")
        return data

    def _read_slowly(self, shard: int, out: np.ndarray, mark: marks.Mark) -> None:
        key = shards.shard_file(shards.EMBEDDING, shard)
        fault = mark.file.size_fault(self._files.size(key))
        if fault:  # zarr gives zeros for a file that is not there
            raise ValueError(f"{self._files.name(key)}: the shard {fault}; type {self._repair_hint}")
        try:
            out[:] = shards.read_through_zarr(self._files, shard, *mark.rows)
        except ValueError as error:
            raise ValueError(f"{error}; type {self._repair_hint}") from None
