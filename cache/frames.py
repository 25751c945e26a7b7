"""The frames table: one row per frame, sorted by (video, frame); row i of every stream belongs to row i of it.

Columns: video, frame (the number in the file's name: real time, with gaps), path (relative to the faces folder),
split, the labels of a schema (`cache.labels`; null where missing), and where known the subject. The schema stands in
the metadata of the Parquet file.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from cache.durable import write_durably
from cache.frames_file import Frames as Frames
from cache.frames_file import FramesColumn
from cache.frames_file import FramesFile as FramesFile
from cache.labels import ABAW, Group, Schema, nearest, schema_of
from cache.names import SPLITS
from cache.parquet import panics_as_errors, parquet_bytes, parquet_metadata, read_parquet
from cache.parsing import parse_json
from cache.seals import KEY, UNSEALED, has_seal, is_whole, sealed

KEYS = ("video", "frame", "path")
OPTIONAL = ("subject",)
SCHEMA_KEY = "labels"  # of the metadata of the Parquet file
# A missing label is null; the challenge's marks (-5 and -1) became null in the readers.
MISSING_HINT = "; leave a missing label empty"
# Backslash, control sign, drive letter, empty part, "." or "..": no such path is portable and inside the faces folder.
OUTSIDE = r"[\\\x00-\x1f\x7f-\x9f]|^[A-Za-z]:|(?:^|/)\.{0,2}(?:/|$)"
HASH_ROWS = 65536
LARGE_ROWS = 5_000_000  # from here on a table, of about 100 bytes per row in memory, is read by ranges where that helps


def dtypes_of(schema: Schema) -> dict[str, pl.DataType]:
    """The columns of a frames table with their types, in their order."""
    labels: dict[str, pl.DataType] = {}
    for group in schema:
        labels |= dict.fromkeys(group.columns, pl.Float32() if group.kind == "continuous" else pl.Int8())
    return {
        "video": pl.String(),
        "frame": pl.Int64(),
        "path": pl.String(),
        "split": pl.String(),
        **labels,
        "subject": pl.String(),
    }


def conform(table: pl.DataFrame, where: str, schema: Schema = ABAW) -> pl.DataFrame:
    """`table` in the frames table's columns, types and order; missing label columns become null, split "none".

    Raises:
        ValueError: names `where`, the first bad row's video and frame, and the column.
    """
    dtypes = dtypes_of(schema)
    unknown = [f"{name!r}{nearest(name, dtypes)}" for name in table.columns if name not in dtypes]
    if unknown:
        raise ValueError(f"{where}: unknown column {', '.join(unknown)}; known: {', '.join(dtypes)}")
    for name in KEYS:
        if name not in table.columns:
            raise ValueError(f"{where}: column {name!r} is missing; a frames table has {', '.join(KEYS)}")
    absent = [name for name in dtypes if name not in table.columns and name not in OPTIONAL]
    table = table.with_columns(pl.lit(None, dtypes[name]).alias(name) for name in absent)
    table = _cast(table, dtypes, where).with_columns(pl.col("split").fill_null("none"))
    _check_values(table, schema, where)
    order = [name for name in dtypes if name in table.columns]
    table = table.select(order)
    if not is_in_order(table):
        table = table.sort("video", "frame", maintain_order=True)
        _check_distinct(table, where)
    return table


def is_in_order(table: pl.DataFrame) -> bool:
    """Whether the rows are sorted by (video, frame), each there once, none missing. Asked first, as sorting copies the
    table, and looking for doubled rows makes a set of them."""
    video, frame = pl.col("video"), pl.col("frame")
    follows = (video > video.shift(1)) | ((video == video.shift(1)) & (frame > frame.shift(1)))
    known = video.is_not_null() & frame.is_not_null()
    return bool(table.select(known.all() & follows.slice(1).fill_null(False).all()).item())


def read_frames(path: Path, schema: Schema | None = None) -> pl.DataFrame:
    """The frames table at `path`, checked by the schema that is stored in it.

    One of your own making, without a seal and a schema, is checked by `schema`, or `ABAW`.

    Raises:
        ValueError: no such file, not Parquet, not as `write_frames` sealed it, labels of another schema, or a bad row.
    """
    data = _whole_bytes(path)
    stored = _schema_in(data, path)
    if stored is not None and schema is not None and stored.digest != schema.digest:
        differences = "; ".join(schema.differences(stored, "in [labels]", "in the table"))
        raise ValueError(
            f"{path}: labels of another schema ({stored.name}) than {schema.name} of [labels]: {differences}; type "
            "`mtl prepare` again, or set [labels] to the table's schema"
        )
    try:
        table = read_parquet(data)
    except PolarsError as error:
        raise _no_parquet(path, error) from None
    with panics_as_errors():
        return conform(table, str(path), stored or schema or ABAW)


def open_frames(path: Path, schema: Schema | None = None) -> Frames:
    """As `read_frames`, for those who ask for ranges of rows: a table of `LARGE_ROWS` rows or more, which was checked
    when `write_frames` sealed it, stays in its file."""
    try:
        found = FramesFile(path)
        stored = _schema_in(path, path)
    except (OSError, PolarsError, ValueError):
        return read_frames(path, schema)  # which says what is wrong
    known = stored is not None and (schema is None or stored.digest == schema.digest)
    if len(found) < LARGE_ROWS or not known or not _is_sealed(path):
        return read_frames(path, schema)
    return found


def stored_schema(path: Path) -> Schema | None:
    """The schema of the labels in the frames table at `path`; None for a table of your own making.

    Raises:
        ValueError: no such file, not Parquet, or not as `write_frames` sealed it.
    """
    return _schema_in(_whole_bytes(path), path)


def write_frames(table: pl.DataFrame, path: Path, schema: Schema = ABAW) -> None:
    """Writes Parquet with the schema and a seal in its metadata, in one step: after a crash there is the old file or
    the new one."""
    metadata = {SCHEMA_KEY: json.dumps(schema.to_mapping()), KEY: UNSEALED}
    write_durably(path, sealed(parquet_bytes(conform(table, str(path), schema), metadata)))


def beside(table: Frames, keys: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """`keys` (video, frame) in their order, with `columns` of the frames table `table` and the number of the "row"
    beside them; null where the table has no such frame."""
    keys = keys.select("video", "frame")
    if isinstance(table, FramesFile):
        rows = table.rows_of(keys, columns)
    else:
        rows = table.select("video", "frame", *columns).with_row_index("row")
    return keys.join(rows, on=("video", "frame"), how="left", maintain_order="left")


def num_in_split(table: Frames, split: str) -> int:
    """How many rows are in `split`."""
    return sum(int((block == split).sum()) for block in _blocks(table, "split"))


def frames_digest(table: Frames) -> str:
    """Hexadecimal digest of (video, frame, path) in the rows' order; labels, split and subject are not in it."""
    return _digest(table, KEYS)


