"""A submission read back from the disk, by another way than it was written, before it gets its name. R rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.submission.formats import CELLS, Track

MARK = "the file was not put in place"


def check_rows(path: Path, track: Track, header: str, names: Sequence[str] | None, num_rows: int) -> None:
    """Raises `ValueError` unless the file at `path` is a submission of `track` with `num_rows` rows in order.

    `names` [R] are the first cells of the rows, None in a file without paths.
    """
    data = path.read_bytes()
    if b"\r" in data or b'"' in data or data.startswith(b"\xef\xbb\xbf") or not data.endswith(b"\n"):
        raise _fault(path, 0, "a byte that the format does not have")
    found, *lines = data.decode("utf-8").removesuffix("\n").split("\n")
    if found != header:
        raise _fault(path, 1, f"the header is {found!r}, not {header!r}")
    if len(lines) != num_rows:
        raise _fault(path, len(lines) + 1, f"{len(lines):,} rows, not {num_rows:,}")
    num_cells = track.num_cells + (names is not None)
    table = pl.DataFrame({"line": lines}).select(cells=pl.col("line").str.split(","))
    _check(path, table["cells"].list.len() == num_cells, f"not {num_cells} cells")
    if names is not None:
        same = table["cells"].list.first() == pl.Series(list(names), dtype=pl.String)
        _check(path, same, "not the name that the list has in this row")
    first = int(names is not None)
    for place, task in enumerate(_tasks(track), start=first):
        cell = table["cells"].list.get(place)
        _check(path, cell.str.contains(CELLS[task].pattern), f"cell {place + 1} is not in the form of {task}")
        if limits := CELLS[task].limits:
            outside = f"cell {place + 1} is outside [{limits[0]:g}, {limits[1]:g}]"
            _check(path, cell.cast(pl.Float64).is_between(*limits), outside)


def _tasks(track: Track) -> list[str]:
    """The task of each cell behind the path."""
    return [task for task in track.tasks for _ in range(CELLS[task].num)]


def _check(path: Path, right: pl.Series, what: str) -> None:
    wrong = np.flatnonzero(~right.fill_null(False).to_numpy())
    if len(wrong):
        raise _fault(path, int(wrong[0]) + 2, f"{what} ({len(wrong):,} such rows)")


def _fault(path: Path, line: int, what: str) -> ValueError:
    where = f"{path.name}:{line}" if line else path.name
    return ValueError(f"{where}: read back, the submission is wrong: {what}; {MARK}, write it again")
