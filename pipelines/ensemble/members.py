"""Ensembles of finished runs, from their cached predictions: each task has members and weights of its own.

Weights are chosen on the select rows. Their score is measured out of fold: select's videos are split into folds, and
the whole selection is repeated without each fold. The baselines are the best single run and the plain mean of the best
few, selected on the same rows in the same way. M members, R rows, K outputs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from heads.labels import Labels
from pipelines.ensemble.selection import SCORERS, Scorer, Selection, mean_of, select_greedily
from pipelines.metrics.intervals import Interval
from pipelines.metrics.predictions import Probabilities, joined, prediction_columns
from pipelines.postprocess.apply import processed
from pipelines.postprocess.fit import Fitted, fit
from pipelines.postprocess.parts import Part, difference, folds_of, score_part

NUM_TOP = 5
Predicted = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Runs over the same rows. `select` has the rows and labels; `predicted` [M, R, K] by task, of the runs in `has`.

    `has` [M] are indices into `runs`, ascending. `read_report(index)` reads a run's predictions of the report rows.
    """

    runs: tuple[Path, ...]
    has: Mapping[str, np.ndarray]
    predicted: Predicted
    select: Part
    read_report: Callable[[int], Part]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.predicted)

    @property
    def complete(self) -> np.ndarray:
        """[runs] bool: runs that predict every task; only these compare by P."""
        counts = np.zeros(len(self.runs), dtype=np.int64)
        for members in self.has.values():
            counts[members] += 1
        return counts == len(self.has)


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights [runs] by task, each summing to 1; `counts` are those of a greedy choice."""

    weights: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A mix selected on all select rows, its predictions, and its metrics "in_fold", "out_of_fold" and "report".

    `fitted` and `post` are its post-processing, fitted on the predictions out of fold, and the metrics with it; None
    for the plain mean of the best few.
    """

    mix: Mix
    select: Part
    report: Part
    metrics: Mapping[str, Any]
    fitted: Fitted | None = None
    post: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """`outcomes` by procedure: "ensemble", and where a run predicts every task "single" and "top".

    `differences` are intervals of P(ensemble) - P(other) on the report rows.
    """

    library: Library
    outcomes: Mapping[str, Outcome]
    differences: Mapping[str, Interval | None]
    num_folds: int


def num_choices(library: Library) -> int:
    """How often `make_ensemble` selects: once on all select rows, and once without each of their folds."""
    _, num = folds_of(library.select)
    return 1 + (num if num > 1 else 0)


def make_ensemble(library: Library, size: int, advance: Callable[[int], None] = lambda count: None) -> Ensemble:
    """Selects, scores and post-processes an ensemble of at most `size` draws per task, and what it is compared with.

    `advance` is called with 1 after each of the `num_choices`.
    """
    fold, num = folds_of(library.select)
    final = choose(library, np.ones(len(fold), dtype=bool), size)
    advance(1)
    inside = {name: _mixed(library, mix, library.predicted) for name, mix in final.items()}
    outside = _out_of_fold(library, fold, num, size, advance) if num > 1 else None
    report = _report_parts(library, final)
    outcomes = {}
    for name, mix in final.items():
        predicted = outside[name] if outside else None
        plain = _outcome(library, mix, inside[name], predicted, report[name])
        outcomes[name] = plain if name == "top" else _processed(plain, predicted)
    decided = {name: outcome.report.predicted.decide() for name, outcome in outcomes.items()}
    differences = {
        name: difference(decided[name], decided["ensemble"], outcomes[name].report)
        for name in final
        if name != "ensemble"
    }
    return Ensemble(library=library, outcomes=outcomes, differences=differences, num_folds=num)


def choose(library: Library, rows: np.ndarray, size: int) -> dict[str, Mix]:
    """The mixes of all procedures, selected on the select rows `rows` [R] bool alone."""
    labels, num = library.select.labels.take(rows), len(library.runs)
    found: dict[str, Selection] = {}
    total = np.where(library.complete, 0.0, -np.inf)
    for task, predicted in library.predicted.items():
        found[task] = select_greedily(scorer_of(library.select, task)(predicted[:, rows], labels), len(predicted), size)
        total[library.has[task]] += found[task].alone
    mixes = {"ensemble": _greedy_mix(library, found)}
    if library.complete.any():
        ranking = np.argsort(-total, kind="stable")[: int(library.complete.sum())]
        mixes["single"] = _equal_mix(library.tasks, ranking[:1], num)
        mixes["top"] = _equal_mix(library.tasks, ranking[:NUM_TOP], num)
    return mixes


