"""Files that a user names: written whole or not at all, and never over something that mtl did not write."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl

from cache.durable import sync, temporary_beside, write_synced
from cache.parquet import parquet_schema

FORMATS = (".parquet", ".csv")
OWN_COLUMNS = (("video", "frame", "path", "valid"), ("video", "frame", "time_s", "face"))


def check_place(path: Path, *, force: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raises `ValueError` where `path` cannot be written, or holds what may not be replaced.

    With `force` a file may be replaced that `is_ours` knows as one that the same command makes; nothing else may.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name a file with --out")
    check_above(path)
    if not os.path.lexists(path):
        return
    if not force:
        raise ValueError(f"{path} is there already; --force replaces it, --out picks another name")
    if path.is_symlink() or not path.is_file() or not is_ours(path):
        raise ValueError(
            f"{path}: not a file of this command, so --force does not replace it; --out picks another name"
        )


def check_above(path: Path) -> None:
    """Raises `ValueError` where the folders above `path` cannot be made, since one of them is no folder."""
    above = next(each for each in path.absolute().parents if os.path.lexists(each))
    if not above.is_dir():
        raise ValueError(f"{path}: {above} is no folder; name another place")


def write_new(path: Path, data: bytes, *, force: bool) -> None:
    """`data` at `path` in one step; without `force` never over a file that appeared meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        write_synced(temporary, data, path)
        put_in_place(temporary, path, force=force)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path, *, force: bool) -> None:
    """Gives the finished file `temporary` the name `path`; without `force` only where nothing has it."""
    if force:
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise ValueError(f"{path} is there already; --force replaces it, --out picks another name") from None
        except OSError:  # a file system without hard links
            os.rename(temporary, path)
    sync(path.parent)


def table_bytes(table: pl.DataFrame, suffix: str) -> bytes:
    """`table` as Parquet or CSV, by the ending of the file's name."""
    buffer = io.BytesIO()
    if suffix.lower() == ".csv":
        table.write_csv(buffer)
    else:
        table.write_parquet(buffer)
    return buffer.getvalue()


def check_format(path: Path | None) -> None:
    """Raises `ValueError` where the ending of `path` is none of a table's."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a table is written as {' or '.join(FORMATS)}; give --out such an ending")


def replaceable_table(path: Path) -> bool:
    """Whether the file at `path` is a table of `mtl predict`."""
    try:
        if path.suffix.lower() == ".csv":
            with open(path, encoding="utf-8") as file:
                names = tuple(file.readline(4096).rstrip("\n").split(","))
        else:
            names = tuple(parquet_schema(path))
        return any(names[: len(own)] == own for own in OWN_COLUMNS)
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError):
        return False
