"""Selects post-processing on the select rows, and measures its gain. R rows, F folds, C candidate kernels.

The videos of select are cut into folds by subject or video. What is claimed is measured out of fold: each fold gets
parameters fitted on the others. A component that gains nothing so is left out; the final parameters are fitted on all
select rows, and the report rows are scored with them once. Smoothing looks at no label, so it is done once a kernel;
scores come from sums a fold, so that fitting on any choice of folds costs an addition. Offsets of classes alone are
fitted on rows: which class is predicted depends on all of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.labels import Task
from heads.labels import Labels
from pipelines.metrics.intervals import Interval
from pipelines.metrics.predictions import Decisions
from pipelines.metrics.sums import row_sums, task_score
from pipelines.postprocess.apply import Parameters, default_cuts, smooth_task, smoothed, video_numbers
from pipelines.postprocess.offsets import best_offsets
from pipelines.postprocess.parts import (
    Part,
    decide,
    difference,
    fold_sums,
    folds_of,
    gain_error,
    replaced,
    score_part,
)
from pipelines.postprocess.smoothing import GRID, Smoothing
from pipelines.postprocess.thresholds import best_thresholds, f1_of, threshold_candidates, threshold_curves

OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "continuous": ((), ("smoothing",)),
    "classes": ((), ("smoothing",), ("offsets",), ("smoothing", "offsets")),
    "binary": ((), ("smoothing",), ("thresholds",), ("smoothing", "thresholds")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One choice of components for a task, fitted on all select rows, and the task's score with it.

    `cuts` [K] are offsets of classes, or thresholds of binary columns. `out_of_fold` is None where select could not be
    cut, `report` where it has no label of the task.
    """

    task: Task
    components: tuple[str, ...]
    smoothing: Smoothing
    cuts: tuple[float, ...]
    in_fold: float
    out_of_fold: float | None
    report: float | None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """`plain` are the metrics without, `post` those with `parameters`, by "in_fold", "out_of_fold", "report".

    Plain, in fold and out of fold are the same. `interval` is that of the difference of P on the report rows.
    """

    parameters: Parameters
    steps: tuple[Step, ...]
    plain: Mapping[str, Any]
    post: Mapping[str, Any]
    interval: Interval | None
    num_folds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Select rows in `num` folds; `fold` [R] is that of each row."""

    part: Part
    fold: np.ndarray
    num: int

    @property
    def all(self) -> np.ndarray:
        return np.ones(self.num, dtype=bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """A task on the select rows: `traces` C x [R, K] of the kernels of `grid`, and their `sums` C x [F, K, M] undecided
    by offsets or thresholds.

    For binary columns: `candidates` C x [K, T] thresholds and their `curves` C x [F, K, T, 3]. `positives` [F, K] are
    the videos of each fold that show a class, or a positive of a column.
    """

    task: Task
    cut: _Cut
    grid: Sequence[Smoothing]
    traces: list[np.ndarray]
    sums: list[np.ndarray]
    candidates: list[np.ndarray]
    curves: list[np.ndarray]
    positives: np.ndarray


def fit(select: Part, report: Part, grid: Sequence[Smoothing] = GRID) -> Fitted:
    """Fits on `select` and scores `report` once with the result.

    A task without a label on `select` keeps its defaults, and so do all where `select` is a single video or subject.
    The first of `grid` means no smoothing.
    """
    fold, num = folds_of(select)
    cut = _Cut(part=select, fold=fold, num=num)
    steps: list[Step] = []
    parameters, outside = Parameters(schema=select.schema), select.predicted.decide()
    for task in map(select.task, select.tasks):
        material = _material(task, cut, grid)
        tried = [_try(material, components, cut, report) for components in OPTIONS[task.group.kind]]
        best = _best(tried, cut)
        steps += [dataclasses.replace(step, kept=place == best) for place, (step, _) in enumerate(tried)]
        parameters = _with(parameters, tried[best][0])
        outside = replaced(outside, task, tried[best][1])
    return _measured(parameters, tuple(steps), outside if num > 1 else None, cut, report)


def _material(task: Task, cut: _Cut, grid: Sequence[Smoothing]) -> _Material:
    table, labels = cut.part.table, cut.part.labels
    videos, frames = video_numbers(table), table["frame"].to_numpy()
    traces = [smooth_task(task, cut.part.predicted.parts[task.name], videos, frames, how) for how in grid]
    predicted = [decide(task, trace, np.array(default_cuts(task.group))) for trace in traces]
    candidates = [threshold_candidates(trace) for trace in traces] if task.group.kind == "binary" else []
    return _Material(
        task=task,
        cut=cut,
        grid=grid,
        traces=traces,
        sums=[fold_sums(row_sums(task, one, labels), cut.fold, cut.num) for one in predicted],
        candidates=candidates,
        curves=[
            threshold_curves(trace, cuts, *_labels(task, labels), cut.fold, cut.num)
            for trace, cuts in zip(traces, candidates, strict=False)
        ],
        positives=_positive_videos(cut, task),
    )


def _labels(task: Task, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    return labels.values[task.group.name], labels.masks[task.group.name]


def _positive_videos(cut: _Cut, task: Task) -> np.ndarray:
    """[F, K]: videos of each fold in which a class, or a positive of a column, is labelled."""
    (values, mask), videos = _labels(task, cut.part.labels), video_numbers(cut.part.table)
    shown = ((values == np.arange(task.num_outputs)) if task.group.kind == "classes" else (values > 0.5)) & mask
    _, first, video = np.unique(videos, return_index=True, return_inverse=True)
    in_video = fold_sums(shown[:, :, None], video, len(first))[..., 0] > 0
    return fold_sums(in_video[:, :, None], cut.fold[first], cut.num)[..., 0]


def _choose(material: _Material, components: tuple[str, ...], folds: np.ndarray) -> tuple[int, np.ndarray]:
    """The kernel's number and the offsets [K] or thresholds [K] best on `folds` [F] bool; the first of equals.

    Offsets are fitted to the kernel that is best without them: a search for each kernel would take 17 times as long.
    """
    num = len(material.grid) if "smoothing" in components else 1
    if "thresholds" not in components:
        values = [float(task_score(material.task, material.sums[c][folds].sum(axis=0))) for c in range(num)]
        best = int(np.argmax(values))
        fitted = _offsets(material, best, folds) if "offsets" in components else default_cuts(material.task.group)
        return best, np.array(fitted)
    values = [float(f1_of(material.curves[c][folds].sum(axis=0)).max(axis=1).mean()) for c in range(num)]
    best = int(np.argmax(values))
    curves, positives = material.curves[best][folds].sum(axis=0), material.positives[folds].sum(axis=0)
    return best, best_thresholds(material.candidates[best], curves, positives)


def _offsets(material: _Material, kernel: int, folds: np.ndarray) -> np.ndarray:
    """[K] offsets fitted on the labelled rows of `folds` [F] bool."""
    (values, mask), positives = _labels(material.task, material.cut.part.labels), material.positives[folds].sum(axis=0)
    rows = mask[:, 0] & folds[material.cut.fold]
    return best_offsets(material.traces[kernel][rows], values[rows, 0], positives)


def _try(material: _Material, components: tuple[str, ...], cut: _Cut, report: Part) -> tuple[Step, np.ndarray]:
    """A step with its scores, and its predictions of the select rows out of fold."""
    task = material.task
    number, cuts = _choose(material, components, cut.all)
    inside = decide(task, material.traces[number], cuts)
    outside = inside.copy()
    for fold in range(cut.num) if cut.num > 1 else ():
        rows = cut.fold == fold
        other, theirs = _choose(material, components, np.arange(cut.num) != fold)
        outside[rows] = decide(task, material.traces[other][rows], theirs)
    step = Step(
        task=task,
        components=components,
        smoothing=material.grid[number],
        cuts=_floats(cuts),
        in_fold=_score(task, inside, cut.part),
        out_of_fold=_score(task, outside, cut.part) if cut.num > 1 else None,
        report=None,
    )
    if task.name not in report.tasks:
        return step, outside
    later = smoothed(_with(Parameters(schema=report.schema), step), report.table, report.predicted).parts[task.name]
    return dataclasses.replace(step, report=_score(task, decide(task, later, cuts), report)), outside


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _score(task: Task, predicted: np.ndarray, part: Part) -> float:
    return float(task_score(task, row_sums(task, predicted, part.labels).sum(axis=0)))


def _best(tried: Sequence[tuple[Step, np.ndarray]], cut: _Cut) -> int:
    """The index of the highest score out of fold among those whose gain over none is more than its standard error.

    The first of `tried` is that of no components; the error is that of the gain over resampled subjects or videos.
    """
    (first, plain), *others = tried
    best, highest = 0, first.out_of_fold
    for place, (step, outside) in enumerate(others, start=1):
        if highest is None or first.out_of_fold is None or step.out_of_fold is None or step.out_of_fold <= highest:
            continue
        if step.out_of_fold - first.out_of_fold > gain_error(step.task, plain, outside, cut.part):
            best, highest = place, step.out_of_fold
    return best


def _with(parameters: Parameters, step: Step) -> Parameters:
    """`parameters` with what `step` fitted for its task."""
    group = step.task.group
    cuts = {group.name: step.cuts}
    return dataclasses.replace(
        parameters,
        smoothing={**parameters.smoothing, group.name: step.smoothing},
        thresholds={**parameters.thresholds, **cuts} if group.kind == "binary" else parameters.thresholds,
        offsets={**parameters.offsets, **cuts} if group.kind == "classes" else parameters.offsets,
    )


def _measured(
    parameters: Parameters, steps: tuple[Step, ...], outside: Decisions | None, cut: _Cut, report: Part
) -> Fitted:
    """All metrics, plain and with `parameters`; `outside` are the decisions on select out of fold."""

    def after(part: Part) -> Decisions:
        return parameters.decide(smoothed(parameters, part.table, part.predicted))

    select, before, later = cut.part, report.predicted.decide(), after(report)
    return Fitted(
        parameters=parameters,
        steps=steps,
        plain={
            "select": score_part(select.predicted.decide(), select.labels),
            "report": score_part(before, report.labels),
        },
        post={
            "in_fold": score_part(after(select), select.labels),
            "out_of_fold": score_part(outside, select.labels) if outside is not None else None,
            "report": score_part(later, report.labels),
        },
        interval=difference(before, later, report),
        num_folds=cut.num,
    )
