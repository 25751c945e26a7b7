"""Tables of predictions as runs keep them, read with their types checked.

Columns: `video` text, `frame` whole numbers, `part` text; all others numbers.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from cache.parquet import read_parquet

KEYS = ("video", "frame", "part")


def read_predicted(path: Path, columns: Sequence[str] | None = None, remedy: str = "train it again") -> pl.DataFrame:
    """The table of predictions at `path`; of `columns` those that it has, always `KEYS`.

    Raises:
        ValueError: it is missing, damaged or of other columns or types; ends with `remedy`.
    """
    try:
        table = read_parquet(path, None if columns is None else list(dict.fromkeys((*KEYS, *columns))))
    except (OSError, PolarsError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "damaged"
        raise ValueError(f"{path}: {what}; {remedy}") from None
    lacking = [name for name in KEYS if name not in table.columns]
    if lacking:
        raise ValueError(f"{path}: not a run's predictions (no column {', '.join(lacking)}); {remedy}")
    for name, kind in table.schema.items():
        fits = kind.is_integer() or (kind.is_float() and name != "frame") if name not in TEXTS else kind == pl.String
        if not fits:
            wanted = "text" if name in TEXTS else "whole numbers" if name == "frame" else "numbers"
            raise ValueError(f"{path}: column {name!r} holds {str(kind)[:60]}, not {wanted}; {remedy}")
    return table.with_columns(pl.col("frame").cast(pl.Int64, strict=False))


TEXTS = ("video", "part")
