"""A frames table that is too large for memory: columns are read by ranges of rows from its Parquet file.

It answers what extraction and verification ask of a table: its length, its columns by name, some of its rows. N frames.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.parquet import panics_as_errors, scan_parquet

BLOCK_ROWS = 65536  # of a read; Polars makes row groups of 262,144
KEYS = ("video", "frame")
MAX_BLOCKS = 4  # of a column in memory


class FramesColumn:
    """One column [N] of a table; what a `pl.Series` answers, as far as it is asked here."""

    def __init__(self, scan: pl.LazyFrame, num_rows: int, collect: "Collect") -> None:
        self._scan, self._num_rows, self._collect = scan, num_rows, collect
        self._blocks: OrderedDict[int, pl.Series] = OrderedDict()

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, rows: Any) -> Any:
        """The value of one row, or the series of a slice or of row numbers."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self._num_rows)
            assert step == 1, step
            return self.slice(start, stop - start)
        if isinstance(rows, np.ndarray):
            return self.gather(rows)
        return self._block(int(rows) // BLOCK_ROWS)[int(rows) % BLOCK_ROWS]

    def slice(self, offset: int, length: int) -> pl.Series:
        """Rows [offset, offset + length)."""
        stop, parts = min(offset + length, self._num_rows), []
        for number in range(offset // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
            start = number * BLOCK_ROWS
            first = max(offset - start, 0)
            parts.append(self._block(number).slice(first, min(stop - start, BLOCK_ROWS) - first))
        return pl.concat(parts) if parts else self._block(0).clear()

    def gather(self, rows: np.ndarray) -> pl.Series:
        """Of the rows with these numbers, in their order."""
        order = np.argsort(rows // BLOCK_ROWS, kind="stable")
        numbers, starts = np.unique(rows[order] // BLOCK_ROWS, return_index=True)
        parts = [
            self._block(int(number)).gather(block % BLOCK_ROWS)
            for number, block in zip(numbers, np.split(rows[order], starts[1:]), strict=False)
        ]
        return pl.concat(parts).gather(np.argsort(order)) if parts else self._block(0).clear()

    def blocks(self, num_rows: int) -> Iterator[pl.Series]:
        """All of it, `num_rows` rows at a time; none is kept."""
        for start in range(0, self._num_rows, num_rows):
            yield self._read(start, num_rows)

    def _block(self, number: int) -> pl.Series:
        if number not in self._blocks:
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.popitem(last=False)
            self._blocks[number] = self._read(number * BLOCK_ROWS, BLOCK_ROWS)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _read(self, start: int, num_rows: int) -> pl.Series:
        return self._collect(self._scan.slice(start, num_rows)).to_series()


class FramesFile:
    """The frames table at `path`, sorted and checked when it was written, with `num_rows` rows.

    Whatever reads of it raises `ValueError` where another file has taken its place since it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._scan = path, scan_parquet(path)
        self._opened = _identity(path)
        with panics_as_errors():
            # The scan keeps what it read of the file's end: 0.7 MB at 50 million rows, 2.4 ms per block if read again.
            self.columns = self._scan.collect_schema().names()
        self._num_rows = int(self._collect(self._scan.select(pl.len())).item())
        self._known: dict[str, FramesColumn] = {}

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, key: Any) -> Any:
        """The column of a name, or the table of row numbers."""
        if isinstance(key, str):
            if key not in self.columns:
                raise KeyError(key)
            if key not in self._known:
                self._known[key] = FramesColumn(self._scan.select(key), self._num_rows, self._collect)
            return self._known[key]
        rows = np.asarray(key, np.int64)
        return pl.DataFrame([self[name].gather(rows).alias(name) for name in self.columns])

    def tables(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns of all of it, `BLOCK_ROWS` rows at a time."""
        scan = self._scan.select(columns)
        for start in range(0, self._num_rows, BLOCK_ROWS):
            yield self._collect(scan.slice(start, BLOCK_ROWS))

    def rows_of(self, keys: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """The rows that are among `keys` (video, frame): these, `columns`, and the number of the "row"."""
        scan = scan_parquet(self.path, row_index="row").select(*KEYS, *columns, "row")
        return self._collect(scan.join(keys.lazy(), on=KEYS, how="semi"), streaming=True)

    def compact(self, splits: Sequence[str]) -> pl.DataFrame:
        """The table without its paths and labels, as training needs it: videos and subjects as categories, `splits` as
        an enumeration, frame numbers in 32 bits where they fit. A column at a time, as each is copied once."""
        scan = self._scan
        last = self._collect(scan.select(pl.col("frame").max()), streaming=True).item()
        frame = pl.Int32() if (last or 0) < 2**31 else pl.Int64()
        types = {"video": pl.Categorical(), "frame": frame, "split": pl.Enum(splits), "subject": pl.Categorical()}
        known = {name: dtype for name, dtype in types.items() if name in self.columns}
        columns = [
            self._collect(scan.select(pl.col(name).cast(dtype)), streaming=True) for name, dtype in known.items()
        ]
        return pl.DataFrame([column.to_series().rechunk() for column in columns])

    def _collect(self, scan: pl.LazyFrame, *, streaming: bool = False) -> pl.DataFrame:
        try:
            with panics_as_errors():
                return scan.collect(engine="streaming" if streaming else "auto")
        finally:  # of another file the scan reads wrong rows, or fails in any way
            if _identity(self.path) != self._opened:
                raise ValueError(f"{self.path}: replaced while it was read; type the command again")


def _identity(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


Collect = Callable[[pl.LazyFrame], pl.DataFrame]

Frames = pl.DataFrame | FramesFile
Column = pl.Series | FramesColumn
