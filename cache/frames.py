"""The frames table: one row a frame, sorted by (video, frame); row i of every stream belongs to row i of it.

Columns: video, frame (the number in the file's name: real time, with gaps), path (relative to the faces folder),
split, the labels of `cache.names` (null where missing), and where known the subject.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from cache.files import write_durably
from cache.names import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, SPLITS, VA_COLUMNS
from cache.parquet import panics_as_errors, parquet_bytes, read_parquet
from cache.seals import KEY, UNSEALED, has_seal, is_whole, sealed

DTYPES: dict[str, pl.DataType] = {
    "video": pl.String(),
    "frame": pl.Int64(),
    "path": pl.String(),
    "split": pl.String(),
    **dict.fromkeys(VA_COLUMNS, pl.Float32()),
    "expression": pl.Int8(),
    **dict.fromkeys(ACTION_UNITS, pl.Int8()),
    "subject": pl.String(),
}
KEYS = ("video", "frame", "path")
OPTIONAL = ("subject",)
FORMER = ("fps",)  # columns of tables of earlier versions, which nothing went by
# A missing label is null; the challenge's marks (-5 and -1) became null in the readers.
MISSING_HINT = "; leave a missing label empty"
# Backslash, control sign, drive letter, empty part, "." or "..": no such path is portable and inside the faces folder.
OUTSIDE = r"[\\\x00-\x1f\x7f-\x9f]|^[A-Za-z]:|(?:^|/)\.{0,2}(?:/|$)"
HASH_ROWS = 65536


def conform(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """`table` in the frames table's columns, types and order; missing label columns become null, split "none".

    Raises:
        ValueError: names `where`, the first bad row's video and frame, and the column.
    """
    unknown = [name for name in table.columns if name not in DTYPES]
    if unknown:
        raise ValueError(f"{where}: unknown column {', '.join(map(repr, unknown))}; known: {', '.join(DTYPES)}")
    for name in KEYS:
        if name not in table.columns:
            raise ValueError(f"{where}: column {name!r} is missing; a frames table has {', '.join(KEYS)}")
    absent = [name for name in DTYPES if name not in table.columns and name not in OPTIONAL]
    table = table.with_columns(pl.lit(None, DTYPES[name]).alias(name) for name in absent)
    table = _cast(table, where).with_columns(pl.col("split").fill_null("none"))
    _check_values(table, where)
    order = [name for name in DTYPES if name in table.columns]
    table = table.select(order).sort("video", "frame", maintain_order=True)
    _check_distinct(table, where)
    return table


def read_frames(path: Path) -> pl.DataFrame:
    """The frames table at `path`, checked; one of your own making, without a seal, is taken as it is.

    Raises:
        ValueError: no such file, not Parquet, not as `write_frames` sealed it, or a bad row.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no frames table; `mtl prepare` writes one")
    data = path.read_bytes()
    if has_seal(data) and not is_whole(data):
        raise ValueError(f"{path}: damaged or changed since `mtl prepare` wrote it; type `mtl prepare` again")
    try:
        table = read_parquet(data)
    except PolarsError as error:
        raise ValueError(f"{path}: not a Parquet file ({_first_line(error)}); `mtl prepare` writes one") from None
    with panics_as_errors():
        return conform(table.drop(FORMER, strict=False), str(path))


def write_frames(table: pl.DataFrame, path: Path) -> None:
    """Writes Parquet with a seal in its metadata, in one step: after a crash there is the old file or the new one."""
    write_durably(path, sealed(parquet_bytes(conform(table, str(path)), {KEY: UNSEALED})))


def frames_digest(table: pl.DataFrame) -> str:
    """Hexadecimal digest of (video, frame, path) in the rows' order; labels, split and subject are not in it."""
    return _digest(table, KEYS)


def labels_digest(table: pl.DataFrame) -> str:
    """Hexadecimal digest of labels, split and subject in the rows' order."""
    if "subject" not in table.columns:
        table = table.with_columns(pl.lit(None, pl.String()).alias("subject"))
    return _digest(table, (*LABEL_COLUMNS, "split", "subject"))


