"""What is known of the subjects beside their names: groups by which a model is scored apart. R rows.

The file that `[data] attributes` names, CSV with a header: `video` or `subject` or both, and a column per attribute
(gender, age group, ..). The file of `mtl prepare --subjects` may have such columns and be named here.
"""

import csv
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import polars as pl

from cache.regular import CONFIG_BYTES, read_text

KEYS = ("video", "subject")
MOST_VALUES = 12  # of one attribute: more are no groups


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int) -> pl.DataFrame:
    """The table at `path`, every cell a text; `changed_ns` is when it was written."""
    lines = [line for line in csv.reader(io.StringIO(read_text(path, CONFIG_BYTES))) if any(line)]
    header, cells = next(iter(lines), []), [[cell.strip() or None for cell in line] for line in lines[1:]]
    if len(set(header)) < len(header) or any(len(row) != len(header) for row in cells):
        raise ValueError(f"{path}: not a CSV table with a header of different names and a cell for each in every row")
    table = pl.DataFrame(cells, schema=dict.fromkeys(map(str.strip, header), pl.String), orient="row")
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise ValueError(
            f"{path}: has neither a column video nor a column subject; the columns beside it are attributes"
        )
    if not set(table.columns) - set(KEYS):
        raise ValueError(f"{path}: has no column beside {' and '.join(table.columns)}; name one per attribute")
    for name in set(table.columns) - set(KEYS):
        if (number := table[name].n_unique()) > MOST_VALUES:
            raise ValueError(f"{path}: {name} has {number} different values; write groups, at most {MOST_VALUES}")
    twice = table.filter(pl.col(key).is_duplicated())
    if len(twice):
        raise ValueError(f"{path}: {key} {twice[key][0]!r} stands there twice; remove one of the rows")
    return table.select(key, pl.all().exclude(KEYS))


def attributes_of(path: Path, frames: pl.DataFrame) -> pl.DataFrame:
    """The attributes of the rows `frames` [R], row for row; null where nothing is said.

    Raises:
        ValueError: no such file, not one of attributes, or one by subject where the frames table knows no subjects.
    """
    try:
        table = _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    key = table.columns[0]
    if key not in frames.columns:
        raise ValueError(f"{path}: goes by subject, and the frames table knows none; give it a column video")
    found = frames.select(key).join(table, on=key, how="left", maintain_order="left")
    return found.drop(key)


def values_of(column: pl.Series) -> Sequence[str]:
    """What an attribute's column holds, sorted."""
    return column.drop_nulls().unique().sort().to_list()
