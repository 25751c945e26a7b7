"""Post-processing of predictions: smoothing per group, scale and shift of continuous columns, offsets of classes,
thresholds of binary columns. R rows.

`pipelines.postprocess.fit` chooses them; here they are applied, written and read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from cache.labels import ABAW, Group, Schema, Task
from pipelines.metrics.predictions import TINY, Decisions, Probabilities, prediction_columns
from pipelines.postprocess.affine import IDENTITY, match
from pipelines.postprocess.outside import Outside, take_surer
from pipelines.postprocess.smoothing import Smoothing, smooth


def default_cuts(group: Group) -> tuple[float, ...]:
    """What a group's decisions are made with where nothing is fitted: offsets of classes, thresholds of binary columns,
    nothing for continuous ones."""
    return {"continuous": (), "classes": (0.0,) * group.num_outputs, "binary": (0.5,) * group.num_outputs}[group.kind]


def components(value: Mapping[str, Any]) -> list[str]:
    """Which parts of post-processing change a prediction, of parameters as JSON values."""
    changed = {
        "smoothing": any(one["kernel"] != "none" for one in value["smoothing"].values()),
        "affine": any((one["scale"], one["shift"]) != IDENTITY for one in value["affine"].values()),
        "offsets": any(offset != 0 for offset in value["offsets"].values()),
        "thresholds": any(threshold != 0.5 for threshold in value["thresholds"].values()),
        "outside classifier": bool(value["outside"]),
    }
    return [name for name, is_changed in changed.items() if is_changed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """`smoothing` by label group (one that is not named is not smoothed), `affine` (scale, shift) of each column of a
    continuous group, `thresholds` [K] of the probabilities of each binary group, and `offsets` [K] of the log
    probabilities of each group of classes; none where not named. `outside` are classifiers by group of classes, whose
    class is taken where they are surer than a threshold."""

    smoothing: Mapping[str, Smoothing] = field(default_factory=dict)
    affine: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    thresholds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    offsets: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    outside: Mapping[str, Outside] = field(default_factory=dict)
    schema: Schema = ABAW

    def decide(self, predicted: Probabilities) -> Decisions:
        """The decisions from `predicted` after `processed`."""
        return predicted.decide(self.thresholds, self.offsets)

    def affine_of(self, group: Group) -> tuple[tuple[float, float], ...]:
        """(scale, shift) of each column of a continuous group."""
        return self.affine.get(group.name, (IDENTITY,) * len(group.columns))

    def to_json(self) -> dict[str, Any]:
        """Smoothing by group, scale, shift and thresholds by column, and offsets by class."""
        kernels = {group.name: self.smoothing.get(group.name, Smoothing()) for group in self.schema}
        return {
            "smoothing": {name: {"kernel": one.kernel, "width": one.width} for name, one in kernels.items()},
            "affine": {
                name: {"scale": scale, "shift": shift}
                for group in self.schema
                if group.kind == "continuous"
                for name, (scale, shift) in zip(group.columns, self.affine_of(group), strict=True)
            },
            "thresholds": named_cuts(self.thresholds, self.schema, "binary"),
            "offsets": named_cuts(self.offsets, self.schema, "classes"),
            "outside": {name: one.to_json() for name, one in self.outside.items()},
        }

    @classmethod
    def from_json(cls, value: Any, where: str, schema: Schema = ABAW) -> "Parameters":
        """What `to_json` made.

        Raises:
            ValueError: anything else; names `where`.
        """
        try:
            smoothing = {
                name: Smoothing(value["smoothing"][name]["kernel"], float(value["smoothing"][name]["width"]))
                for name in schema.names
            }
            outside = {schema.group(name).name: Outside.from_json(one) for name, one in value["outside"].items()}
            affine = {
                group.name: tuple(
                    (float(value["affine"][name]["scale"]), float(value["affine"][name]["shift"]))
                    for name in group.columns
                )
                for group in schema
                if group.kind == "continuous"
            }
            cuts = {
                key: {
                    group.name: tuple(float(value[key][name]) for name in group.names)
                    for group in schema
                    if group.kind == kind
                }
                for key, kind in (("thresholds", "binary"), ("offsets", "classes"))
            }
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{where}: not parameters of post-processing ({what})") from None
        if not all(0 <= threshold <= 1 for found in cuts["thresholds"].values() for threshold in found):
            raise ValueError(f"{where}: not parameters of post-processing (a threshold is outside 0 to 1)")
        if not all(np.isfinite(found).all() for found in cuts["offsets"].values()):
            raise ValueError(f"{where}: not parameters of post-processing (an offset is not a finite number)")
        if not all(np.isfinite(found).all() and min(found)[0] > 0 for found in affine.values()):
            raise ValueError(f"{where}: not parameters of post-processing (a scale is not above 0, or infinite)")
        return cls(smoothing=smoothing, affine=affine, **cuts, outside=outside, schema=schema)


def named_cuts(cuts: Mapping[str, Sequence[float]], schema: Schema, kind: str) -> dict[str, float]:
    """`cuts` by group as numbers by class or column, of every group of the `kind`."""
    return {
        name: value
        for group in schema
        if group.kind == kind
        for name, value in zip(group.names, cuts.get(group.name, default_cuts(group)), strict=True)
    }


def apply(parameters: Parameters, table: pl.DataFrame, outside: Mapping[str, np.ndarray] | None = None) -> pl.DataFrame:
    """`table` with processed values and probabilities, and the classes and binary columns decided from them.

    Args:
        parameters: what `mtl postprocess` fitted.
        table: predictions with the columns of a run's predictions.parquet; of a task, all columns or none. Where it
            has `part`, rows of two parts never meet, whatever their video.

    Returns:
        The same columns and rows in the same order; what is no prediction stays as it was.
    """
    plain = dataclasses.replace(probabilities_of(table, parameters.schema), outside=outside or {})
    predicted = processed(parameters, table, plain)
    columns = prediction_columns(predicted, parameters.decide(predicted))
    return table.with_columns(pl.Series(name, values) for name, values in columns.items())


def processed(parameters: Parameters, table: pl.DataFrame, predicted: Probabilities) -> Probabilities:
    """`predicted` of the rows of `table`, each task smoothed in its own way, continuous columns scaled and shifted, and
    classes where an outside classifier is surer with its probabilities, smoothed in the same way."""
    videos, frames = video_numbers(table), table["frame"].to_numpy()
    parts = {}
    for task in predicted.tasks:
        how = parameters.smoothing.get(task.group.name, Smoothing())
        parts[task.name] = smooth_task(task, predicted.parts[task.name], videos, frames, how)
        if task.group.kind == "continuous":
            affine = np.array(parameters.affine_of(task.group))[list(task.indices)]
            parts[task.name] = match(parts[task.name], affine, task.group)
        if task.group.name in parameters.outside:
            threshold = parameters.outside[task.group.name].threshold
            said = smooth_task(task, predicted.outside[task.group.name], videos, frames, how)
            offsets = np.array(parameters.offsets.get(task.group.name, default_cuts(task.group)))
            parts[task.name] = take_surer(parts[task.name], said, threshold, offsets)
    return Probabilities(parts=parts, schema=predicted.schema)


def smooth_task(task: Task, values: np.ndarray, videos: np.ndarray, frames: np.ndarray, how: Smoothing) -> np.ndarray:
    """`values` [R, K] of a task, smoothed. Medians of classes' probabilities are scaled so that they sum to 1 again."""
    result = smooth(values, videos, frames, how)
    if task.group.kind == "classes" and how.kernel == "median" and how.width > 0:
        result /= np.maximum(result.sum(axis=1, keepdims=True), TINY)
    return result