def scorer_of(part: Part, name: str) -> Callable[[np.ndarray, Labels], Scorer]:
    """What scores the task `name` of the rows of `part`."""
    task = part.task(name)
    return functools.partial(SCORERS[task.group.kind], task)


def _greedy_mix(library: Library, found: Mapping[str, Selection]) -> Mix:
    counts = {task: np.zeros(len(library.runs), dtype=np.int64) for task in found}
    for task, selection in found.items():
        counts[task][library.has[task]] = selection.counts
    return Mix({task: count / count.sum() for task, count in counts.items()}, counts)


def _equal_mix(tasks: Sequence[str], chosen: np.ndarray, num: int) -> Mix:
    counts = np.bincount(chosen, minlength=num)
    return Mix({task: counts / counts.sum() for task in tasks}, dict.fromkeys(tasks, counts))


def _mixed(library: Library, mix: Mix, predicted: Predicted) -> Probabilities:
    """The prediction of `mix`, from those of its members."""
    return joined(_mixed_parts(library, mix, predicted), library.select.schema)


def _mixed_parts(library: Library, mix: Mix, predicted: Predicted) -> dict[str, np.ndarray]:
    return {task: mean_of(mix.weights[task][library.has[task]], predicted[task]) for task in library.tasks}


def _out_of_fold(
    library: Library, fold: np.ndarray, num: int, size: int, advance: Callable[[int], None] = lambda count: None
) -> dict[str, Probabilities]:
    """By procedure its prediction of the select rows, each fold by a mix that was selected without it."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for number in range(num):
        rows = fold == number
        for name, mix in choose(library, ~rows, size).items():
            predicted = {task: values[:, rows] for task, values in library.predicted.items()}
            for task, values in _mixed_parts(library, mix, predicted).items():
                whole = found.setdefault(name, {}).setdefault(task, np.zeros((len(fold), values.shape[1])))
                whole[rows] = values
        advance(1)
    return {name: joined(parts, library.select.schema) for name, parts in found.items()}


def _report_parts(library: Library, mixes: Mapping[str, Mix]) -> dict[str, Part]:
    """By procedure its prediction of the report rows; only runs with a weight are read, each once."""
    totals: dict[str, dict[str, np.ndarray]] = {name: {} for name in mixes}
    schema = library.select.schema
    used = sorted(
        {int(run) for mix in mixes.values() for weights in mix.weights.values() for run in weights.nonzero()[0]}
    )
    for run in used:
        part = library.read_report(run)
        for name, mix in mixes.items():
            for task in library.tasks:
                if weight := mix.weights[task][run]:
                    totals[name][task] = totals[name].get(task, 0.0) + weight * part.predicted.values(task)
    return {name: with_predictions(part, joined(parts, schema)) for name, parts in totals.items()}


def with_predictions(part: Part, predicted: Probabilities) -> Part:
    """The rows, labels and outside classifier of `part` with `predicted` in place of its predictions."""
    predicted = dataclasses.replace(predicted, outside=part.predicted.outside)
    columns = prediction_columns(predicted, predicted.decide())
    keys = part.table.select("video", "frame", "part")
    table = keys.with_columns(pl.Series(name, values) for name, values in columns.items())
    return dataclasses.replace(part, table=table, predicted=predicted)


def _outcome(library: Library, mix: Mix, inside: Probabilities, outside: Probabilities | None, report: Part) -> Outcome:
    select = with_predictions(library.select, inside)
    metrics = {
        "in_fold": score_part(inside.decide(), select.labels),
        "out_of_fold": score_part(outside.decide(), select.labels) if outside else None,
        "report": score_part(report.predicted.decide(), report.labels),
    }
    return Outcome(mix=mix, select=select, report=report, metrics=metrics)


def _processed(outcome: Outcome, outside: Probabilities | None) -> Outcome:
    """`outcome` with post-processing, fitted on what it predicted of the select rows out of fold."""
    select = outcome.select
    fitted = fit(select if outside is None else with_predictions(select, outside), outcome.report)
    later = fitted.parameters.decide(processed(fitted.parameters, select.table, select.predicted))
    post = {**fitted.post, "in_fold": score_part(later, select.labels)}
    return dataclasses.replace(outcome, fitted=fitted, post=post)
