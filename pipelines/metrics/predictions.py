"""What a model predicts of frames, and what is decided from it.

N frames of a table, R of its rows, K outputs of a task. Parts are named by task, one per label group, in the order of
the schema: see `Schema.scored`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from cache.labels import ABAW, Schema, Task

TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What is decided of N frames: values [N, K] of a continuous task, classes [N] from 0, or binary columns [N, K] in
    {0, 1}. A task that was not predicted is not there."""

    parts: Mapping[str, np.ndarray]
    schema: Schema = ABAW

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.schema.scored(list(self.parts))

    def take(self, rows: np.ndarray) -> "Decisions":
        """Those of `rows`: row numbers or a mask [N]."""
        return Decisions(parts={name: part[rows] for name, part in self.parts.items()}, schema=self.schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probabilities:
    """A model's outputs of N frames, [N, K] each: values of a continuous task, else probabilities, those of classes
    summing to 1. `outside` [N, K] by group is what a classifier from elsewhere says of the same frames, for
    post-processing; zeros where it says nothing."""

    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    schema: Schema = ABAW
    outside: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.schema.scored(list(self.parts))

    def values(self, name: str) -> np.ndarray:
        """[N, K] of the task `name`, also where it is a part of what was predicted; KeyError where it is not."""
        (task,) = self.schema.scored([name])
        for own in self.tasks:
            if own.group.name == task.group.name and set(task.indices) <= set(own.indices):
                whole = self.parts[own.name]
                return whole if own.name == task.name else whole[:, [own.indices.index(i) for i in task.indices]]
        raise KeyError(name)

    def rows(self, rows: np.ndarray) -> "Probabilities":
        """Those of `rows`: row numbers or a mask [N]."""
        parts, outside = ({name: part[rows] for name, part in all.items()} for all in (self.parts, self.outside))
        return Probabilities(parts=parts, schema=self.schema, outside=outside)

    def decide(
        self,
        thresholds: Mapping[str, Sequence[float]] | None = None,
        offsets: Mapping[str, Sequence[float]] | None = None,
    ) -> Decisions:
        """The most probable class, and the binary columns at or above their threshold (default 0.5).

        By group: `thresholds` [K] of a binary one, and `offsets` [K] that are added to the log probabilities of classes
        first.
        """
        parts = {}
        for task in self.tasks:
            values, group = self.parts[task.name], task.group
            if group.kind == "classes":
                values = _highest(values, (offsets or {}).get(group.name))
            elif group.kind == "binary":
                cuts = np.asarray((thresholds or {}).get(group.name, [0.5] * group.num_outputs))
                values = (values >= cuts).astype(np.int8)
            parts[task.name] = values
        return Decisions(parts=parts, schema=self.schema)


def _highest(probabilities: np.ndarray, offsets: Sequence[float] | None) -> np.ndarray:
    """[N] the class of the highest of `probabilities` [N, K], or of their logarithms plus `offsets` [K]."""
    if offsets is None or not np.any(offsets):
        return probabilities.argmax(axis=1)
    return (np.log(np.maximum(probabilities, TINY)) + np.asarray(offsets)).argmax(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """`rows` [R] of the frames table, ascending, and what a model predicts of each."""

    rows: np.ndarray
    probabilities: Probabilities

    def decide(self) -> Decisions:
        """Classes and binary columns at the default thresholds."""
        return self.probabilities.decide()


def joined(parts: Mapping[str, np.ndarray], schema: Schema) -> Probabilities:
    """Outputs by the tasks that models have, [N, K] each, as those of one model: the columns of a group together."""
    found = {}
    for task in schema.scored(list(parts)):
        if task.name in parts:
            found[task.name] = parts[task.name]
            continue
        columns = {
            index: parts[name][:, place]
            for name in parts
            if schema.tasks[name].group is task.group
            for place, index in enumerate(schema.tasks[name].indices)
        }
        found[task.name] = np.stack([columns[index] for index in task.indices], axis=1)
    return Probabilities(parts=found, schema=schema)


def merge(parts: list[Predictions]) -> Predictions:
    """Predictions of several models, each of its own tasks, over the same rows."""
    first = parts[0]
    assert all(np.array_equal(part.rows, first.rows) for part in parts)
    given = {name: values for part in parts for name, values in part.probabilities.parts.items()}
    return Predictions(rows=first.rows, probabilities=joined(given, first.probabilities.schema))


def mean_predictions(parts: Sequence[Predictions]) -> Predictions:
    """The mean of what one model predicts of the same rows in several views."""
    first, *others = parts
    if not others:
        return first
    views = {name: np.stack([one.probabilities.parts[name] for one in parts]) for name in first.probabilities.parts}
    means = {name: np.asarray(each.mean(axis=0, dtype=np.float64), np.float32) for name, each in views.items()}
    return Predictions(rows=first.rows, probabilities=joined(means, first.probabilities.schema))


def is_finite(predictions: Predictions) -> bool:
    """True when every predicted number is finite."""
    return all(np.isfinite(part).all() for part in predictions.probabilities.parts.values())


def prediction_table(predictions: Predictions, frames: pl.DataFrame, part: str) -> pl.DataFrame:
    """The rows of `frames` that are predicted, with the columns of `prediction_columns`."""
    columns = prediction_columns(predictions.probabilities, predictions.decide())
    rows = frames.select("video", "frame")[predictions.rows]
    rows = rows.with_columns(pl.col("video").cast(pl.String), pl.col("frame").cast(pl.Int64))
    return rows.with_columns(pl.lit(part).alias("part"), *[pl.Series(name, v) for name, v in columns.items()])


def prediction_columns(probabilities: Probabilities, decided: Decisions) -> dict[str, np.ndarray]:
    """Columns by name, in the order and types of a run's predictions.parquet: what is decided under the names of the
    labels, and probabilities as `p_<Class>` and `p_<column>`."""
    columns: dict[str, np.ndarray] = {}
    for task in probabilities.tasks:
        values = probabilities.parts[task.name].astype(np.float32)
        if task.group.kind != "continuous":
            labels = decided.parts[task.name].astype(np.int8)
            columns |= _named(task.columns, labels.reshape(len(labels), len(task.columns)))
        columns |= _named(task.output_columns, values)
    return columns


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """[R, K] as one column per name."""
    return {name: np.ascontiguousarray(values[:, index]) for index, name in enumerate(names)}
