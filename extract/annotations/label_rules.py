"""What the label columns of a schema may hold in an annotation, and which files are the challenge's own.

Place: above `extract.annotations.columns` (columns that every annotation may have), below `extract.annotations.sheets`.
"""

import functools
from collections.abc import Mapping

import polars as pl

from cache.frames import limits_of
from cache.labels import ABAW, Group, Schema, nearest
from extract.annotations.columns import RULES, ColumnRule, never, numbers

# The challenge's marks of a missing label; elsewhere a cell is empty.
MARKS = {"continuous": -5, "classes": -1, "binary": -1}
NUM_NAMED = 16  # classes that an error lists
# Words for one expression that data sets use besides each other's.
WORDS = (
    ("neutral", "neutrality"),
    ("anger", "angry"),
    ("disgust", "disgusted"),
    ("fear", "fearful", "afraid", "scared"),
    ("happiness", "happy", "joy", "joyful"),
    ("sadness", "sad"),
    ("surprise", "surprised"),
    ("contempt", "contemptuous"),
    ("other", "others"),
)


def has_challenge_columns(schema: Schema) -> bool:
    """Whether the challenge's own formats hold labels of `schema`: its columns and classes are the challenge's."""
    return list(_meanings(schema).items()) == list(_meanings(ABAW).items())


def changed_column(schema: Schema, other: Schema) -> str | None:
    """The first column of both whose values mean something else in `other`; None where there is none."""
    here, there = _meanings(schema), _meanings(other)
    return next((column for column in here if column in there and here[column] != there[column]), None)


def _meanings(schema: Schema) -> dict[str, tuple[object, ...]]:
    """What the values of each column mean."""
    return {column: (group.kind, group.classes, group.low, group.high) for group in schema for column in group.columns}


@functools.cache
def rules_of(schema: Schema, classes: tuple[str, ...] = ()) -> Mapping[str, ColumnRule]:
    """The rule of every column; `classes` are those of a file that counts them in an order of its own."""
    has_marks = has_challenge_columns(schema)
    labels = {column: _rule(group, has_marks, classes) for group in schema for column in group.columns}
    return {**RULES, **labels}


def _rule(group: Group, has_marks: bool, classes: tuple[str, ...]) -> ColumnRule:
    mark = MARKS[group.kind] if has_marks else None
    missing = f"or {'an empty cell' if mark is None else mark} where there is no label"
    if group.kind == "classes":
        return _class_rule(group, mark, missing, classes or group.classes)
    low, high = limits_of(group)
    if group.kind == "binary":
        return numbers(low, high, mark, pl.Int8(), f"0, 1, {missing}")
    return numbers(low, high, mark, pl.Float32(), f"a number in [{low:g}, {high:g}], {missing}")


def _class_rule(group: Group, mark: float | None, missing: str, order: tuple[str, ...]) -> ColumnRule:
    """A class's number in the file's `order`, or its name."""
    by_number = {float(index): group.classes.index(name) for index, name in enumerate(order)}
    by_name = {name: index for index, name in enumerate(group.classes)}

    def value(text: pl.Expr) -> pl.Expr:
        number = text.cast(pl.Float64, strict=False)
        return pl.coalesce(
            number.replace_strict(by_number, default=None, return_dtype=pl.Int8),
            text.replace_strict(by_name, default=None, return_dtype=pl.Int8),
        )

    def is_missing(text: pl.Expr) -> pl.Expr:
        return text.cast(pl.Float64, strict=False) == mark

    named = f"of {', '.join(group.classes)}" if len(group.classes) <= NUM_NAMED else "of a class"
    expected = f"0 to {len(group.classes) - 1}, or a name {named}, {missing}"
    missing_mark = never if mark is None else is_missing
    return ColumnRule(value, expected, missing_mark, hint=lambda text: class_hint(text, group.classes))


def class_hint(text: str, classes: tuple[str, ...]) -> str:
    """A hint " (did you mean ...?)" where `text` is another word for one of `classes`, or close to one."""
    meant = next((name for name in classes if is_word_for(text, name)), None)
    return nearest(text, classes) if meant is None else f" (did you mean {meant!r}?)"


def is_word_for(text: str, name: str) -> bool:
    """Whether `text` is `name` in whatever case, or another word for the same expression."""
    text, name = text.lower(), name.lower()
    return text == name or any(text in words and name in words for words in WORDS)
