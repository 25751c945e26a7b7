"""Lists of names, as the challenge gives out its test sets: which frames or videos to predict, never a label.

Place: above `extract.annotations.sheets` (a file's cells), beside `extract.annotations.readers`; below `mtl prepare`,
`mtl predict` and `mtl submit`. A list names frames or videos, one per line, in its first cell:

    image,valence,arousal,expression,aus          a header, or none
    video45_1/00001.jpg,                          a frame: bare, with trailing commas, or with dummy values behind it
    video45_1                                     or a video

What stands behind the name is not read: the challenge's example files are full of dummy values. R rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from cache.names import EXPRESSIONS, LABEL_COLUMNS
from extract.annotations.columns import RULES, frame_in, video_in
from extract.annotations.sheets import PATH_NAMES, read_rows
from extract.faces.containers import FACE_SUFFIXES

ListKind = Literal["frames", "videos"]

HEADER_NAMES = (*PATH_NAMES, "images", "video", "videos", "name", "filename")
_LABELS = frozenset(name.casefold() for name in (*LABEL_COLUMNS, *EXPRESSIONS))


@dataclass(frozen=True, slots=True, kw_only=True)
class NameList:
    """One list. `header` is the first line's text where it is a header; `kind` is what the rows name.

    `rows` [R], in the list's order with its duplicates: `line` u32 (from 1), `path` str (the text of the name; of a
    video list null), `video` str (of a video list its text: the answer is a file of that name), `frame` i64 (the number
    in the name; of a video list null).
    """

    path: Path
    header: str | None
    kind: ListKind
    rows: pl.DataFrame

    def __len__(self) -> int:
        return self.rows.height

    def at(self, row: int) -> str:
        """Where row number `row` stands, as an error begins: `list.txt:7`."""
        return f"{self.path}:{self.rows['line'][row]}"


def read_list(path: Path) -> NameList:
    """The names in the list at `path`; header or none, BOM, CRLF, blank lines and anything behind a name are accepted.

    A first line is a header where its first cell is the name of such a column (image, image_location, ...); never
    where it names a frame.

    Raises:
        ValueError: no such file, not text, no row, or the first row that names no frame (or video, where the first row
            names one), as `file:line: what; remedy`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: {'is no file' if path.exists() else 'no such file'}; check the path")
    lines = read_rows(path).with_columns(
        name=pl.col("cells").list.first().str.strip_chars(" \t\r"),
        rest=pl.col("cells").list.slice(1).list.eval(pl.element().str.strip_chars(" \t\r") != "").list.any(),
    )
    if lines.is_empty():
        raise ValueError(f"{path}: the file is empty; expected a frame (video/00001.jpg) or a video a line")
    header = _header_of(path, lines)
    names = lines.slice(1) if header is not None else lines
    if names.is_empty():
        raise ValueError(f"{path}: no rows below the header; expected a frame (video/00001.jpg) or a video a line")
    kind: ListKind = "frames" if names.head(1).select(_is_face("name")).item() else "videos"
    return NameList(path=path, header=header, kind=kind, rows=_ROWS[kind](path, names))


def _header_of(path: Path, lines: pl.DataFrame) -> str | None:
    """The text of the first of `lines` where it is a header.

    Raises:
        ValueError: it is the header of a file of labels without names (`valence,arousal`).
    """
    first = lines["name"][0].casefold()
    if first in HEADER_NAMES:
        return ",".join(lines["cells"][0]).strip(" \t\r")
    if first in _LABELS:
        raise ValueError(
            f"{path}:{lines['line'][0]}: the first column is {lines['name'][0]!r}, so this is a file of labels, not a "
            "list of names; give the challenge's list of frames (video/00001.jpg) or videos"
        )
    return None


def _frame_rows(path: Path, names: pl.DataFrame) -> pl.DataFrame:
    rule = RULES["path"]
    rows = names.select("line", path=pl.when(_is_face("name")).then(rule.value(pl.col("name"))))
    _raise_first(path, names, rows["path"].is_null(), f"a frame such as video/00001.jpg ({' '.join(FACE_SUFFIXES)})")
    return rows.with_columns(video=video_in(pl.col("path")), frame=frame_in(pl.col("path")))


def _video_rows(path: Path, names: pl.DataFrame) -> pl.DataFrame:
    """A list of videos has nothing behind the names: a table of anything else would pass for one."""
    named = RULES["video"].value(pl.col("name"))
    own = pl.when(~_is_face("name") & named.is_not_null()).then("name")
    rows = names.select("line", path=pl.lit(None, pl.String), video=own)
    wrong = rows["video"].is_null() | names["rest"]
    _raise_first(path, names, wrong, "one video's name and nothing else, or a frame such as video/00001.jpg")
    return rows.with_columns(frame=pl.lit(None, pl.Int64))


def _raise_first(path: Path, names: pl.DataFrame, wrong: pl.Series, expected: str) -> None:
    """Raises for the first row of `names` that is flagged in `wrong` [R], saying how many more there are."""
    bad = names.filter(wrong)
    if bad.is_empty():
        return
    text = ",".join(bad["cells"][0]).strip(" \t\r")
    found = text if len(text) <= 60 else text[:57] + "..."
    fault = "" if bad["name"][0] else " names nothing in its first cell"
    more = f" (and {bad.height - 1} more bad rows, the next: {bad['line'][1]})" if bad.height > 1 else ""
    raise ValueError(
        f"{path}:{bad['line'][0]}: {found!r}{fault or ' is no name of this list'}; expected {expected}{more}"
    )


def _is_face(column: str) -> pl.Expr:
    """True where a text is a face's path by its ending."""
    endings = "|".join(suffix.removeprefix(".") for suffix in FACE_SUFFIXES)
    return pl.col(column).str.contains(rf"(?i)\.(?:{endings})$")


_ROWS = {"frames": _frame_rows, "videos": _video_rows}
