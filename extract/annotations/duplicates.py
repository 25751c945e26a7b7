"""Rows of one file for one frame: alike they are one row, else they disagree and somebody has to choose.

Place: below `extract.annotations.readers`, which knows the layouts. The official files hold hundreds of rows twice.
Letters: R rows of one file.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import polars as pl

from cache.frames import is_in_order
from extract.annotations.checks import Finding, plural, report
from extract.annotations.sheets import Sheet

OnConflict = Literal["error", "first", "last", "missing"]
KEY = ("video", "frame")
# Not what a row says of its frame: `a/1.jpg` and `a/00001.jpg` are one frame, and where it lies the faces folder says.
NAMES = (*KEY, "path")


def settle_duplicates(
    sheet: Sheet, values: pl.DataFrame, on_conflict: OnConflict = "error"
) -> tuple[pl.DataFrame, list[Finding]]:
    """`values` [R rows] of `sheet` with one row per frame, and what was taken out.

    Rows are alike when their values are, however they are written. Of rows that disagree, a label of one that another
    lacks included, `on_conflict` takes the first or the last, or the first without the values that differ.

    Raises:
        ValueError: rows disagree and `on_conflict` is "error"; names two of them.
    """
    if is_in_order(values):
        return values, []
    rows = values.with_row_index("row")
    twins = rows.filter(pl.struct(KEY).is_duplicated())
    if twins.is_empty():
        return values, []
    given = [name for name in values.columns if name not in NAMES]
    first = twins.with_columns(pl.col("row", *given).first().over(KEY).name.prefix("first "))
    differs = {name: pl.col(name).ne_missing(pl.col(f"first {name}")) for name in given}
    first = first.with_columns(clash=pl.any_horizontal(*differs.values(), pl.lit(False)))
    if on_conflict == "error":
        _raise_first_clash(sheet, first, given)
    settled = _SETTLE[on_conflict](rows, given).sort("row").drop("row")
    return settled, _findings(sheet, first, on_conflict)


def _raise_first_clash(sheet: Sheet, first: pl.DataFrame, given: Sequence[str]) -> None:
    clashes = first.filter("clash")
    if clashes.is_empty():
        return
    row = clashes.row(0, named=True)
    name = next(name for name in given if row[name] != row[f"first {name}"])
    here, there = (_word(row[column]) for column in (name, f"first {name}"))
    num_frames = clashes.select(KEY).n_unique()
    more = f" ({plural(num_frames, 'frame')} with such rows)" if num_frames > 1 else ""
    raise ValueError(
        f"{sheet.at(row['row'])}: video {row['video']!r}, frame {row['frame']}: {name} is {here} here and {there} in "
        f"{sheet.unit} {sheet.lines[row['first row']]}; remove one of the two, or choose with "
        f"--on-conflict first, last or missing{more}"
    )


def _word(value: object) -> str:
    return "missing" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)


def _first(rows: pl.DataFrame, given: Sequence[str]) -> pl.DataFrame:
    return rows.unique(KEY, keep="first", maintain_order=True)


def _last(rows: pl.DataFrame, given: Sequence[str]) -> pl.DataFrame:
    return rows.unique(KEY, keep="last", maintain_order=True)


def _missing(rows: pl.DataFrame, given: Sequence[str]) -> pl.DataFrame:
    """The first rows, null where the rows of a frame differ."""
    alike = [pl.when(pl.col(name).n_unique().over(KEY) == 1).then(pl.col(name)).alias(name) for name in given]
    return _first(rows.with_columns(alike), given)


def _findings(sheet: Sheet, first: pl.DataFrame, on_conflict: OnConflict) -> list[Finding]:
    """`first` are the rows of the frames named more than once, each beside its frame's first row."""
    again = first.filter(pl.col("row") != pl.col("first row"))
    disagreeing = again.filter(pl.col("clash").any().over(KEY))
    alike = again.filter(~pl.col("clash").any().over(KEY))
    taken = {"first": "the first was taken", "last": "the last was taken", "missing": "what differs was left out"}
    word = taken.get(on_conflict, "")
    return [
        *report(
            "duplicate_rows",
            "info",
            _examples(sheet, alike),
            f"{plural(alike.height, 'row')} of {sheet.path} repeated for the same frame, alike",
            "nothing: each frame counts once",
        ),
        *report(
            "conflicting_rows",
            "warning",
            _examples(sheet, disagreeing.unique(KEY, keep="first", maintain_order=True)),
            f"{plural(disagreeing.select(KEY).n_unique(), 'frame')} of {sheet.path} with rows that disagree: {word}",
            f"nothing, if --on-conflict {on_conflict} is what you want; otherwise correct the file",
        ),
    ]


def _examples(sheet: Sheet, rows: pl.DataFrame) -> list[str]:
    columns = rows.select("video", "frame", "first row", "row").rows()
    return [
        f"{video} frame {frame} ({sheet.unit}s {sheet.lines[first]} and {sheet.lines[row]})"
        for video, frame, first, row in columns
    ]


_SETTLE: dict[OnConflict, Callable[[pl.DataFrame, Sequence[str]], pl.DataFrame]] = {
    "error": _first,
    "first": _first,
    "last": _last,
    "missing": _missing,
}
