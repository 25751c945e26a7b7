"""Selects post-processing on the select rows, and measures its gain. R rows, K outputs.

The videos of select are cut into folds by subject or video. What is claimed is measured out of fold: each fold gets
parameters fitted on the others. A component that gains nothing so is left out; the final parameters are fitted on all
select rows, and the report rows are scored with them once. What can be fitted: `pipelines.postprocess.choices`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.labels import Task
from pipelines.metrics.intervals import Interval
from pipelines.metrics.predictions import TINY, Decisions
from pipelines.metrics.sums import row_sums, task_score
from pipelines.postprocess.affine import IDENTITY
from pipelines.postprocess.apply import Parameters, processed
from pipelines.postprocess.choices import OUTSIDE, Choice, FitInputs, FoldedRows, choose, fit_inputs
from pipelines.postprocess.outside import Outside, OutsideScores
from pipelines.postprocess.parts import Part, difference, folds_of, gain_error, replaced, score_part
from pipelines.postprocess.smoothing import GRID, Smoothing

# In the order in which they are compared: what has a number per column or class comes last.
OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "continuous": ((), ("smoothing",), ("affine",), ("smoothing", "affine")),
    "classes": ((), ("smoothing",), ("prior",), ("smoothing", "prior"), ("offsets",), ("smoothing", "offsets")),
    "binary": ((), ("smoothing",), ("thresholds",), ("smoothing", "thresholds")),
}
# Standard errors that a gain must exceed. Of 1, 0.75, 0.5, 0.25 and 0 it is the highest at which no task lost held out,
# in the mean of 72 runs on three made data sets, against smoothing, offsets and thresholds by the rule of 1.
LEAST_GAIN = 0.5
EXTRA = ("affine", "offsets", OUTSIDE)  # what must gain so much over the best without them too


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One choice of components for a task, fitted on all select rows, and the task's score with it.

    `choice` is what was fitted, with the kernel `smoothing`. `out_of_fold` is None where select could not be cut,
    `report` where it has no label of the task.
    """

    task: Task
    components: tuple[str, ...]
    smoothing: Smoothing
    choice: Choice
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


def fit(select: Part, report: Part, grid: Sequence[Smoothing] = GRID) -> Fitted:
    """Fits on `select` and scores `report` once with the result.

    A task without a label on `select` keeps its defaults, and so do all where `select` is a single video or subject.
    The first of `grid` means no smoothing.
    """
    fold, num = folds_of(select)
    rows = FoldedRows(part=select, fold=fold, num=num)
    steps: list[Step] = []
    parameters, outside = Parameters(schema=select.schema), select.predicted.decide()
    for task in map(select.task, select.tasks):
        inputs = fit_inputs(task, rows, grid)
        tried = [_try(inputs, components, report) for components in options_of(inputs)]
        best = _best(tried, select)
        steps += [dataclasses.replace(step, kept=place == best) for place, (step, _) in enumerate(tried)]
        parameters = _with(parameters, tried[best][0], select.outside)
        outside = replaced(outside, task, tried[best][1])
    return _measured(parameters, tuple(steps), outside if num > 1 else None, rows, report)


def options_of(inputs: FitInputs) -> tuple[tuple[str, ...], ...]:
    """The choices of components for a task; where there is an outside classifier each with it too."""
    found = OPTIONS[inputs.task.group.kind]
    return (*found, *((*each, OUTSIDE) for each in found)) if inputs.outside else found


def _try(inputs: FitInputs, components: tuple[str, ...], report: Part) -> tuple[Step, np.ndarray]:
    """A step with its scores, and its predictions of the select rows out of fold."""
    task, rows = inputs.task, inputs.rows
    choice = choose(inputs, components, rows.all)
    inside = inputs.decided(choice)
    outside = inside.copy()
    for fold in range(rows.num) if rows.num > 1 else ():
        out = rows.fold == fold
        outside[out] = inputs.decided(choose(inputs, components, np.arange(rows.num) != fold), out)
    step = Step(
        task=task,
        components=components,
        smoothing=inputs.grid[choice.kernel],
        choice=choice,
        in_fold=_score(task, inside, rows.part),
        out_of_fold=_score(task, outside, rows.part) if rows.num > 1 else None,
        report=None,
    )
    if task.name not in report.tasks:
        return step, outside
    alone = _with(Parameters(schema=report.schema), step, rows.part.outside)
    later = alone.decide(processed(alone, report.table, report.predicted)).parts[task.name]
    return dataclasses.replace(step, report=_score(task, later, report)), outside


def _score(task: Task, predicted: np.ndarray, part: Part) -> float:
    return float(task_score(task, row_sums(task, predicted, part.labels).sum(axis=0)))


def _best(tried: Sequence[tuple[Step, np.ndarray]], select: Part) -> int:
    """The index of the highest score out of fold among those that gain enough over none; those with `EXTRA` over the
    best before them too.

    The first of `tried` is that of no components. Enough is `LEAST_GAIN` times the gain's standard error, over
    resampled subjects or videos.
    """

    def gain(place: int, other: int) -> float:
        """In standard errors; 0 where there is none."""
        (step, outside), (before, without) = tried[place], tried[other]
        if step.out_of_fold is None or before.out_of_fold is None or step.out_of_fold <= before.out_of_fold:
            return 0.0
        error = gain_error(step.task, without, outside, select)
        return (step.out_of_fold - before.out_of_fold) / max(error, TINY)

    best = 0
    for place, (step, _) in enumerate(tried):
        needed = LEAST_GAIN if set(EXTRA) & set(step.components) else 0.0
        if gain(place, best) > needed and gain(place, 0) > LEAST_GAIN:
            best = place
    return best


def _with(parameters: Parameters, step: Step, scores: OutsideScores | None) -> Parameters:
    """`parameters` with what `step` fitted for its task, the outside classifier being that of `scores`."""
    group, cuts = step.task.group, tuple(map(float, step.choice.cuts))
    affine = [IDENTITY] * len(group.columns)
    for index, (scale, shift) in zip(step.task.indices, step.choice.affine, strict=False):
        affine[index] = (float(scale), float(shift))
    smoothing = {**parameters.smoothing, group.name: step.smoothing}
    if group.kind == "continuous":
        matched = {**parameters.affine, group.name: tuple(affine)}
        return dataclasses.replace(parameters, smoothing=smoothing, affine=matched)
    if group.kind == "classes":
        offsets, outside = {**parameters.offsets, group.name: cuts}, dict(parameters.outside)
        if scores is not None and (threshold := step.choice.outside) is not None:
            outside[group.name] = Outside(stream=scores.stream, threshold=threshold, identity=scores.identity)
        return dataclasses.replace(parameters, smoothing=smoothing, offsets=offsets, outside=outside)
    return dataclasses.replace(parameters, smoothing=smoothing, thresholds={**parameters.thresholds, group.name: cuts})


def _measured(
    parameters: Parameters, steps: tuple[Step, ...], outside: Decisions | None, rows: FoldedRows, report: Part
) -> Fitted:
    """All metrics, plain and with `parameters`; `outside` are the decisions on select out of fold."""

    def after(part: Part) -> Decisions:
        return parameters.decide(processed(parameters, part.table, part.predicted))

    select, before, later = rows.part, report.predicted.decide(), after(report)
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
        num_folds=rows.num,
    )
