"""Intervals of a held-out score by resampling subjects or videos, not frames: those of one face are no independent
evidence. A group is a subject where known, else a video.

G groups, R resamples. CCC and F1 are functions of sums over frames, so each group is summed once and a resample is a
weighted sum of groups: 500 resamples cost one matrix product.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.labels import ABAW, Group, Schema, Task
from heads.labels import Labels
from pipelines.folds import NO_FOLD, Fold
from pipelines.metrics.sums import COLUMN_SCORES, LABELLED, f1, of_task, row_sums, task_score, total
from pipelines.splits import SUBJECT
from pipelines.words import counted_units

NUM_RESAMPLES = 500
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSums:
    """Sums over the labelled frames of each group, named as by `pipelines.splits.groups_of`.

    `parts` [G, K, M] by group of the schema, as in `metrics.sums`. `num_videos` of each group of frames; () is one
    each.
    """

    groups: tuple[str, ...]
    parts: Mapping[str, np.ndarray]
    num_videos: tuple[int, ...] = ()
    schema: Schema = ABAW

    @property
    def labelled(self) -> tuple[str, ...]:
        """Label groups with a labelled frame; of a class or a binary column without a positive nothing is known."""
        there = {group.name: self.parts[group.name][..., _count_of(group)] for group in self.schema}
        return tuple(name for name, count in there.items() if count.any())

    def over(self, groups: Sequence[str]) -> "GroupSums":
        """The same sums for `groups` in their order; 0 for one that is not here."""
        if self.groups == tuple(groups):
            return self
        place = {group: index for index, group in enumerate(self.groups)}
        index = np.array([place.get(group, -1) for group in groups], dtype=np.int64)
        known = (index >= 0)[:, None, None]
        parts = {name: np.where(known, part[index], 0.0) for name, part in self.parts.items()}
        return GroupSums(groups=tuple(groups), parts=parts, schema=self.schema)


# The runs of a strategy: fold -> seed -> the sums of that run over its fold's groups.
Runs = Mapping[Fold, Mapping[int, GroupSums]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was resampled: so many groups, each a `unit` ("subject", "video", or "subject, else video" where some
    subjects are not known), of so many videos."""

    num_groups: int
    unit: str
    num_videos: int

    @property
    def words(self) -> str:
        """ "12 subjects"."""
        return counted_units(self.num_groups, self.unit)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle `LEVEL` of the scores of a resampled `sample`."""

    low: float
    high: float
    sample: Sample

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {"low": self.low, "high": self.high, **self.sample.to_json()}


@dataclass(frozen=True, slots=True)
class Groups:
    """Fold -> the names of its groups, sorted; and the number of videos of every group."""

    names: Mapping[Fold, tuple[str, ...]]
    num_videos: Mapping[str, int]

    @property
    def can_vary(self) -> bool:
        """Whether resamples can differ: a fold of a single group is drawn the same each time."""
        return any(len(names) > 1 for names in self.names.values())

    @property
    def sample(self) -> Sample:
        """Each group counts once, in however many folds it is."""
        known = [name.startswith(SUBJECT) for name in self.num_videos]
        unit = "subject" if known and all(known) else "subject, else video" if any(known) else "video"
        return Sample(len(known), unit, sum(self.num_videos.values()))


def group_sums(
    predictions: pl.DataFrame, labels: Labels, groups: np.ndarray | None = None, schema: Schema = ABAW
) -> GroupSums:
    """Sums of `predictions` (a column video, and the label columns of `schema`; null where not predicted), row for row
    with `labels` and `groups` [rows] (default: the videos)."""
    videos = predictions["video"].to_numpy()
    names, code = np.unique(videos if groups is None else groups, return_inverse=True)
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(len(names)))
    parts = {}
    for group in schema:
        decided = _matrix(predictions, group.columns, np.int64 if group.kind == "classes" else np.float64)
        if group.kind == "classes":
            decided = decided[:, 0]
        parts[group.name] = np.add.reduceat(row_sums(schema.tasks[group.name], decided, labels)[order], starts, axis=0)
    pairs = [group for group, _ in set(zip(code.tolist(), videos.tolist(), strict=True))]
    return GroupSums(
        groups=tuple(names.tolist()),
        num_videos=tuple(np.bincount(pairs, minlength=len(names)).tolist()),
        parts=parts,
        schema=schema,
    )


def mean_of_runs(values: Mapping[Fold, Mapping[int, np.ndarray]]) -> np.ndarray:
    """Fold -> seed -> [R]: each seed's mean over its folds (each the mean over its inner parts), then the mean over
    seeds, as the leaderboard has it."""
    by_seed: dict[int, dict[int, list[np.ndarray]]] = {}
    for fold, seeds in values.items():
        for seed, value in seeds.items():
            by_seed.setdefault(seed, {}).setdefault(fold.outer, []).append(value)
    means = [np.mean([np.mean(parts, axis=0) for parts in folds.values()], axis=0) for folds in by_seed.values()]
    return np.asarray(np.mean(means, axis=0))


def intervals(runs: Runs, tasks: Sequence[str], *, num: int = NUM_RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Of the mean score of `runs` on their groups, by task and under "P".

    A resample draws groups with replacement within each fold, the same ones for all seeds. Empty for a single group;
    without what no resample has labels of in every fold.
    """
    groups = groups_of_runs([runs])
    if not groups.can_vary:
        return {}
    ends = {key: middle(values) for key, values in resampled(runs, groups, drawn(groups, num, seed), tasks).items()}
    return {key: Interval(low, high, groups.sample) for key, (low, high) in ends.items() if not math.isnan(low)}