def labels_digest(table: Frames, schema: Schema = ABAW) -> str:
    """Hexadecimal digest of labels, split and subject in the rows' order, and of a schema other than `ABAW`."""
    words = "" if schema.digest == ABAW.digest else f"schema {schema.digest};"
    return _digest(table, (*schema.columns, "split", "subject"), words)


def _whole_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path}: no frames table; `mtl prepare` writes one")
    data = path.read_bytes()
    if has_seal(data) and not is_whole(data):
        raise ValueError(f"{path}: damaged or changed since `mtl prepare` wrote it; type `mtl prepare` again")
    return data


def _is_sealed(path: Path) -> bool:
    """Whether the file has a seal and is what was sealed; it is not held in memory."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return has_seal(data) and is_whole(data)


def _schema_in(source: bytes | Path, path: Path) -> Schema | None:
    try:
        words = parquet_metadata(source).get(SCHEMA_KEY)
    except PolarsError as error:
        raise _no_parquet(path, error) from None
    if words is None:
        return None
    where = f"{path}: {SCHEMA_KEY!r} in its metadata"
    try:
        document = parse_json(words)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({_first_line(error)}); type `mtl prepare` again") from None
    return schema_of(document, where)


def _no_parquet(path: Path, error: PolarsError) -> ValueError:
    return ValueError(f"{path}: not a Parquet file ({_first_line(error)}); `mtl prepare` writes one")


def _digest(table: Frames, columns: Iterable[str], words: str = "") -> str:
    """Column after column: nulls, then numbers, or text lengths and texts; no two tables give the same bytes."""
    digest = hashlib.blake2b(f"{len(table)} rows;{words}".encode(), digest_size=16)
    for name in columns:
        digest.update(f"{name};".encode())
        for block in _blocks(table, name):
            digest.update(block.is_null().to_numpy().tobytes())
        for block in _blocks(table, name):
            block = block.fill_null("" if block.dtype == pl.String else 0)
            values = block.str.len_bytes().cast(pl.UInt32) if block.dtype == pl.String else block
            digest.update(values.to_numpy().tobytes())
            if block.dtype == pl.String:
                digest.update(block.str.join().item().encode())
    return digest.hexdigest()


def _blocks(table: Frames, name: str) -> Iterator[pl.Series]:
    """A column, `HASH_ROWS` rows at a time; nulls where an optional one is not there."""
    if name not in table.columns:
        for start in range(0, len(table), HASH_ROWS):
            yield pl.Series(name, [None], pl.String()).new_from_index(0, min(HASH_ROWS, len(table) - start))
        return
    column = table[name]
    if isinstance(column, FramesColumn):
        yield from column.blocks(HASH_ROWS)
        return
    for start in range(0, len(column), HASH_ROWS):
        yield column[start : start + HASH_ROWS]


def _cast(table: pl.DataFrame, dtypes: Mapping[str, pl.DataType], where: str) -> pl.DataFrame:
    """Every column in its type; a value that would be lost on the way is an error."""
    for name in table.columns:
        dtype = dtypes[name]
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


def _check_values(table: pl.DataFrame, schema: Schema, where: str) -> None:
    def check(name: str, wrong: pl.Expr, what: str) -> None:
        _raise_first(table, wrong, name, what, where)

    for name in KEYS:
        check(name, pl.col(name).is_null(), "is missing")
    check("video", pl.col("video") == "", "is empty")
    check("frame", pl.col("frame") < 0, "is negative")
    check("path", pl.col("path").str.contains(OUTSIDE), "is not a plain path inside the faces folder")
    check("split", ~pl.col("split").is_in(SPLITS), f"is none of {', '.join(SPLITS)}")
    for group in schema:
        low, high = limits_of(group)
        for name in group.columns:
            # False for NaN, which Polars orders above every number; null for null.
            check(name, ~pl.col(name).is_between(low, high), _beyond(group) + MISSING_HINT)


def limits_of(group: Group) -> tuple[float, float]:
    """The lowest and the highest value that a label of the group can have."""
    if group.kind == "continuous":
        return group.low, group.high
    return 0, 1 if group.kind == "binary" else len(group.classes) - 1


def _beyond(group: Group) -> str:
    low, high = limits_of(group)
    if group.kind == "binary":
        return "is neither 0 nor 1"
    return f"is outside [{low:g}, {high:g}]" if group.kind == "continuous" else f"is outside {low}..{high}"


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
