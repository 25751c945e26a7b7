"""Writing a shard of a stream in an object store: a PUT each for its arrays, then one for the mark.

So a mark means that all the shard's rows are kept, and a writer killed at any moment leaves whole objects without a
mark, which the next one writes again. Letters: R rows of a shard.
"""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from cache import marks, shards
from cache.locks import WHOLE, Part
from cache.storage.claims import Claim, claimed
from cache.storage.encoding import encode_shard
from cache.storage.objects import ObjectStorage


class StoreWriter:
    """As `cache.writer.ShardWriter`, of the stream in `files`."""

    def __init__(self, files: ObjectStorage, where: str, layout: shards.Layout) -> None:
        self._files, self._where, self._layout = files, where, layout
        self._claim: Claim | None = None

    @contextlib.contextmanager
    def lock(self, part: Part = WHOLE) -> Iterator[None]:
        """Keeps other writers of `part` out. May be nested.

        Raises:
            BeingWritten: another process is writing; names it.
        """
        if self._claim is not None:
            yield
            return
        with claimed(self._files, self._where, part) as self._claim:
            try:
                yield
            finally:
                self._claim = None

    def write(
        self, shard: int, rows: tuple[int, int], arrays: Mapping[str, np.ndarray], failed: dict[int, str]
    ) -> None:
        """Writes `arrays` (name -> [R, ...]) as rows [start, stop) and marks the shard; durable on return.

        Raises:
            BeingWritten: this process stood still for so long that another took over.
            StorageError: the store; the shard is not marked, and other shards stay as they were.
        """
        with self.lock():
            self._require()
            marks.remove_marks(self._files, [shard])
            files = {}
            for name, values in arrays.items():
                key, shard_rows = shards.shard_file(name, shard), self._layout.shard_rows
                data = encode_shard(values, shard_rows, shards.inner_rows_of(name, shard_rows))
                self._files.put(key, data)
                files[key] = marks.FileRecord.of(data)
            mark = marks.Mark(rows=rows, checksum=marks.checksum(arrays[shards.EMBEDDING]), files=files, failed=failed)
            self._require()
            marks.write_mark(self._files, shard, mark)

    def forget(self, shard: int) -> None:
        """Removes a shard's mark, so that the next extraction redoes the shard."""
        with self.lock():
            self._require()
            marks.remove_marks(self._files, [shard])

    def _require(self) -> None:
        assert self._claim is not None
        self._claim.require()