def video_numbers(table: pl.DataFrame) -> np.ndarray:
    """[R] int64: one number per video, or where there is a column `part`, a video within its part."""
    keys = ["part", "video"] if "part" in table.columns else ["video"]
    return table.select(pl.struct(keys).rank("dense").cast(pl.Int64)).to_series().to_numpy()


def probabilities_of(table: pl.DataFrame, schema: Schema = ABAW) -> Probabilities:
    """The probabilities and values of a table of predictions, as float64.

    Raises:
        ValueError: a group of classes or binary columns has some of its columns only, or a prediction is missing or not
            finite.
    """
    parts = {}
    for group in schema:
        there = [name for name in group.output_columns if name in table.columns]
        if not there:
            continue
        if group.kind != "continuous" and len(there) < len(group.output_columns):
            lost = next(name for name in group.output_columns if name not in table.columns)
            raise ValueError(f"predictions: column {lost!r} is missing beside {there[0]!r}")
        (task,) = schema.scored(there if group.kind == "continuous" else [group.name])
        values = table.select(task.output_columns).cast(pl.Float64).to_numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"predictions: {there[0]} .. {there[-1]} hold a missing or not finite number")
        parts[task.name] = values
    if not parts:
        wanted = ", ".join(name for group in schema for name in group.output_columns[:2])
        raise ValueError(f"predictions: none of the columns of predictions is there ({wanted}, ..)")
    return Probabilities(parts=parts, schema=schema)
