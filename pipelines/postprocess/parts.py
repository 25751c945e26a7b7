"""Predictions of a part (select or report) beside its labels, and the scores that fitting needs. R rows, F folds.

A task's score is a function of sums over rows, so whatever is fitted on some folds is scored from the folds' sums.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.names import EXPRESSIONS, TASK_COLUMNS, TASKS
from pipelines.labels import Labels, labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.intervals import (
    NUM_RESAMPLES,
    Groups,
    GroupSums,
    Interval,
    group_sums,
    middle,
    scores,
    without_labels,
)
from pipelines.metrics.predictions import Decisions, Probabilities
from pipelines.postprocess.apply import probabilities_of
from pipelines.splits import assign_groups, groups_of

NUM_FOLDS = 5
FOLD_SEED = 0
NUM_DRAWN = 1000
NOTHING = {"va": np.zeros((2, 6)), "expr": np.zeros((8, 3)), "au": np.zeros((12, 3))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Predictions of the select or the report rows, and row for row the frames table's labels and subjects."""

    table: pl.DataFrame
    frames: pl.DataFrame
    said: Probabilities
    labels: Labels

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that were predicted and have a label here."""
        return tuple(
            task for task in TASKS if getattr(self.said, task) is not None and self.labels.labelled(task).any()
        )


def make_part(table: pl.DataFrame, frames: pl.DataFrame) -> Part:
    """`table` of predictions beside its rows of the frames table `frames`.

    Raises:
        ValueError: a predicted row is not in the frames table.
    """
    table = table.sort("video", "frame")
    beside = table.select("video", "frame").join(frames, on=["video", "frame"], how="left", maintain_order="left")
    if beside["path"].null_count():
        video, frame = beside.filter(pl.col("path").is_null()).row(0)[:2]
        raise ValueError(f"predictions: {video} frame {frame} is not in the frames table")
    return Part(table=table, frames=beside, said=probabilities_of(table), labels=labels_of(beside))


def folds_of(part: Part) -> tuple[np.ndarray, int]:
    """[R] fold of each row, and how many there are: 5, or as many as there are subjects or videos; 1 is no cut."""
    num = min(NUM_FOLDS, len(np.unique(groups_of(part.frames))))
    if num < 2:
        return np.zeros(len(part.frames), dtype=np.int64), 1
    return assign_groups(part.frames, num, FOLD_SEED), num


def score_part(decisions: Decisions, labels: Labels) -> dict[str, Any]:
    """All metrics of the tasks that have labels; P is None, and "unscored" names why, where one has none."""
    scored = [task for task in decisions.tasks if labels.labelled(task).any()]
    metrics = score(decisions, labels, scored)
    unscored = [task for task in decisions.tasks if task not in scored]
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
        sums = {task: np.tensordot(drawn, whole, axes=1) for task, whole in zip(TASKS, side.parts, strict=True)}
        before_after.append(scores(sums["va"], sums["expr"], sums["au"], part.tasks))
        for task, whole in zip(TASKS, side.parts, strict=True):
            lacking |= without_labels(task, sums[task], whole.sum(axis=0))
    low, high = middle(np.where(lacking, np.nan, before_after[1] - before_after[0]))
    sample = Groups({}, dict(zip(first.groups, first.num_videos, strict=True))).sample
    return None if math.isnan(low) else Interval(low, high, sample)


def gain_error(task: str, before: np.ndarray, after: np.ndarray, part: Part) -> float:
    """Standard error of the gain in the task's score from the decisions `before` to `after` on the rows of `part`:
    its deviation over 1,000 drawings of as many of the subjects or videos; those without a label of it left out."""
    names, group = np.unique(groups_of(part.frames), return_inverse=True)
    count = len(names)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=NUM_DRAWN).astype(float)
    first, second = (fold_sums(row_sums(task, said, part.labels), group, count) for said in (before, after))
    sums = [np.tensordot(drawn, whole, axes=1) for whole in (first, second)]
    labelled = ~without_labels(task, sums[0], first.sum(axis=0))
    return float(np.std((task_score(task, sums[1]) - task_score(task, sums[0]))[labelled]))


def task_score(task: str, sums: np.ndarray) -> np.ndarray:
    """The task's part of P from sums over rows [..., K, M] as `row_sums` makes them."""
    parts = NOTHING | {task: sums}
    return scores(parts["va"], parts["expr"], parts["au"], (task,))


def row_sums(task: str, said: np.ndarray, labels: Labels) -> np.ndarray:
    """[R, K, M]: what each row adds to the sums that the task's score is made of.

    `said` is [R, 2] valence and arousal, [R] classes, or [R, 12] AUs in {0, 1}.
    """
    if task == "va":
        mask = labels.va_mask
        x, y = np.where(mask, said, 0.0), np.where(mask, labels.va, 0.0).astype(np.float64)
        return np.stack([mask.astype(np.float64), x, y, x * x, y * y, x * y], axis=-1)
    if task == "expr":
        classes, mask = np.arange(len(EXPRESSIONS)), labels.expr_mask[:, None]
        on, true = (said[:, None] == classes) & mask, (labels.expr[:, None] == classes) & mask
    else:
        on, true = (said > 0.5) & labels.au_mask, (labels.au > 0.5) & labels.au_mask
    return np.stack([on & true, on, true], axis=-1).astype(np.float64)


def fold_sums(sums: np.ndarray, fold: np.ndarray, num_folds: int) -> np.ndarray:
    """[F, K, M] from `sums` [R, K, M] and the fold [R] of each row."""
    member = (fold == np.arange(num_folds)[:, None]).astype(np.float64)
    return (member @ sums.reshape(len(sums), -1)).reshape(num_folds, *sums.shape[1:])


def replaced(decisions: Decisions, task: str, said: np.ndarray) -> Decisions:
    """`decisions` with `said` in the place of the task's."""
    return dataclasses.replace(decisions, **{DECIDED[task]: said})


def decide(task: str, values: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """[R, 2] values as they are, [R] the most probable class with the offsets `cuts` [8], or [R, 12] AUs at or above
    the thresholds `cuts` [12]."""
    said = Probabilities(**{task: values})
    decided = said.decide(cuts.tolist() if task == "au" else None, cuts.tolist() if task == "expr" else None)
    found: np.ndarray = getattr(decided, DECIDED[task])
    return found


def _sums_of(decisions: Decisions, part: Part) -> GroupSums:
    shaped = {"va": decisions.va, "au": decisions.action_units}
    columns = {"video": part.table["video"]}
    for task, said in shaped.items():
        if said is not None:
            columns |= {name: pl.Series(said[:, k]) for k, name in enumerate(TASK_COLUMNS[task])}
    if decisions.expression is not None:
        columns["expression"] = pl.Series(decisions.expression)
    return group_sums(pl.DataFrame(columns), part.labels, groups_of(part.frames))


DECIDED = {"va": "va", "expr": "expression", "au": "action_units"}
