"""The challenge's metrics over all labelled frames at once. N frames.

P = (CCC valence + CCC arousal) / 2 + macro F1 over 8 expressions + mean of 12 binary AU F1
(Kollias et al., "7th ABAW Competition", arXiv 2407.03835). Never a mean over batches or videos.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.names import ACTION_UNITS, EXPRESSIONS, VA_COLUMNS
from pipelines.labels import Labels
from pipelines.metrics.predictions import Decisions, Predictions

MAIN_SCORE = {"va": "va.ccc_mean", "expr": "expr.f1_macro", "au": "au.f1_mean"}


def ccc(x: np.ndarray, y: np.ndarray) -> float:
    """Concordance correlation of two traces [N], in [-1, 1] (Lin, Biometrics 45(1), 1989).

    Population moments (divided by N), as the field has it. Two traces of which both are constant have no
    concordance to speak of: 0.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) == 0:
        return 0.0
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    spread = float(x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    if x.var() == 0 and y.var() == 0:
        return 0.0
    return 2 * covariance / spread


def f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """F1 of a binary decision [N]; 0 where neither labels nor predictions have a positive."""
    hits = float(np.sum(predicted & label))
    total = float(np.sum(predicted)) + float(np.sum(label))
    return 2 * hits / total if total else 0.0


def score(decisions: Decisions, labels: Labels, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """All metrics under their flat keys.

    Keys: `P`, `va.ccc_valence`, `va.ccc_arousal`, `va.ccc_mean`, `expr.f1_macro`, `expr.f1.<Class>`, `au.f1_mean`,
    `au.f1.<AU>`, `num_frames.<task>`, and `undefined`, the names of what has no positive in labels and predictions
    (they count 0). P sums the tasks in `tasks` (default: those predicted); over fewer than three it is no official P.
    A task without a labelled frame is in `unscored`: its scores are None, and so is P.

    Raises:
        ValueError: a prediction is not a finite number where there is a label.
    """
    chosen = tuple(tasks) if tasks is not None else decisions.tasks
    metrics: dict[str, Any] = {}
    undefined: list[str] = []
    unscored: list[str] = []
    for task in chosen:
        part: Mapping[str, float | None]
        part, names = TASK_SCORES[task](decisions, labels)
        num_frames = int(labels.labelled(task).sum())
        if num_frames:
            undefined += names
        else:
            part = dict.fromkeys(part)
            unscored.append(task)
        metrics |= {**part, f"num_frames.{task}": num_frames}
    total = None if unscored else sum(metrics[MAIN_SCORE[task]] for task in chosen)
    return {"P": total, **metrics, "undefined": undefined, "unscored": unscored}


def score_predictions(predictions: Predictions, labels: Labels, tasks: tuple[str, ...]) -> dict[str, Any]:
    """`score` of `predictions` against the `labels` of the whole frames table."""
    return score(predictions.decide(), labels.rows(predictions.rows), tasks)


def main_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Each task's part of P, of the tasks that have a score in `metrics`."""
    return {task: metrics[key] for task, key in MAIN_SCORE.items() if metrics.get(key) is not None}


def _score_va(decisions: Decisions, labels: Labels) -> tuple[dict[str, float], list[str]]:
    predicted = decisions.va
    assert predicted is not None
    if not np.isfinite(predicted[labels.va_mask]).all():
        raise ValueError("valence or arousal: a prediction is missing or not a finite number where there is a label")
    values, undefined = {}, []
    for column, name in enumerate(VA_COLUMNS):
        mask = labels.va_mask[:, column]
        x, y = predicted[mask, column], labels.va[mask, column]
        values[f"va.ccc_{name}"] = ccc(x, y)
        if len(x) == 0 or (np.var(x) == 0 and np.var(y) == 0):
            undefined.append(name)
    return values | {"va.ccc_mean": float(np.mean(list(values.values())))}, undefined


def _score_expr(decisions: Decisions, labels: Labels) -> tuple[dict[str, float], list[str]]:
    assert decisions.expression is not None
    predicted, label = decisions.expression[labels.expr_mask], labels.expr[labels.expr_mask]
    values, undefined = {}, []
    for index, name in enumerate(EXPRESSIONS):
        values[f"expr.f1.{name}"] = f1(predicted == index, label == index)
        if not (predicted == index).any() and not (label == index).any():
            undefined.append(name)
    return {"expr.f1_macro": float(np.mean(list(values.values()))), **values}, undefined


def _score_au(decisions: Decisions, labels: Labels) -> tuple[dict[str, float], list[str]]:
    assert decisions.action_units is not None
    values, undefined = {}, []
    for column, name in enumerate(ACTION_UNITS):
        mask = labels.au_mask[:, column]
        predicted, label = decisions.action_units[mask, column] == 1, labels.au[mask, column] == 1
        values[f"au.f1.{name}"] = f1(predicted, label)
        if not predicted.any() and not label.any():
            undefined.append(name)
    return {"au.f1_mean": float(np.mean(list(values.values()))), **values}, undefined


TASK_SCORES = {"va": _score_va, "expr": _score_expr, "au": _score_au}
