"""The metrics of a label schema over all labelled frames at once. N frames.

P is the sum of the groups' scores, each times its weight. That of the challenge's schema is
P = (CCC valence + CCC arousal) / 2 + macro F1 over 8 expressions + mean of 12 binary AU F1
(Kollias et al., "7th ABAW Competition", arXiv 2407.03835). Never a mean over batches or videos.

Scores: of continuous columns the mean CCC ("ccc") or Pearson correlation ("pearson"); of classes macro F1 ("f1_macro")
or accuracy ("accuracy"); of binary columns the mean F1 ("f1") or accuracy ("accuracy").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.labels import ABAW, Group, Schema, Task
from heads.labels import Labels
from pipelines.label_table import AnyLabels
from pipelines.metrics.predictions import Decisions, Predictions


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


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two traces [N], in [-1, 1]; 0 where one is constant."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) == 0 or x.var() == 0 or y.var() == 0:
        return 0.0
    return float(np.mean((x - x.mean()) * (y - y.mean())) / np.sqrt(x.var() * y.var()))


def f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """F1 of a binary decision [N]; 0 where neither labels nor predictions have a positive."""
    hits = float(np.sum(predicted & label))
    total = float(np.sum(predicted)) + float(np.sum(label))
    return 2 * hits / total if total else 0.0


def score(decisions: Decisions, labels: Labels, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """All metrics under their flat keys.

    Keys of the challenge's schema: `P`, `va.ccc_valence`, `va.ccc_arousal`, `va.ccc_mean`, `expr.f1_macro`,
    `expr.f1.<Class>`, `au.f1_mean`, `au.f1.<AU>`; and `num_frames.<group>`, and `undefined`, the names of what has no
    positive in labels and predictions (they count 0). P sums the scores of the groups that `tasks` are of (default:
    those predicted), each times its weight; over fewer than all it is no official P. Of a group that is predicted in
    part, the columns predicted count. A group without a labelled frame is in `unscored`: its scores are None, and so is
    P.

    Raises:
        ValueError: a prediction is not a finite number where there is a label.
    """
    schema = decisions.schema
    chosen = schema.scored([task.name for task in decisions.tasks] if tasks is None else tasks)
    metrics: dict[str, Any] = {}
    undefined: list[str] = []
    unscored: list[str] = []
    for task in chosen:
        group, part = task.group.name, decisions.parts[task.name]
        values, mask = _labels_of(task, labels)
        scores: Mapping[str, float | None]
        scores, names = KINDS[task.group.kind](task, part, values, mask)
        num_frames = int(mask.any(axis=1).sum())
        if num_frames:
            undefined += names
        else:
            scores = dict.fromkeys(scores)
            unscored.append(group)
        metrics |= {**scores, f"num_frames.{group}": num_frames}
    total = None if unscored else sum(task.group.weight * metrics[main_key(task.group)] for task in chosen)
    return {"P": total, **metrics, "undefined": undefined, "unscored": unscored}


def score_predictions(predictions: Predictions, labels: AnyLabels, tasks: Sequence[str]) -> dict[str, Any]:
    """`score` of `predictions` against the `labels` of the whole frames table."""
    return score(predictions.decide(), labels.take(predictions.rows), tasks)


def main_key(group: Group) -> str:
    """The key of the score that counts in P."""
    mean = {"continuous": f"{group.score}_mean", "classes": group.score, "binary": f"{group.score}_mean"}
    return f"{group.name}.{mean[group.kind]}"


def main_scores(metrics: Mapping[str, Any], schema: Schema = ABAW) -> dict[str, float]:
    """Each group's part of P, of the groups that have a score in `metrics`."""
    scores = {group: metrics.get(main_key(group)) for group in schema}
    return {group.name: group.weight * score for group, score in scores.items() if score is not None}


def _labels_of(task: Task, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    values, mask = labels.values[task.group.name], labels.masks[task.group.name]
    if task.is_whole:
        return values, mask
    return values[:, task.indices], mask[:, task.indices]


def _score_continuous(
    task: Task, predicted: np.ndarray, label: np.ndarray, mask: np.ndarray
) -> tuple[dict[str, float], list[str]]:
    if not np.isfinite(predicted[mask]).all():
        names = " or ".join(task.columns)
        raise ValueError(f"{names}: a prediction is missing or not a finite number where there is a label")
    group, values, undefined = task.group, {}, []
    for column, name in enumerate(task.columns):
        rows = mask[:, column]
        x, y = predicted[rows, column], label[rows, column]
        values[f"{group.name}.{group.score}_{name}"] = CORRELATIONS[group.score](x, y)
        if len(x) == 0 or (np.var(x) == 0 and np.var(y) == 0):
            undefined.append(name)
    return values | {main_key(group): float(np.mean(list(values.values())))}, undefined


def _score_classes(
    task: Task, predicted: np.ndarray, label: np.ndarray, mask: np.ndarray
) -> tuple[dict[str, float], list[str]]:
    group, rows = task.group, mask[:, 0]
    predicted, label = predicted[rows], label[rows, 0]
    values, undefined = {}, []
    for index, name in enumerate(group.classes):
        values[f"{group.name}.f1.{name}"] = f1(predicted == index, label == index)
        if not (predicted == index).any() and not (label == index).any():
            undefined.append(name)
    found = {f"{group.name}.f1_macro": float(np.mean(list(values.values())))}
    if group.score == "accuracy":
        found[main_key(group)] = float(np.mean(predicted == label)) if len(label) else 0.0
    return {**found, **values}, undefined


def _score_binary(
    task: Task, predicted: np.ndarray, label: np.ndarray, mask: np.ndarray
) -> tuple[dict[str, float], list[str]]:
    group, values, undefined = task.group, {}, []
    for column, name in enumerate(group.columns):
        rows = mask[:, column]
        on, true = predicted[rows, column] == 1, label[rows, column] == 1
        values[f"{group.name}.f1.{name}"] = f1(on, true)
        if not on.any() and not true.any():
            undefined.append(name)
    return {main_key(group): float(np.mean(list(values.values()))), **values}, undefined


CORRELATIONS = {"ccc": ccc, "pearson": pearson}
KINDS = {"continuous": _score_continuous, "classes": _score_classes, "binary": _score_binary}
