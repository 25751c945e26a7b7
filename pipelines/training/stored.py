"""A stream that stays in the cache: rows are read when they are asked for, those of the next batch meanwhile.

It stands where a resident stream [N, D] would, and gives the same numbers. N frames, D width, R rows asked for.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.ranges import RowReader

MAX_AHEAD = 2  # the batch in hand and the next one
BLOCK = 65536  # rows at once where all of a column is asked for


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """Rows [R] that a thread reads into `buffer`."""

    rows: Tensor
    buffer: Tensor
    read: "Future[None]"


class StoredRows:
    """The embeddings [N, D] that `reader` reads, or some `columns` of them; what is taken lies on `device`."""

    def __init__(
        self, reader: RowReader, device: torch.device = torch.device("cpu"), columns: slice = slice(None)
    ) -> None:
        stream = reader.stream
        self.device, self.dtype = device, getattr(torch, stream.dtype.name)
        self.shape = (stream.num_rows, len(range(stream.width)[columns]))
        self._reader, self._columns, self._width = reader, columns, stream.width
        self._ahead: deque[Ahead] = deque()
        self._free: list[Tensor] = []
        self._taken: Tensor | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """`[start:stop]` rows and `[:, n]` one column as tensors; `[:, a:b]` columns that stay stored."""
        if isinstance(key, slice):
            return self.take(torch.arange(*key.indices(len(self)))).clone()
        rows, columns = key
        assert rows == slice(None), "columns of all rows"
        if isinstance(columns, slice):
            assert self._columns == slice(None), "columns of columns"
            return StoredRows(self._reader, self.device, columns)
        return torch.cat([self[start : start + BLOCK][:, columns] for start in range(0, len(self), BLOCK)])

    def to(self, device: torch.device) -> "StoredRows":
        """The same, given on another device."""
        return StoredRows(self._reader, device, self._columns)

    def prefetch(self, rows: Tensor) -> None:
        """Begins to read `rows` [R], which the next `take` but one may ask for."""
        rows = rows.cpu()
        if any(torch.equal(each.rows, rows) for each in self._ahead):
            return
        if len(self._ahead) >= MAX_AHEAD:
            self._finish(self._ahead.popleft())
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")
        buffer = self._buffer(len(rows))
        self._ahead.append(Ahead(rows, buffer, self._thread.submit(self._read, rows, buffer)))

    def take(self, rows: Tensor) -> Tensor:
        """The embeddings [R, D] of `rows` [R], as stored; on a CPU they hold until the next call.

        Raises:
            ValueError: a shard's file is missing or short; says what to type.
        """
        rows = rows.cpu()
        if self._taken is not None:
            self._free.append(self._taken)
            self._taken = None
        place = next((n for n, each in enumerate(self._ahead) if torch.equal(each.rows, rows)), None)
        if place is None:
            buffer = self._buffer(len(rows))
            self._read(rows, buffer)
        else:
            ahead = self._ahead[place]
            del self._ahead[place]
            ahead.read.result()
            buffer = ahead.buffer
        self._taken = buffer
        return buffer[: len(rows), self._columns].to(self.device)

    def _read(self, rows: Tensor, buffer: Tensor) -> None:
        wanted, out = rows.numpy(), buffer[: len(rows)].numpy()
        if not (np.diff(wanted) == 0).any():
            self._reader.read(wanted, out)
            return
        distinct, places = np.unique(wanted, return_inverse=True)  # padding is one row again and again
        found = np.empty((len(distinct), self._width), out.dtype)
        self._reader.read(distinct, found)
        np.take(found, places, axis=0, out=out)

    def _buffer(self, num_rows: int) -> Tensor:
        """Memory for `num_rows`: fresh memory takes nine times as long to fill as what was used before."""
        for place, buffer in enumerate(self._free):
            if len(buffer) >= num_rows:
                return self._free.pop(place)
        self._free.clear()
        return torch.empty(num_rows, self._width, dtype=self.dtype)

    def _finish(self, ahead: Ahead) -> None:
        """Waits for rows that nobody took; what went wrong there is said when they are asked for."""
        ahead.read.exception()
        self._free.append(ahead.buffer)
