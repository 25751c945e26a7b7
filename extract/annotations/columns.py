"""What each column of an annotation may hold: one rule a column, as Polars expressions over texts.

Place: below `extract.annotations.sheets`, which applies the rules to a file's cells and words the errors.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from cache.frames import OUTSIDE
from cache.names import ACTION_UNITS, EXPRESSIONS, SPLITS, VA_COLUMNS

Classes = tuple[str, ...]


def _never(text: pl.Expr) -> pl.Expr:
    return pl.lit(False)


def _no_words(text: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a column may hold.

    `value` gives a text's value, null where it is none (`classes` are the file's expressions in its own order).
    `is_missing` is True for the mark of a missing label. `explain` says in words what is wrong with a text, where
    `expected` alone would leave it open.
    """

    value: Callable[[pl.Expr, Classes], pl.Expr]
    expected: str
    is_missing: Callable[[pl.Expr], pl.Expr] = _never
    explain: Callable[[str], str] = _no_words
    may_be_empty: bool = True


def _numbers(
    low: float, high: float, missing: float | None, kind: pl.DataType, expected: str, *, may_be_empty: bool = True
) -> Rule:
    """Numbers in [low, high], whole where `kind` is an integer; `missing` marks a label that is not there."""

    def value(text: pl.Expr, classes: Classes) -> pl.Expr:
        number = text.cast(pl.Float64, strict=False).fill_nan(None)
        whole = (number == number.round()) if kind.is_integer() else pl.lit(True)
        return pl.when(number.is_between(low, high) & whole).then(number).cast(kind)

    def is_missing(text: pl.Expr) -> pl.Expr:
        return text.cast(pl.Float64, strict=False) == missing

    return Rule(value, expected, is_missing if missing is not None else _never, may_be_empty=may_be_empty)


def _expression(text: pl.Expr, classes: Classes) -> pl.Expr:
    """A class's number in the file's own order, or its name."""
    number = text.cast(pl.Float64, strict=False)
    numbers = {float(index): EXPRESSIONS.index(name) for index, name in enumerate(classes)}
    names = {name.casefold(): index for index, name in enumerate(EXPRESSIONS)}
    by_number = number.replace_strict(numbers, default=None, return_dtype=pl.Int8)
    by_name = text.str.to_lowercase().replace_strict(names, default=None, return_dtype=pl.Int8)
    return pl.coalesce(by_number, by_name)


def _inside(text: pl.Expr, classes: Classes) -> pl.Expr:
    return pl.when(~text.str.contains(OUTSIDE)).then(text)


def _face(text: pl.Expr, classes: Classes) -> pl.Expr:
    named = text.str.contains("/", literal=True) & frame_in(text).is_not_null()
    return pl.when(~text.str.contains(OUTSIDE) & named).then(text)


def _split(text: pl.Expr, classes: Classes) -> pl.Expr:
    return pl.when(text.is_in(SPLITS)).then(text)


def _any_text(text: pl.Expr, classes: Classes) -> pl.Expr:
    return text


def _minus_one(text: pl.Expr) -> pl.Expr:
    return text.cast(pl.Float64, strict=False) == -1


def frame_in(path: pl.Expr) -> pl.Expr:
    """The frame number in a face's file name: the last run of digits before the ending; null where there is none."""
    stem = path.str.extract(r"([^/]+)$").str.replace(r"(.)\.[^.]*$", "${1}")
    return stem.str.extract(r"([0-9]+)[^0-9]*$").cast(pl.Int64, strict=False)


def video_in(path: pl.Expr) -> pl.Expr:
    """The video's id in a face's path: everything before the file's name."""
    return path.str.extract(r"^(.+)/[^/]+$")


def _path_fault(text: str) -> str:
    """What is wrong with a face's path, in words."""
    if "\\" in text:
        return "it has backslashes"
    if text.startswith("/") or ".." in text.split("/") or text[1:2] == ":":
        return "it leaves the faces folder"
    if "/" not in text:
        return "it has no video folder"
    return "it has no frame number" if not re.search("[0-9]", text.rsplit("/", 1)[1]) else "it is not a plain path"


_VALENCE = _numbers(-1.0, 1.0, -5.0, pl.Float32(), "a number in [-1, 1], or -5 where there is no label")
_ACTION_UNIT = _numbers(0, 1, -1, pl.Int8(), "0, 1, or -1 where there is no label")
_PATH = Rule(_face, "a path inside the faces folder such as video/00001.jpg", explain=_path_fault, may_be_empty=False)
RULES: dict[str, Rule] = {
    "path": _PATH,
    "video": Rule(_inside, "the name of a folder inside the faces folder", explain=_path_fault, may_be_empty=False),
    "frame": _numbers(0, 2**53, None, pl.Int64(), "a frame number: a whole number from 0 on", may_be_empty=False),
    "split": Rule(_split, f"one of {', '.join(SPLITS)}"),
    "subject": Rule(_any_text, "a name"),
    "fps": _numbers(1e-3, 1e4, None, pl.Float32(), "frames a second: a number above 0"),
    "expression": Rule(
        _expression, f"0 to 7, or a name of {', '.join(EXPRESSIONS)}, or -1 where there is no label", _minus_one
    ),
    **dict.fromkeys(VA_COLUMNS, _VALENCE),
    **dict.fromkeys(ACTION_UNITS, _ACTION_UNIT),
}