def interval(runs: Runs, tasks: Sequence[str], *, num: int = NUM_RESAMPLES, seed: int = 0) -> Interval | None:
    """That of the mean P of `runs`; None where there is none."""
    return intervals(runs, tasks, num=num, seed=seed).get("P")


def column_intervals(
    sums: GroupSums, task: Task, *, num: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, Interval | None]]:
    """The score of each column or class of `task` alone, CCC, correlation or F1, with its interval.

    Without one that has no labelled frame, or of F1 no labelled positive. A resample without a labelled positive says
    nothing and is left out.
    """
    part, groups = of_task(task, sums.parts[task.group.name]), groups_of_runs([{NO_FOLD: {0: sums}}])
    score, count = COLUMN_SCORES.get(task.group.score, f1), _count_of(task.group)
    whole = part.sum(axis=0)
    names = task.group.classes or task.columns
    values, found = score(whole), {}
    drawings = np.tensordot(drawn(groups, num, seed)[NO_FOLD], part, axes=1) if groups.can_vary else None
    drawn_scores = None if drawings is None else score(drawings)
    for place, name in enumerate(names):
        if not whole[place, count]:
            continue
        between = None
        if drawings is not None and drawn_scores is not None:
            low, high = middle(np.where(drawings[:, place, count] > 0, drawn_scores[:, place], np.nan))
            between = Interval(low, high, groups.sample)
        found[name] = float(values[place]), between
    return found


def middle(values: np.ndarray) -> tuple[float, float]:
    """The ends of the middle `LEVEL` of `values` [R]; NaN, a resample without labels of a task, is left out.

    NaN where that is so of every resample.
    """
    if not np.isfinite(values).any():
        return math.nan, math.nan
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def groups_of_runs(strategies: Iterable[Runs]) -> Groups:
    """The groups that any of the `strategies` has, by fold."""
    found: dict[Fold, set[str]] = {}
    num_videos: dict[str, int] = {}
    for runs in strategies:
        for fold, seeds in runs.items():
            for sums in seeds.values():
                found.setdefault(fold, set()).update(sums.groups)
                counts = sums.num_videos or (1,) * len(sums.groups)
                num_videos |= {
                    name: max(num_videos.get(name, 0), count) for name, count in zip(sums.groups, counts, strict=True)
                }
    return Groups({fold: tuple(sorted(found[fold])) for fold in sorted(found)}, num_videos)


def by_fold(groups: Groups, draw: Callable[[int], np.ndarray]) -> dict[Fold, np.ndarray]:
    """Fold -> [R, G]: what `draw(G)` gives for its groups; folds of the same groups share it, for these are the very
    same frames there."""
    kept: dict[tuple[str, ...], np.ndarray] = {}
    for names in groups.names.values():
        if names not in kept:
            kept[names] = draw(len(names))
    return {fold: kept[names] for fold, names in groups.names.items()}


