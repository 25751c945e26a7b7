"""What the columns of an annotation beside the labels may hold: one rule per column, as Polars expressions over texts.

Place: below `extract.annotations.label_rules` (the columns of labels) and `extract.annotations.sheets`, which applies
the rules to a file's cells and words the errors.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from cache.frames import OUTSIDE
from cache.names import SPLITS

CONTROL = r"[\x00-\x1f\x7f-\x9f]"  # signs that are no text: a terminal would obey some of them
# A number behind one of these words is the frame's.
WORDED = r"(?i)(?:frame|frm|image|img|(?:^|[_-])f)[_-]?[0-9]+"


def never(text: pl.Expr) -> pl.Expr:
    return pl.lit(False)


def _no_words(text: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What a column may hold.

    `value` gives a text's value, null where it is none. `is_missing` is True for the mark of a missing label. `explain`
    says in words what is wrong with a text, where `expected` alone would leave it open, and `hint` what it was probably
    meant to be.
    """

    value: Callable[[pl.Expr], pl.Expr]
    expected: str
    is_missing: Callable[[pl.Expr], pl.Expr] = never
    explain: Callable[[str], str] = _no_words
    hint: Callable[[str], str] = _no_words
    may_be_empty: bool = True


def numbers(
    low: float, high: float, missing: float | None, kind: pl.DataType, expected: str, *, may_be_empty: bool = True
) -> ColumnRule:
    """Numbers in [low, high], whole where `kind` is an integer; `missing` marks a label that is not there."""

    def value(text: pl.Expr) -> pl.Expr:
        number = text.cast(pl.Float64, strict=False).fill_nan(None)
        whole = (number == number.round()) if kind.is_integer() else pl.lit(True)
        return pl.when(number.is_between(low, high) & whole).then(number).cast(kind)

    def is_missing(text: pl.Expr) -> pl.Expr:
        return text.cast(pl.Float64, strict=False) == missing

    return ColumnRule(value, expected, is_missing if missing is not None else never, may_be_empty=may_be_empty)


def _inside(text: pl.Expr) -> pl.Expr:
    return pl.when(~text.str.contains(OUTSIDE)).then(spelt(text))


def _face(text: pl.Expr) -> pl.Expr:
    named = text.str.contains("/", literal=True) & frame_in(text).is_not_null()
    return pl.when(~text.str.contains(OUTSIDE) & named).then(text)


def _split(text: pl.Expr) -> pl.Expr:
    return pl.when(text.is_in(SPLITS)).then(text)


def _any_text(text: pl.Expr) -> pl.Expr:
    return pl.when(~text.str.contains(CONTROL)).then(text)


def frame_in(path: pl.Expr) -> pl.Expr:
    """The frame number in a face's file name; null where there is none, or where it is open which number it is.

    Of the name without its ending, and without the video's own name in front (`video1_00001.jpg` in `video1`): the only
    number; of several, the one behind the word frame, img or image; else the last one, where it stands alone behind
    `_` or `-` at the name's end and has more digits than any other. So `frame_0001_conf0.98.jpg` is frame 1,
    `S005_001_00000011.png` frame 11, and `00001_98.jpg` may be either: null.
    """
    return path.map_batches(_frames_in, return_dtype=pl.Int64, is_elementwise=True)


def _frames_in(paths: pl.Series) -> pl.Series:
    stems = paths.str.extract(r"([^/]+)$").str.replace(r"(.)\.[^.]*$", "${1}")
    found = stems.str.extract(r"^[^0-9]*([0-9]+)[^0-9]*$")
    several = (found.is_null() & stems.str.contains("[0-9]")).fill_null(False).arg_true()
    if len(several):  # few data sets name faces so, and these expressions take ten times as long
        names = pl.select(path=paths.gather(several), stem=stems.gather(several))
        found = found.scatter(several, names.select(_of_several(pl.col("path"), pl.col("stem"))).to_series())
    return found.cast(pl.Int64, strict=False)


def _of_several(path: pl.Expr, stem: pl.Expr) -> pl.Expr:
    """The frame's number, as text, in a name with several numbers."""
    folder = path.str.extract(r"([^/]+)/[^/]*$").fill_null("")
    own = stem.str.strip_prefix(folder + "_").str.strip_prefix(folder + "-")
    numbers, worded = own.str.extract_all("[0-9]+"), own.str.extract_all(WORDED)
    last = own.str.extract(r"[_-]([0-9]+)$")
    lengths = numbers.list.eval(pl.element().str.len_bytes())
    is_longest = (last.str.len_bytes() == lengths.list.max()) & (
        lengths.list.max() > lengths.list.sort().list.get(-2, null_on_oob=True)
    )
    return (
        pl.when(numbers.list.len() == 1)
        .then(numbers.list.first())
        .when(worded.list.len() == 1)
        .then(worded.list.first().str.extract("([0-9]+)"))
        .when((worded.list.len() == 0) & is_longest)
        .then(last)
    )


def video_in(path: pl.Expr) -> pl.Expr:
    """The video's id in a face's path: everything before the file's name, in one spelling (see `spelt`)."""
    return spelt(path.str.extract(r"^(.+)/[^/]+$"))


def spelt(video: pl.Expr) -> pl.Expr:
    """A video's id in the one spelling of Unicode by which ids are compared (NFC): some disks give e and its accent
    as two signs, annotations as one."""
    return video.str.normalize("NFC")


def _path_fault(text: str) -> str:
    """What is wrong with a face's path, in words."""
    if "\\" in text:
        return "it has backslashes"
    if re.search(CONTROL, text):
        return "it has control characters"
    if text.startswith("/") or ".." in text.split("/") or text[1:2] == ":":
        return "it leaves the faces folder"
    if "/" not in text:
        return "it has no video folder"
    stem = os.path.splitext(text.rsplit("/", 1)[1])[0]
    numbers = re.findall("[0-9]+", stem)
    if not numbers:
        return "it has no frame number"
    if len(numbers) > 1 and not re.search(OUTSIDE, text):
        return f"it has several numbers ({', '.join(numbers)}) and none is clearly the frame's"
    return "it is not a plain path"


def _folder_fault(text: str) -> str:
    """What is wrong with a video's name, in words."""
    return "it is not a plain path" if "/" not in text and not re.search(OUTSIDE, f"{text}/1") else _path_fault(text)


_PATH = ColumnRule(
    _face, "a path inside the faces folder such as video/00001.jpg", explain=_path_fault, may_be_empty=False
)
RULES: dict[str, ColumnRule] = {
    "path": _PATH,
    "video": ColumnRule(
        _inside, "the name of a folder inside the faces folder", explain=_folder_fault, may_be_empty=False
    ),
    "frame": numbers(0, 2**53, None, pl.Int64(), "a frame number: a whole number from 0 on", may_be_empty=False),
    "split": ColumnRule(_split, f"one of {', '.join(SPLITS)}"),
    "subject": ColumnRule(_any_text, "a name without control characters"),
}
