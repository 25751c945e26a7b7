"""An annotation file as cells of text with their line numbers, and the cells as checked columns.

Place: below `extract.annotations.readers` and `extract.annotations.tracks`, which know the layouts. Letters: R rows of
one file. Everything runs column by column; only a row that is wrong is looked at by itself, for its message.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cache.names import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS
from extract.annotations.columns import RULES

PATH_NAMES = ("image", "path", "image_location")
NOTHING = r"(?!)"
PARQUET_SUFFIXES = (".parquet", ".pq")
KNOWN_COLUMNS = ("image", "path", "video", "frame", "split", "subject", "fps", *LABEL_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One file's rows. `cells` [R rows] are stripped texts, null where empty; `lines` [R] count from 1.

    `unit` is "line" for text and "row" for Parquet; `classes` are the expressions that the file's numbers mean.
    """

    path: Path
    cells: pl.DataFrame
    lines: pl.Series
    unit: str = "line"
    classes: tuple[str, ...] = EXPRESSIONS

    def at(self, row: int) -> str:
        """Where row number `row` stands, as an error begins: `train.txt:7`."""
        return f"{self.path}:{self.lines[row]}" if self.unit == "line" else f"{self.path}: row {self.lines[row]}"


def read_sheet(path: Path, headerless: Sequence[Sequence[str]] = (), ignored: str = NOTHING) -> Sheet:
    """The cells of a text file or Parquet table, not yet checked.

    `headerless` are the column lists that a file without a header may have, told apart by their number. Columns whose
    names match the pattern `ignored` are left out. BOM and CRLF are accepted; blank lines are left out (their numbers
    are not given to other lines).

    Raises:
        ValueError: no such file, not text, unknown or doubled column, a row of another number of columns.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _parquet_sheet(path, ignored)
    lines = read_rows(path)
    if lines.is_empty():
        raise ValueError(f"{path}: the file is empty; expected a row a frame")
    line, head = int(lines["line"][0]), lines["cells"][0].to_list()
    columns, classes, has_header = _columns_of(path, line, head, headerless, ignored)
    body = lines.slice(1) if has_header else lines
    _check_widths(path, body, len(columns), "the header" if has_header else "the layout")
    cells = body.select(
        pl.col("cells").list.get(index, null_on_oob=True).str.strip_chars(" \t\r").replace("", None).alias(name)
        for index, name in enumerate(columns)
        if name in RULES
    )
    return Sheet(path=path, cells=cells, lines=body["line"], classes=classes)


def read_rows(path: Path) -> pl.DataFrame:
    """(line, cells) of every line of the text file at `path` that is not blank; cells as they stand, quotes resolved.

    Raises:
        ValueError: not UTF-8 text, or quotes that do not fit.
    """
    text = _read_text(path)
    return _csv_records(path, text) if '"' in text else _plain_lines(text)


def parse_sheet(sheet: Sheet, *, empty_is_missing: bool) -> pl.DataFrame:
    """The columns of `sheet` as values [R rows]; -5 and -1 are null from here on.

    Raises:
        ValueError: naming the first wrong row, what is wrong in it, what is expected, and how many more there are.
    """
    values, wrong = [], []
    for column in sheet.cells.columns:
        rule, text = RULES[column], pl.col(column)
        value = rule.value(text, sheet.classes)
        values.append(value.alias(column))
        bad = value.is_null() & ~rule.is_missing(text).fill_null(False)
        bad = bad & text.is_not_null() if rule.may_be_empty and empty_is_missing else bad
        wrong.append(bad.alias(f"bad {column}"))
    # One lazy query: what values and flags share is worked out once, a quarter of the time.
    table = sheet.cells.lazy().select(*values, *wrong).collect()
    _raise_first(sheet, table.select(pl.col(f"bad {column}").alias(column) for column in sheet.cells.columns))
    return table.select(sheet.cells.columns)


def _raise_first(sheet: Sheet, wrong: pl.DataFrame) -> None:
    """Raises for the first row of `wrong` [R rows, a flag a column] that has a True."""
    rows = wrong.select(pl.any_horizontal(pl.all()).arg_true()).to_series().to_list()
    if not rows:
        return
    column = next(name for name in wrong.columns if wrong[name][rows[0]])
    rule, text = RULES[column], sheet.cells[column][rows[0]]
    fault = "" if text is None else rule.explain(text)
    found = "is empty" if text is None else f"is {text!r}" + (f", {fault}" if fault else "")
    more = f" (and {len(rows) - 1} more bad rows, the next: {sheet.lines[rows[1]]})" if rows[1:] else ""
    raise ValueError(f"{sheet.at(rows[0])}: {column} {found}; expected {rule.expected}{more}")


def check_distinct(sheet: Sheet, keys: pl.DataFrame) -> None:
    """Raises a `ValueError` naming two rows of one file that have the same keys (video, frame) [R rows]."""
    first = keys.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    if first.all():
        return
    row = (~first).arg_max()
    assert row is not None
    video, frame = keys.row(row)
    earlier = keys.select(((pl.col("video") == video) & (pl.col("frame") == frame)).arg_max()).item()
    raise ValueError(
        f"{sheet.at(row)}: video {video!r}, frame {frame} stands already in {sheet.unit} {sheet.lines[earlier]}; "
        f"remove one of the two"
    )


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8 text; save the file as UTF-8, or check that it is the right file"
        ) from None


def _plain_lines(text: str) -> pl.DataFrame:
    """(line, cells) of every line of `text` that is not blank."""
    lines = pl.DataFrame({"text": text.split("\n")}).with_row_index("line", offset=1)
    return lines.filter(pl.col("text").str.contains(r"[^ \t\r]")).select("line", cells=pl.col("text").str.split(","))


def _csv_records(path: Path, text: str) -> pl.DataFrame:
    """(line, cells) of a CSV with quoted cells; a record is named by its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, cells = [], []
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                lines.append(reader.line_num)
                cells.append(record)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not a CSV row ({error}); check its quotes") from None
    return pl.DataFrame({"line": lines, "cells": cells}, schema={"line": pl.UInt32, "cells": pl.List(pl.String)})