def drawn(groups: Groups, num: int, seed: int) -> dict[Fold, np.ndarray]:
    """Fold -> [R, G]: how often each group is drawn, with replacement within its fold."""
    generator = np.random.default_rng(seed)
    return by_fold(groups, lambda size: generator.multinomial(size, np.full(size, 1 / size), size=num).astype(float))


def resampled(
    runs: Runs, groups: Groups, weights: Mapping[Fold, np.ndarray], tasks: Sequence[str]
) -> dict[str, np.ndarray]:
    """[R] mean scores of `runs` under the draws `weights` of `groups`, by task and under "P"."""
    scores = {
        fold: {seed: _resampled(sums.over(groups.names[fold]), weights[fold], tasks) for seed, sums in seeds.items()}
        for fold, seeds in runs.items()
    }
    return {key: mean_of_runs(pick(scores, key)) for key in keys_of(runs, tasks)}


def keys_of(runs: Runs, tasks: Sequence[str]) -> tuple[str, ...]:
    """ "P", and the tasks that are scored, as their `schema` has them."""
    first = next(iter(next(iter(runs.values())).values()))
    return ("P", *(task.name for task in first.schema.scored(tasks)))


def pick(scores: Mapping[Fold, Mapping[int, Mapping[str, np.ndarray]]], key: str) -> dict[Fold, dict[int, np.ndarray]]:
    """Of every run the one score `key`."""
    return {fold: {seed: values[key] for seed, values in seeds.items()} for fold, seeds in scores.items()}


def _resampled(sums: GroupSums, weights: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """[R] scores of the resamples `weights` [R, G].

    A class that is labelled, but in none of the groups drawn, has no F1 in that resample: it is left out of the mean.
    Counted as 0 it would pull the whole interval below the score it is about. For the same reason a task is NaN, and P
    with it, where none of the groups drawn has labels of it.
    """
    found = {}
    for task in sums.schema.scored(tasks):
        part = of_task(task, sums.parts[task.group.name])
        drawn = np.tensordot(weights, part, axes=1)
        value = _mean_f1(drawn, part) if task.group.score in ("f1", "f1_macro") else task_score(task, drawn)
        found[task.name] = np.where(without_labels(task.group, drawn, part.sum(axis=0)), np.nan, value)
    return {"P": total(found, sums.schema), **found}


def without_labels(group: Group, drawn: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """[R] bool: the sums `drawn` [R, K, M] that hold no labelled frame of the group, though the `whole` [K, M] does.

    Of classes and binary columns, no labelled positive: of other frames the sums know nothing.
    """
    count = _count_of(group)
    lacking = (drawn[..., count] == 0) & (whole[:, count] > 0)
    if group.kind == "continuous":
        return np.asarray(lacking.any(axis=-1))
    return np.asarray((drawn[..., count] == 0).all(axis=-1) & lacking.any(axis=-1))


def _count_of(group: Group) -> int:
    """Which of the M sums counts labelled frames, or labelled positives."""
    return 0 if group.kind == "continuous" else LABELLED


def _mean_f1(counts: np.ndarray, all_groups: np.ndarray) -> np.ndarray:
    """[R] mean F1 of `counts` [R, classes, 3]: over classes drawn, times the share of classes that are labelled."""
    labelled = all_groups[:, :, LABELLED].sum(axis=0) > 0
    drawn = counts[:, :, LABELLED] > 0
    mean = (f1(counts) * drawn).sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
    return mean * labelled.mean()


def _matrix(table: pl.DataFrame, names: Sequence[str], dtype: type) -> np.ndarray:
    """Columns [rows, len(names)]; a column that is missing or null was not predicted and counts as 0."""
    found = np.zeros((len(table), len(names)))
    for place, name in enumerate(names):
        if name in table.columns:
            values = table[name].to_numpy()  # a null is NaN
            found[:, place] = np.where(np.isnan(values), 0, values)
    return found.astype(dtype)