def _digest(table: pl.DataFrame, columns: Iterable[str]) -> str:
    """Column after column: nulls, then numbers, or text lengths and texts; no two tables give the same bytes."""
    digest = hashlib.blake2b(f"{len(table)} rows;".encode(), digest_size=16)
    for name in columns:
        column = table[name]
        digest.update(f"{name};".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        filled = column.fill_null("" if column.dtype == pl.String else 0)
        for start in range(0, len(filled), HASH_ROWS):
            block = filled[start : start + HASH_ROWS]
            values = block.str.len_bytes().cast(pl.UInt32) if block.dtype == pl.String else block
            digest.update(values.to_numpy().tobytes())
            if block.dtype == pl.String:
                digest.update(block.str.join().item().encode())
    return digest.hexdigest()


def _cast(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """Every column in its type; a value that would be lost on the way is an error."""
    for name in table.columns:
        dtype = DTYPES[name]
        if table[name].dtype == dtype:
            continue
        found = table[name].dtype
        if found.is_nested() or found.is_temporal() or found in (pl.Binary, pl.Object):
            raise ValueError(f"{where}: column {name!r} holds values of type {found}; expected {dtype}")
        cast = pl.col(name).cast(dtype, strict=False)
        lost = cast.is_null() & pl.col(name).is_not_null()
        if table[name].dtype.is_float() and dtype.is_integer():
            lost |= cast.cast(table[name].dtype) != pl.col(name)
        kind = "text" if dtype == pl.String else "a whole number" if dtype.is_integer() else "a number"
        try:
            _raise_first(table, lost, name, f"is not {kind}", where)
            table = table.with_columns(cast)
        except PolarsError as error:
            raise ValueError(f"{where}: column {name!r} cannot be {kind} ({_first_line(error)})") from None
    return table


def _check_values(table: pl.DataFrame, where: str) -> None:
    def check(name: str, wrong: pl.Expr, what: str) -> None:
        _raise_first(table, wrong, name, what, where)

    for name in KEYS:
        check(name, pl.col(name).is_null(), "is missing")
    check("video", pl.col("video") == "", "is empty")
    check("frame", pl.col("frame") < 0, "is negative")
    check("path", pl.col("path").str.contains(OUTSIDE), "is not a plain path inside the faces folder")
    check("split", ~pl.col("split").is_in(SPLITS), f"is none of {', '.join(SPLITS)}")
    for name in VA_COLUMNS:
        check(name, ~_between(name, -1, 1), f"is outside [-1, 1]{MISSING_HINT}")
    top = len(EXPRESSIONS) - 1
    check("expression", ~_between("expression", 0, top), f"is outside 0..{top}{MISSING_HINT}")
    for name in ACTION_UNITS:
        check(name, ~_between(name, 0, 1), f"is neither 0 nor 1{MISSING_HINT}")


def _between(name: str, low: int, high: int) -> pl.Expr:
    """False for NaN, which Polars orders above every number; null for null."""
    return pl.col(name).is_between(low, high)


def _check_distinct(table: pl.DataFrame, where: str) -> None:
    """Expects `table` sorted: equal keys are neighbours."""
    again = (pl.col("video") == pl.col("video").shift(1)) & (pl.col("frame") == pl.col("frame").shift(1))
    _raise_first(table, again, "path", "is a second row for the same video and frame; keep one of them", where)


def _raise_first(table: pl.DataFrame, wrong: pl.Expr, column: str, what: str, where: str) -> None:
    """Raises ValueError for the first row where `wrong` is True; null counts as False."""
    mask = table.select(wrong.fill_null(False).alias("wrong"))["wrong"]
    row = mask.arg_max() if len(mask) else None
    if row is None or not mask[row]:
        return
    count = int(mask.sum())
    others = f" ({count} rows in all)" if count > 1 else ""
    video, frame, value = table["video"][row], table["frame"][row], table[column][row]
    raise ValueError(f"{where}: row {row + 1}, video {video!r} frame {frame!r}: {column} {value!r} {what}{others}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
