"""Any rows of a complete stream, read by ranges of its shards' files: for streams that do not fit into memory.

Letters: N frames, D width, R rows asked for.
"""

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cache import shards
from cache.cores import num_cores
from cache.shard_reader import MAX_READERS
from cache.stream import Stream

MAX_OPEN = 256  # files at a time; most systems allow 1,024 per process


class RowReader:
    """Reads rows of `stream`, whatever their order; neighbouring rows of one shard are one read.

    Nothing is compared with checksums here: `check_shards` does that once.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._row_bytes = stream.width * stream.dtype.itemsize
        self._files: OrderedDict[int, int | None] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """The embeddings of `rows` [R] into `out` [R, D] of the stream's dtype, contiguous.

        Raises:
            ValueError: a shard's file is missing, short or unreadable; says what to type.
        """
        assert out.flags.c_contiguous, "rows are read straight into it"
        assert out.dtype == self.stream.dtype, out.dtype
        if not len(rows):
            return
        number = rows // self.stream.shard_rows
        begins = np.flatnonzero((np.diff(rows) != 1) | (np.diff(number) != 0)) + 1
        bounds = [0, *begins.tolist(), len(rows)]
        firsts, numbers = rows[bounds[:-1]].tolist(), number[bounds[:-1]].tolist()
        flat = out.reshape(-1).view(np.uint8).data
        with self._lock:  # a file may be closed to make room for another
            for place, shard in enumerate(numbers):
                start, stop = bounds[place], bounds[place + 1]
                self._read_run(shard, firsts[place], flat[start * self._row_bytes : stop * self._row_bytes])

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
        with self._lock:
            for descriptor in self._files.values():
                if descriptor is not None:
                    os.close(descriptor)
            self._files.clear()

    def __del__(self) -> None:
        self.close()

    def _read_run(self, shard: int, first: int, out: memoryview) -> None:
        """The rows from `first` on that fill `out`, all of one shard."""
        descriptor = self._file(shard)
        if descriptor is None:
            self._read_slowly(shard, first, out)
            return
        offset, done = (first - shard * self.stream.shard_rows) * self._row_bytes, 0
        while done < len(out):
            count = os.preadv(descriptor, [out[done:]], offset + done)
            if not count:
                raise ValueError(f"{self._path(shard)}: the shard ends too soon; type {self.stream.repair_hint}")
            done += count

    def _read_slowly(self, shard: int, first: int, out: memoryview) -> None:
        num_rows = len(out) // self._row_bytes
        found = shards.read_through_zarr(self.stream.files, shard, first, first + num_rows)
        out[:] = np.ascontiguousarray(found).reshape(-1).view(np.uint8).data

    def _file(self, shard: int) -> int | None:
        """An open descriptor of the shard's file; None where only zarr can tell where its rows lie."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= MAX_OPEN:
            _, oldest = self._files.popitem(last=False)
            if oldest is not None:
                os.close(oldest)
        self._files[shard] = self._open(shard)
        return self._files[shard]

    def _open(self, shard: int) -> int | None:
        path, (start, stop) = self._path(shard), self.stream.rows(shard)
        try:
            with open(path, "rb", buffering=0) as file:
                if not shards.is_in_line(file, self.stream.layout, stop - start):
                    return None
                return os.dup(file.fileno())
        except FileNotFoundError:
            raise ValueError(f"{path}: the shard is missing; type {self.stream.repair_hint}") from None

    def _path(self, shard: int) -> Path:
        return self.stream.embedding_file(shard)


def check_shards(stream: Stream) -> None:
    """Compares every shard with its checksum, one after the other in memory.

    Raises:
        ValueError: the stream is incomplete, or the first shard that is missing, short or changed; says what to type.
    """
    stream.require_complete()

    def check(shard: int) -> None:
        stream.read_shard(shard)

    with ThreadPoolExecutor(min(MAX_READERS, num_cores())) as readers:
        for done in readers.map(check, range(stream.num_shards)):
            assert done is None
