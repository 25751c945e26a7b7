"""Predictions of a part (select or report) beside its labels, and the scores that fitting needs. R rows, F folds.

A task's score is a function of sums over rows, so whatever is fitted on some folds is scored from the folds' sums.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.frames import Frames, beside
from cache.labels import ABAW, Schema, Task
from heads.labels import Labels
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.intervals import (
    NUM_RESAMPLES,
    Groups,
    GroupSums,
    Interval,
    group_sums,
    middle,
    without_labels,
)
from pipelines.metrics.predictions import Decisions, Probabilities
from pipelines.metrics.sums import row_sums, scores, task_score
from pipelines.postprocess.apply import probabilities_of
from pipelines.postprocess.outside import OutsideScores, outside_rows
from pipelines.splits import assign_groups, groups_of

NUM_FOLDS = 5
FOLD_SEED = 0
NUM_DRAWN = 1000
MOST_MEMBERS = 1 << 24  # of a matrix of rows in folds: 128 MB; a million rows of 1,000 videos would take 8 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Predictions of the select or the report rows, and row for row the frames table's labels and subjects.

    `outside` is the classifier whose probabilities the predictions hold beside their own, if any.
    """

    table: pl.DataFrame
    frames: pl.DataFrame
    predicted: Probabilities
    labels: Labels
    outside: OutsideScores | None = None

    @property
    def schema(self) -> Schema:
        return self.predicted.schema

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that were predicted and have a label here."""
        return tuple(task.name for task in self.predicted.tasks if self.labels.labelled(task.group.name).any())

    def task(self, name: str) -> Task:
        """One of `tasks`."""
        (task,) = self.schema.scored([name])
        return task


def make_part(table: pl.DataFrame, frames: Frames, schema: Schema = ABAW, outside: OutsideScores | None = None) -> Part:
    """`table` of predictions beside its rows of the frames table `frames`, and what an `outside` classifier says of
    them.

    Raises:
        ValueError: a predicted row is not in the frames table.
    """
    table = table.sort("video", "frame")
    rows = beside(frames, table, [name for name in frames.columns if name not in ("video", "frame")]).drop("row")
    if rows["path"].null_count():
        video, frame = rows.filter(pl.col("path").is_null()).row(0)[:2]
        raise ValueError(f"predictions: {video} frame {frame} is not in the frames table")
    predicted = probabilities_of(table, schema)
    if outside is not None:
        predicted = dataclasses.replace(predicted, outside=outside_rows(outside, table, frames))
    return Part(table=table, frames=rows, predicted=predicted, labels=labels_of(rows, schema), outside=outside)


def folds_of(part: Part) -> tuple[np.ndarray, int]:
    """[R] fold of each row, and how many there are: 5, or as many as there are subjects or videos; 1 is no cut."""
    num = min(NUM_FOLDS, len(np.unique(groups_of(part.frames))))
    if num < 2:
        return np.zeros(len(part.frames), dtype=np.int64), 1
    return assign_groups(part.frames, part.labels, num, FOLD_SEED, part.schema), num


def score_part(decisions: Decisions, labels: Labels) -> dict[str, Any]:
    """All metrics of the tasks that have labels; P is None, and "unscored" names why, where one has none."""
    scored = [task.name for task in decisions.tasks if labels.labelled(task.group.name).any()]
    metrics = score(decisions, labels, scored)
    unscored = [task.group.name for task in decisions.tasks if task.name not in scored]
    return metrics | {"unscored": unscored} | ({"P": None} if unscored else {})


def difference(before: Decisions, after: Decisions, part: Part) -> Interval | None:
    """The interval of P(after) - P(before) on `part`, both on the same resampled groups; None for a single one.

    A class that is in none of those drawn counts 0 on both sides; drawings without labels of a task are left out.
    """
    first, second = (_sums_of(decisions, part) for decisions in (before, after))
    count = len(first.groups)
    if count < 2 or not part.tasks:
        return None
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=NUM_RESAMPLES).astype(float)
    before_after = []
    lacking = np.zeros(NUM_RESAMPLES, dtype=bool)
    for side in (first, second):
        sums = {name: np.tensordot(drawn, whole, axes=1) for name, whole in side.parts.items()}
        before_after.append(scores(sums, part.tasks, part.schema)["P"])
        for group in part.schema:
            lacking |= without_labels(group, sums[group.name], side.parts[group.name].sum(axis=0))
    low, high = middle(np.where(lacking, np.nan, before_after[1] - before_after[0]))
    sample = Groups({}, dict(zip(first.groups, first.num_videos, strict=True))).sample
    return None if math.isnan(low) else Interval(low, high, sample)


def gain_error(task: Task, before: np.ndarray, after: np.ndarray, part: Part) -> float:
    """Standard error of the gain in the task's score from the decisions `before` to `after` on the rows of `part`:
    its deviation over 1,000 drawings of as many of the subjects or videos; those without a label of it left out."""
    names, group = np.unique(groups_of(part.frames), return_inverse=True)
    count = len(names)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=NUM_DRAWN).astype(float)
    first, second = (fold_sums(row_sums(task, predicted, part.labels), group, count) for predicted in (before, after))
    sums = [np.tensordot(drawn, whole, axes=1) for whole in (first, second)]
    labelled = ~without_labels(task.group, sums[0], first.sum(axis=0))
    return float(np.std((task_score(task, sums[1]) - task_score(task, sums[0]))[labelled]))


def fold_sums(sums: np.ndarray, fold: np.ndarray, num_folds: int) -> np.ndarray:
    """[F, K, M] from `sums` [R, K, M] and the fold [R] of each row; a fold may be a video or subject of very many."""
    if num_folds * len(fold) > MOST_MEMBERS:
        columns = sums.reshape(len(sums), -1).T
        found = [np.bincount(fold, weights=column, minlength=num_folds) for column in columns]
        return np.stack(found, axis=1).reshape(num_folds, *sums.shape[1:])
    member = (fold == np.arange(num_folds)[:, None]).astype(np.float64)
    return (member @ sums.reshape(len(sums), -1)).reshape(num_folds, *sums.shape[1:])


def replaced(decisions: Decisions, task: Task, predicted: np.ndarray) -> Decisions:
    """`decisions` with `predicted` in place of the task's."""
    return dataclasses.replace(decisions, parts={**decisions.parts, task.name: predicted})


def decide(task: Task, values: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Values [R, K] as they are, the most probable class [R] with the offsets `cuts` [K], or binary columns [R, K] at
    or above the thresholds `cuts` [K]."""
    of_group = {task.group.name: cuts.tolist()} if len(cuts) else {}
    predicted = Probabilities(parts={task.name: values}, schema=Schema(name="", groups=(task.group,)))
    return predicted.decide(of_group, of_group).parts[task.name]


def _sums_of(decisions: Decisions, part: Part) -> GroupSums:
    columns = {"video": part.table["video"]}
    for task in decisions.tasks:
        decided = decisions.parts[task.name].reshape(len(part.table), -1)
        columns |= {name: pl.Series(decided[:, place]) for place, name in enumerate(task.columns)}
    return group_sums(pl.DataFrame(columns), part.labels, groups_of(part.frames), part.schema)