def _parquet_sheet(path: Path, ignored: str) -> Sheet:
    try:
        table = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: not a Parquet table ({' '.join(str(error).split())})") from None
    columns, classes = _named(path, 0, list(table.columns), ignored)
    table.columns = columns
    table = table.select(name for name in columns if name in RULES)
    flags = [name for name, kind in table.schema.items() if kind == pl.Boolean]
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    nested = [name for name, kind in table.schema.items() if kind.is_nested()]
    if nested:
        raise ValueError(f"{path}: column {nested[0]!r} holds lists; expected one value a row")
    cells = table.with_columns(pl.col(flags).cast(pl.Int8), pl.col(floats).fill_nan(None)).cast(pl.String)
    rows = pl.Series("line", range(1, table.height + 1), dtype=pl.UInt32)
    return Sheet(path=path, cells=cells, lines=rows, unit="row", classes=classes)


def _columns_of(
    path: Path, line: int, first: list[str], headerless: Sequence[Sequence[str]], ignored: str
) -> tuple[list[str], tuple[str, ...], bool]:
    """(columns, classes, has a header) from the file's first row: only a row of data begins with a path."""
    if headerless and ("/" in first[0] or "\\" in first[0]):
        for columns in headerless:
            if len(columns) == len(first):
                return list(columns), EXPRESSIONS, False
        allowed = " or ".join(str(len(columns)) for columns in headerless)
        raise ValueError(
            f"{path}:{line}: {len(first)} columns and no header; expected {allowed} columns, or a first line that "
            f"names them (image,valence,arousal,expression,AU1,...)"
        )
    return *_named(path, line, first, ignored), True


def _named(path: Path, line: int, header: list[str], ignored: str) -> tuple[list[str], tuple[str, ...]]:
    """Our column names for a header's cells, and the expressions the file counts in.

    Two habits of the challenge's files: `aus` stands for the twelve action units, and a list of the class names
    stands for one column with the number of a class in that list.
    """
    canonical = {name.casefold(): name for name in (*KNOWN_COLUMNS, *EXPRESSIONS, "image_location", "aus")}
    names = [canonical.get(cell.strip().casefold(), cell.strip()) for cell in header]
    classes = tuple(name for name in names if name in EXPRESSIONS)
    columns: list[str] = []
    for name in names:
        if name == "aus":
            columns += ACTION_UNITS
        elif name not in EXPRESSIONS:
            columns.append("path" if name in PATH_NAMES else name)
        elif name == classes[0]:
            columns.append("expression")
    where = f"{path}:{line}" if line else str(path)
    for name in columns:
        if name not in RULES and not re.fullmatch(ignored, name):
            raise ValueError(f"{where}: unknown column {name!r}; known: {', '.join(KNOWN_COLUMNS)}")
        if columns.count(name) > 1 or len(set(classes)) < len(classes):
            raise ValueError(f"{where}: the column {name!r} is named twice; name each column once")
    return columns, classes or EXPRESSIONS


def _check_widths(path: Path, body: pl.DataFrame, width: int, source: str) -> None:
    wrong = body.filter(pl.col("cells").list.len() != width)
    if wrong.is_empty():
        return
    found = len(wrong["cells"][0])
    more = f" (and {wrong.height - 1} more such rows)" if wrong.height > 1 else ""
    raise ValueError(
        f"{path}:{wrong['line'][0]}: too {'few' if found < width else 'many'} columns: {found}, but {source} has "
        f"{width}; correct the row or remove it{more}"
    )
