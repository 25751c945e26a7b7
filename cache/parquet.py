"""Parquet files, read and written as the one path that is named: `*`, `?` and `[1]` in it are signs like any other.

Polars takes a path for a pattern unless it is told otherwise: in a folder `exp[1]` it read what lay in `exp1`.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import ComputeError, PanicException


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Inside, a panic of Polars is a `ComputeError`: as it comes it is no `Exception`, and nothing else catches it."""
    try:
        yield
    except PanicException as error:
        raise ComputeError(str(error).partition("\n")[0] or "Polars panicked") from None


def read_parquet(source: Path | bytes, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The table in a file, or in a file's bytes; of `columns` those that it has.

    Raises:
        PolarsError: not a Parquet file, or a damaged one, in whatever way Polars fails on it.
        OSError: it is not there.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    with panics_as_errors():
        if columns is not None:
            there = parquet_schema(io.BytesIO(data))
            columns = [name for name in columns if name in there]
        return pl.read_parquet(io.BytesIO(data), columns=None if columns is None else list(columns), glob=False)


def scan_parquet(source: Path | list[Path], row_index: str | None = None) -> pl.LazyFrame:
    """The file or files at `source`, lazily; with the numbers of the rows as the column `row_index`."""
    return pl.scan_parquet(source, glob=False, row_index_name=row_index)


def parquet_schema(source: Path | io.BytesIO) -> pl.Schema:
    """Names and types of its columns."""
    with panics_as_errors():
        return pl.scan_parquet(source, glob=False).collect_schema()


def parquet_bytes(table: pl.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    """The Parquet file of `table`: on a full disk `write_parquet` to a path would raise what is no OSError."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, metadata=dict(metadata) if metadata else None)
    return buffer.getvalue()


def parquet_metadata(source: bytes | Path) -> dict[str, str]:
    """Texts by key in a file's metadata; raises PolarsError where `source` is no Parquet file."""
    with panics_as_errors():
        return pl.read_parquet_metadata(io.BytesIO(source) if isinstance(source, bytes) else source)
