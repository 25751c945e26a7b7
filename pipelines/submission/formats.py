"""The challenge's submission formats, to the byte: header, cells of a row, numbers. R rows.

A row is `path,cells`; in the per-video form of ABAW3 the cells alone. No quotes, no spaces, UTF-8, every line ends in
LF, the last one too. Valence and arousal are clipped to [-1, 1] and have six digits after the point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cache.labels import Kind
from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from pipelines.metrics.predictions import Decisions
from pipelines.predict.compound import PAIRS

DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """How a task of a `kind` is written: `num` cells per row, as `columns` makes them of its decisions, each of the
    form `pattern` and, where it has `limits`, within them. `words` name the task."""

    kind: Kind
    num: int
    columns: Callable[[np.ndarray], list[list[str]]]
    pattern: str
    words: str
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One track: the tasks whose cells make up a row, in this order; the header with paths, and without them."""

    name: str
    tasks: tuple[str, ...]
    header: str
    video_header: str | None

    @property
    def num_cells(self) -> int:
        """Cells of a row behind the path."""
        return sum(CELLS[task].num for task in self.tasks)


def cells_of(track: Track, decided: Decisions) -> list[str]:
    """[R] the cells of each row, joined by commas."""
    columns = [column for task in track.tasks for column in CELLS[task].columns(decided.parts[task])]
    return [",".join(cells) for cells in zip(*columns, strict=True)]


def fixed(values: np.ndarray) -> list[str]:
    """[R] numbers clipped to [-1, 1], such as "0.250000" and "-1.000000"; never "-0.000000"."""
    rounded = np.round(np.clip(values.astype(np.float64), -1.0, 1.0), DIGITS) + 0.0
    return [f"{value:.{DIGITS}f}" for value in rounded.tolist()]


def num_clipped(decided: Decisions) -> int:
    """Frames whose valence or arousal is outside [-1, 1]."""
    return int((np.abs(decided.parts["va"]) > 1.0).any(axis=1).sum()) if "va" in decided.parts else 0


def _numbers(values: np.ndarray) -> list[list[str]]:
    return [fixed(column) for column in values.T]


def _classes(classes: np.ndarray) -> list[list[str]]:
    return [list(map(str, classes.tolist()))]


def _bits(on: np.ndarray) -> list[list[str]]:
    return [list(map(str, column)) for column in on.T.tolist()]


def track_of(header: str) -> str | None:
    """The track whose header a list has, None where it is no track's alone."""
    cells = [cell.strip().casefold() for cell in header.strip(", ").split(",")]
    return next((name for name, known in _HEADERS if [cell.casefold() for cell in known] == cells), None)


NUMBER = rf"^-?[01]\.[0-9]{{{DIGITS}}}$"
CELLS = {
    "va": Cells(
        kind="continuous", num=2, columns=_numbers, pattern=NUMBER, words="valence and arousal", limits=(-1, 1)
    ),
    "expr": Cells(kind="classes", num=1, columns=_classes, pattern=r"^[0-7]$", words="expressions"),
    "au": Cells(kind="binary", num=len(ACTION_UNITS), columns=_bits, pattern=r"^[01]$", words="action units"),
    "ce": Cells(kind="classes", num=1, columns=_classes, pattern=r"^[0-6]$", words="compound expressions"),
}
TRACKS: dict[str, Track] = {
    "mtl": Track(name="mtl", tasks=TASKS, header="image,valence,arousal,expression,aus", video_header=None),
    "va": Track(name="va", tasks=("va",), header="image_location,valence,arousal", video_header="valence,arousal"),
    "expr": Track(
        name="expr",
        tasks=("expr",),
        header="image_location," + ",".join(EXPRESSIONS),
        video_header=",".join(EXPRESSIONS),
    ),
    "au": Track(
        name="au",
        tasks=("au",),
        header="image_location," + ",".join(ACTION_UNITS),
        video_header=",".join(ACTION_UNITS),
    ),
    "ce": Track(name="ce", tasks=("ce",), header="image_location," + ",".join(PAIRS), video_header=None),
}
_HEADERS: Sequence[tuple[str, Sequence[str]]] = (
    *((track.name, track.header.split(",")) for track in TRACKS.values()),
    ("mtl", ("image", "valence", "arousal", "expression", *ACTION_UNITS)),
)
