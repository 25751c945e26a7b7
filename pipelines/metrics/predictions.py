"""What a model says of frames, and what is decided from it. N frames of a table, R of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS, VA_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What a model says of N frames: `va` [N, 2], `expression` [N] in 0..7, `action_units` [N, 12] in {0, 1}.

    A task that was not predicted is None.
    """

    va: np.ndarray | None = None
    expression: np.ndarray | None = None
    action_units: np.ndarray | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        given = {"va": self.va, "expr": self.expression, "au": self.action_units}
        return tuple(task for task in TASKS if given[task] is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probabilities:
    """A model's outputs of N frames: `va` [N, 2], `expr` [N, 8] summing to 1, `au` [N, 12] in [0, 1]; None as above."""

    va: np.ndarray | None = None
    expr: np.ndarray | None = None
    au: np.ndarray | None = None

    def decide(self, thresholds: Sequence[float] | None = None, offsets: Sequence[float] | None = None) -> Decisions:
        """The most probable expression and the AUs at or above their `thresholds` (12 values; default 0.5).

        `offsets` (8 values) are added to the log probabilities of the expressions first.
        """
        cut = np.full(len(ACTION_UNITS), 0.5) if thresholds is None else np.asarray(thresholds)
        return Decisions(
            va=self.va,
            expression=None if self.expr is None else _highest(self.expr, offsets),
            action_units=None if self.au is None else (self.au >= cut).astype(np.int8),
        )


def _highest(probabilities: np.ndarray, offsets: Sequence[float] | None) -> np.ndarray:
    """[N] the class of the highest of `probabilities` [N, 8], or of their logarithms plus `offsets` [8]."""
    if offsets is None or not np.any(offsets):
        return probabilities.argmax(axis=1)
    return (np.log(np.maximum(probabilities, 1e-12)) + np.asarray(offsets)).argmax(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """`rows` [R] of the frames table, ascending, and what a model says of each."""

    rows: np.ndarray
    probabilities: Probabilities

    def decide(self) -> Decisions:
        """Classes and AUs at the default thresholds."""
        return self.probabilities.decide()


def merge(parts: list[Predictions]) -> Predictions:
    """Predictions of several models, each of its own tasks, over the same rows."""
    given = {
        task: getattr(part.probabilities, task)
        for part in parts
        for task in TASKS
        if getattr(part.probabilities, task) is not None
    }
    assert all(np.array_equal(part.rows, parts[0].rows) for part in parts)
    return Predictions(rows=parts[0].rows, probabilities=Probabilities(**given))


def is_finite(predictions: Predictions) -> bool:
    """True when every predicted number is finite."""
    parts = predictions.probabilities
    return all(np.isfinite(part).all() for part in (parts.va, parts.expr, parts.au) if part is not None)


def prediction_table(predictions: Predictions, frames: pl.DataFrame, part: str) -> pl.DataFrame:
    """The rows of `frames` that are predicted, in its columns, with probabilities as `p_<Class>` and `p_<AU>`."""
    probabilities, decided = predictions.probabilities, predictions.decide()
    columns: dict[str, np.ndarray] = {}
    if probabilities.va is not None:
        columns |= _named(VA_COLUMNS, probabilities.va.astype(np.float32))
    if probabilities.expr is not None and decided.expression is not None:
        columns |= {"expression": decided.expression.astype(np.int8)}
        columns |= _named([f"p_{name}" for name in EXPRESSIONS], probabilities.expr.astype(np.float32))
    if probabilities.au is not None and decided.action_units is not None:
        columns |= _named(ACTION_UNITS, decided.action_units.astype(np.int8))
        columns |= _named([f"p_{name}" for name in ACTION_UNITS], probabilities.au.astype(np.float32))
    rows = frames.select("video", "frame")[predictions.rows]
    return rows.with_columns(pl.lit(part).alias("part"), *[pl.Series(name, v) for name, v in columns.items()])


def _named(names: Any, values: np.ndarray) -> dict[str, np.ndarray]:
    """[R, K] as one column a name."""
    return {name: np.ascontiguousarray(values[:, index]) for index, name in enumerate(names)}
