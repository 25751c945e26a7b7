"""Post-processing of predictions: smoothing a task, an offset a class, a threshold an AU, as stored parameters. R rows.

`pipelines.postprocess.fit` chooses them; here they are applied, written and read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS, VA_COLUMNS
from pipelines.metrics.predictions import Decisions, Probabilities
from pipelines.postprocess.offsets import NONE
from pipelines.postprocess.smoothing import Smoothing, smooth

COLUMNS: dict[str, tuple[str, ...]] = {
    "va": VA_COLUMNS,
    "expr": tuple(f"p_{name}" for name in EXPRESSIONS),
    "au": tuple(f"p_{name}" for name in ACTION_UNITS),
}
HALF = (0.5,) * len(ACTION_UNITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """`smoothing` by task (a task that is not named is not smoothed), 12 thresholds of AU probabilities, and 8
    `offsets` of the log probabilities of expressions."""

    smoothing: Mapping[str, Smoothing] = field(default_factory=dict)
    thresholds: tuple[float, ...] = HALF
    offsets: tuple[float, ...] = NONE

    def decide(self, said: Probabilities) -> Decisions:
        """What follows from the smoothed `said`."""
        return said.decide(self.thresholds, self.offsets)

    def to_json(self) -> dict[str, Any]:
        kernels = {task: self.smoothing.get(task, Smoothing()) for task in TASKS}
        return {
            "smoothing": {task: {"kernel": one.kernel, "width": one.width} for task, one in kernels.items()},
            "thresholds": dict(zip(ACTION_UNITS, self.thresholds, strict=True)),
            "offsets": dict(zip(EXPRESSIONS, self.offsets, strict=True)),
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Parameters":
        """What `to_json` made.

        Raises:
            ValueError: anything else; names `where`.
        """
        try:
            smoothing = {
                task: Smoothing(value["smoothing"][task]["kernel"], float(value["smoothing"][task]["width"]))
                for task in TASKS
            }
            thresholds = tuple(float(value["thresholds"][name]) for name in ACTION_UNITS)
            offsets = tuple(float(value["offsets"][name]) for name in EXPRESSIONS)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{where}: not parameters of post-processing ({what})") from None
        if not all(0 <= threshold <= 1 for threshold in thresholds):
            raise ValueError(f"{where}: not parameters of post-processing (a threshold is outside 0 to 1)")
        if not np.isfinite(offsets).all():
            raise ValueError(f"{where}: not parameters of post-processing (an offset is not a finite number)")
        return cls(smoothing=smoothing, thresholds=thresholds, offsets=offsets)


def apply(parameters: Parameters, table: pl.DataFrame) -> pl.DataFrame:
    """`table` with smoothed values and probabilities, and the classes and AUs that follow from them.

    Args:
        parameters: what `mtl postprocess` fitted.
        table: predictions with the columns of a run's predictions.parquet; of a task, all columns or none. Where it
            has `part`, rows of two parts never meet, whatever their video.

    Returns:
        The same columns and rows in the same order; what is no prediction stays as it was.
    """
    said = smoothed(parameters, table, probabilities_of(table))
    columns = prediction_columns(said, parameters.decide(said))
    return table.with_columns(pl.Series(name, values) for name, values in columns.items())


def smoothed(parameters: Parameters, table: pl.DataFrame, said: Probabilities) -> Probabilities:
    """`said` of the rows of `table`, each task smoothed in its own way."""
    videos, frames = video_numbers(table), table["frame"].to_numpy()
    parts = {}
    for task in TASKS:
        values, how = getattr(said, task), parameters.smoothing.get(task, Smoothing())
        if values is not None:
            parts[task] = smooth_task(task, values, videos, frames, how)
    return Probabilities(**parts)


def smooth_task(task: str, values: np.ndarray, videos: np.ndarray, frames: np.ndarray, how: Smoothing) -> np.ndarray:
    """`values` [R, K] of a task, smoothed. Medians of probabilities are scaled so that they sum to 1 again."""
    result = smooth(values, videos, frames, how)
    if task == "expr" and how.kernel == "median" and how.width > 0:
        result /= np.maximum(result.sum(axis=1, keepdims=True), 1e-12)
    return result


def video_numbers(table: pl.DataFrame) -> np.ndarray:
    """[R] int64: one number a video, or where there is a column `part`, a video within its part."""
    keys = ["part", "video"] if "part" in table.columns else ["video"]
    return table.select(pl.struct(keys).rank("dense").cast(pl.Int64)).to_series().to_numpy()


def probabilities_of(table: pl.DataFrame) -> Probabilities:
    """What a table of predictions says, as float64.

    Raises:
        ValueError: a task has some of its columns only, or a prediction is missing or not finite.
    """
    parts = {}
    for task, names in COLUMNS.items():
        there = [name for name in names if name in table.columns]
        if there and len(there) < len(names):
            lost = next(name for name in names if name not in table.columns)
            raise ValueError(f"predictions: column {lost!r} is missing beside {there[0]!r}")
        if there:
            values = table.select(names).cast(pl.Float64).to_numpy()
            if not np.isfinite(values).all():
                raise ValueError(f"predictions: {names[0]} .. {names[-1]} hold a missing or not finite number")
            parts[task] = values
    if not parts:
        raise ValueError("predictions: no valence and arousal, and no probabilities (p_Neutral .., p_AU1 ..)")
    return Probabilities(**parts)


def prediction_columns(said: Probabilities, decided: Decisions) -> dict[str, np.ndarray]:
    """Columns by name, in the order and types of a run's predictions.parquet."""
    columns: dict[str, np.ndarray] = {}
    if said.va is not None:
        columns |= _named(VA_COLUMNS, said.va.astype(np.float32))
    if said.expr is not None and decided.expression is not None:
        columns["expression"] = decided.expression.astype(np.int8)
        columns |= _named(COLUMNS["expr"], said.expr.astype(np.float32))
    if said.au is not None and decided.action_units is not None:
        columns |= _named(ACTION_UNITS, decided.action_units.astype(np.int8))
        columns |= _named(COLUMNS["au"], said.au.astype(np.float32))
    return columns


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """[R, K] as one column a name."""
    return {name: np.ascontiguousarray(values[:, index]) for index, name in enumerate(names)}
