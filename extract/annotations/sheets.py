"""An annotation file as cells of text with their line numbers, and the cells as checked columns.

Place: below `extract.annotations.readers` and `extract.annotations.tracks`, which know the layouts. Letters: R rows of
one file. Everything runs column by column, some rows at a time, as their cells take several times the memory of their
text; only a row that is wrong is looked at by itself, for its message.
"""

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cache.frames import stored_schema
from cache.labels import ABAW, Schema, nearest
from cache.names import ACTION_UNITS, EXPRESSIONS
from cache.parquet import read_parquet
from extract.annotations.columns import ColumnRule
from extract.annotations.label_rules import changed_column, has_challenge_columns, rules_of

PATH_NAMES = ("image", "path", "image_location")
NOTHING = r"(?!)"
TEXT = "\n"  # the column of whole lines; no file has a column of this name
PARQUET_SUFFIXES = (".parquet", ".pq")
BLOCK_ROWS = 1 << 17  # whose cells are made at once
BLOCK_CHARS = 1 << 23  # that are cut into lines at once
PLAIN_COLUMNS = ("image", "path", "video", "frame", "split", "subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One file's rows [R], of which `texts` are the cells of each column: stripped texts, null where empty. `lines` [R]
    count from 1.

    `unit` is "line" for text and "row" for Parquet; `classes` are the expressions that the file's numbers mean, where
    it has an order of its own.
    """

    path: Path
    rows: pl.DataFrame
    texts: Mapping[str, pl.Expr]
    lines: pl.Series
    schema: Schema
    unit: str = "line"
    classes: tuple[str, ...] = ()

    @property
    def rules(self) -> Mapping[str, ColumnRule]:
        """The rule of every column."""
        return rules_of(self.schema, self.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def cells(self, start: int, num_rows: int) -> pl.DataFrame:
        """The texts of some rows."""
        return _with_cells(self.rows.slice(start, num_rows)).select(**self.texts)

    def at(self, row: int) -> str:
        """Where row number `row` stands, as an error begins: `train.txt:7`."""
        return f"{self.path}:{self.lines[row]}" if self.unit == "line" else f"{self.path}: row {self.lines[row]}"


def read_sheet(
    path: Path, headerless: Sequence[Sequence[str]] = (), ignored: str = NOTHING, schema: Schema = ABAW
) -> Sheet:
    """The cells of a text file or Parquet table in the columns of `schema`, not yet checked.

    `headerless` are the column lists that a file without a header may have, told apart by their number. Columns whose
    names match the pattern `ignored` are left out. A BOM, the line ends of any system and empty cells at a line's end
    are accepted; blank lines are left out (their numbers are not given to other lines).

    Raises:
        ValueError: no such file, not text, unknown or doubled column, a row of another number of columns.
    """
    if not path.is_file():
        raise ValueError(f"{path}: {'is no file' if path.exists() else 'no such file'}; check the path")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _parquet_sheet(path, ignored, schema)
    lines = _read_lines(path)
    if lines.is_empty():
        raise ValueError(f"{path}: the file is empty; expected one row per frame")
    line, head = int(lines["line"][0]), _with_cells(lines.head(1))["cells"][0].to_list()
    columns, classes, has_header = _columns_of(path, line, head, headerless, ignored, schema)
    body = lines.slice(1) if has_header else lines
    _check_widths(path, body, len(columns), "the header" if has_header else "the layout")
    texts = {
        name: pl.col("cells").list.get(index, null_on_oob=True).str.strip_chars(" \t\r").replace("", None)
        for index, name in enumerate(columns)
        if name in rules_of(schema)
    }
    return Sheet(path=path, rows=body, texts=texts, lines=body["line"], schema=schema, classes=classes)


def read_rows(path: Path) -> pl.DataFrame:
    """(line, cells) of every line of the text file at `path` that is not blank; cells as they stand, quotes resolved.

    Raises:
        ValueError: not UTF-8 text, or quotes that do not fit.
    """
    return _with_cells(_read_lines(path)).select("line", "cells")


def _read_lines(path: Path) -> pl.DataFrame:
    """`read_rows`, but for the cells of a file without quotes: its lines as `TEXT`."""
    text = _read_text(path)
    return _csv_records(path, text) if '"' in text else _plain_lines(text)


def _with_cells(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(cells=pl.col(TEXT).str.split(",")) if TEXT in rows.columns else rows


def parse_sheet(sheet: Sheet, *, empty_is_missing: bool) -> pl.DataFrame:
    """The columns of `sheet` as values [R rows]; the challenge's marks, -5 and -1, are null from here on.

    Raises:
        ValueError: naming the first wrong row, what is wrong in it, what is expected, and how many more there are.
    """
    values, wrong = [], []
    for column in sheet.columns:
        rule, text = sheet.rules[column], pl.col(column)
        value = rule.value(text)
        values.append(value.alias(column))
        bad = value.is_null() & ~rule.is_missing(text).fill_null(False)
        bad = bad & text.is_not_null() if rule.may_be_empty and empty_is_missing else bad
        wrong.append(bad.alias(f"bad {column}"))
    # One lazy query: what values and flags share is worked out once, a quarter of the time.
    parts, bad_rows, bad_column = [], list[int](), ""
    for start in range(0, max(len(sheet.lines), 1), BLOCK_ROWS):
        table = sheet.cells(start, BLOCK_ROWS).lazy().select(*values, *wrong).collect()
        parts.append(table.select(sheet.columns))
        flags = table.select(pl.col(f"bad {column}").alias(column) for column in sheet.columns)
        rows = flags.select(pl.any_horizontal(pl.all()).arg_true()).to_series().to_list()
        if rows and not bad_rows:
            bad_column = next(name for name in flags.columns if flags[name][rows[0]])
        bad_rows += [start + row for row in rows]
    if bad_rows:
        _raise_first(sheet, bad_rows, bad_column)
    return pl.concat(parts, rechunk=True)


def _raise_first(sheet: Sheet, rows: Sequence[int], column: str) -> None:
    """Raises for the first of the wrong `rows`, whose first wrong column is `column`."""
    rule, text = sheet.rules[column], sheet.cells(rows[0], 1)[column][0]
    fault = "" if text is None else rule.explain(text)
    found = "is empty" if text is None else f"is {text!r}{rule.hint(text)}" + (f", {fault}" if fault else "")
    more = f" (and {len(rows) - 1} more bad rows, the next: {sheet.lines[rows[1]]})" if rows[1:] else ""
    raise ValueError(f"{sheet.at(rows[0])}: {column} {found}; expected {rule.expected}{more}")


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "not UTF-8"
        raise ValueError(
            f"{path}:{line}: {kind} text; save the file as UTF-8, or check that it is the right file"
        ) from None


def _plain_lines(text: str) -> pl.DataFrame:
    """(line, `TEXT`) of every line of `text` that is not blank."""
    parts, start, line = [], 0, 1
    while start <= len(text):
        end = text.find("\n", start + BLOCK_CHARS)
        end = len(text) if end < 0 else end
        part = pl.DataFrame({TEXT: text[start:end].split("\n")}).with_row_index("line", offset=line)
        parts.append(part.filter(pl.col(TEXT).str.contains(r"[^ \t\r]")))
        start, line = end + 1, line + len(part)
    return pl.concat(parts)


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


def _parquet_sheet(path: Path, ignored: str, schema: Schema) -> Sheet:
    try:
        table = read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path}: not a Parquet table, or a damaged one ({' '.join(str(error).split())}); write it again"
        ) from None
    stored = stored_schema(path)
    if stored is not None and (column := changed_column(schema, stored)):
        differences = "; ".join(schema.differences(stored, "in [labels]", "in the table"))
        raise ValueError(
            f"{path}: column {column!r} has another meaning in its schema, {stored.name}, than in {schema.name} of "
            f"[labels]: {differences}; write it as a CSV file with the names of classes"
        )
    columns, classes = _named(path, 0, list(table.columns), ignored, schema)
    if len(columns) != len(table.columns):
        raise ValueError(f"{path}: columns {', '.join(table.columns)}; in Parquet, name a column for each label")
    table.columns = columns
    texts = {name: _as_text(path, name, table.schema[name]) for name in columns if name in rules_of(schema)}
    lines = pl.int_range(1, table.height + 1, dtype=pl.UInt32, eager=True).alias("line")
    return Sheet(path=path, rows=table, texts=texts, lines=lines, schema=schema, unit="row", classes=classes)


def _as_text(path: Path, name: str, kind: pl.DataType) -> pl.Expr:
    """A Parquet column as the texts that a rule reads; only what a text file could say is taken."""
    column = pl.col(name)
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String).str.strip_chars().replace("", None)
    if kind == pl.Boolean:
        return column.cast(pl.Int8).cast(pl.String)
    if kind.is_float():
        return column.fill_nan(None).cast(pl.String)
    if kind.is_integer() or kind.is_decimal() or kind == pl.Null:
        return column.cast(pl.String)
    raise ValueError(f"{path}: column {name!r} holds {_kind_words(kind)}; expected one number or text per row")


def _kind_words(kind: pl.DataType) -> str:
    if kind.is_nested():
        return "structs" if kind == pl.Struct else "lists"
    return "raw bytes" if kind == pl.Binary else f"values of type {str(kind).partition('(')[0].lower()}"


def _columns_of(
    path: Path, line: int, first: list[str], headerless: Sequence[Sequence[str]], ignored: str, schema: Schema
) -> tuple[list[str], tuple[str, ...], bool]:
    """(columns, classes, has a header) from the file's first row: only a row of data begins with a path."""
    if headerless and ("/" in first[0] or "\\" in first[0]):
        if not has_challenge_columns(schema):
            raise ValueError(
                f"{path}:{line}: no header; files without one are the challenge's own (schema abaw), and [labels] is "
                f"{schema.name}; write a first line that names the columns (image,{','.join(schema.columns[:3])},...)"
            )
        for columns in headerless:
            if len(columns) == len(first):
                return list(columns), (), False
        allowed = " or ".join(str(len(columns)) for columns in headerless)
        raise ValueError(
            f"{path}:{line}: {len(first)} columns and no header; expected {allowed} columns, or a first line that "
            f"names them (image,valence,arousal,expression,AU1,...)"
        )
    return *_named(path, line, first, ignored, schema), True


def _named(path: Path, line: int, header: list[str], ignored: str, schema: Schema) -> tuple[list[str], tuple[str, ...]]:
    """Our column names for a header's cells, and the expressions the file counts in where it says so.

    Two habits of the challenge's files: `aus` stands for the twelve action units, and a list of the class names
    stands for one column with the number of a class in that list.
    """
    header = _without_empty_end(header)
    known = (*PLAIN_COLUMNS, *schema.columns)
    own = (*EXPRESSIONS, "aus") if has_challenge_columns(schema) else ()
    canonical = {name.casefold(): name for name in ("image_location", *own, *known)}
    names = [cell.strip() for cell in header]
    names = [name if name in known else canonical.get(name.casefold(), name) for name in names]
    classes = tuple(name for name in names if own and name in EXPRESSIONS)
    columns: list[str] = []
    for name in names:
        if own and name == "aus":
            columns += ACTION_UNITS
        elif name not in classes:
            columns.append("path" if name in PATH_NAMES else name)
        elif name == classes[0]:
            columns.append("expression")
    where = f"{path}:{line}" if line else str(path)
    for name in columns:
        if name not in rules_of(schema) and not re.fullmatch(ignored, name):
            hint = _unknown_hint(name) or nearest(name, known)
            raise ValueError(f"{where}: unknown column {name!r}{hint}; known: {', '.join(known)}")
        if columns.count(name) > 1 or len(set(classes)) < len(classes):
            raise ValueError(f"{where}: the column {name!r} is named twice; name each column once")
    return columns, classes


def _without_empty_end(cells: list[str]) -> list[str]:
    end = next((index for index in range(len(cells), 0, -1) if cells[index - 1].strip()), 1)
    return cells[:end]


def _unknown_hint(name: str) -> str:
    """What a column nobody knows may be, where that can be told."""
    separator = next((sign for sign in (";", "\t") if len(re.split(f"{sign} ?", name)) > 2), None)
    if separator is not None:
        return f" (cells are separated by {'semicolons' if separator == ';' else 'tabs'}; write commas)"
    if name.casefold() == "fps":
        return " (time is counted in frame numbers, whatever the frame rate; leave the column out)"
    if name.partition("_")[2] in ("Surprised", "Fearful", "Angry"):
        return " (compound expressions are no labels here; a list of faces goes with --test-list)"
    return ""


def _check_widths(path: Path, body: pl.DataFrame, width: int, source: str) -> None:
    """Raises for rows that are too short, or too long by more than empty cells."""
    beyond = pl.col("cells").list.slice(width).list.join("").str.strip_chars() != ""
    is_wrong = (pl.col("cells").list.len() < width) | beyond
    wrong = pl.concat(
        _with_cells(body.slice(start, BLOCK_ROWS)).filter(is_wrong)
        for start in range(0, max(body.height, 1), BLOCK_ROWS)
    )
    if wrong.is_empty():
        return
    cells = wrong["cells"][0].to_list()
    more = f" (and {wrong.height - 1} more such rows)" if wrong.height > 1 else ""
    is_bare = len(cells) < width and not any(cell.strip() for cell in cells[1:])
    remedy = "a list of faces without labels goes with --test-list" if is_bare else "correct the row or remove it"
    raise ValueError(
        f"{path}:{wrong['line'][0]}: too {'few' if len(cells) < width else 'many'} columns: {len(cells)}, but {source} "
        f"has {width}; {remedy}{more}"
    )
