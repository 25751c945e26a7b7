"""Scores from sums over rows: what each row adds, and a task's score from any sum of it. R rows, K columns or classes.

Sums [..., K, M] of a continuous task are n, x, y, x², y², xy of each column (x predicted, y label); of classes and of
binary columns the hits, predicted positives and labelled positives of each.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cache.labels import Schema, Task
from heads.labels import Labels

HITS, PREDICTED, LABELLED = range(3)
NUM_SUMS = {"continuous": 6, "classes": 3, "binary": 3}


def row_sums(task: Task, decided: np.ndarray, labels: Labels) -> np.ndarray:
    """[R, K, M]: what each row adds; `decided` as in `Decisions`."""
    label, mask = labels.values[task.group.name], labels.masks[task.group.name]
    if task.group.kind == "continuous":
        if not task.is_whole:
            label, mask = label[:, task.indices], mask[:, task.indices]
        x, y = np.where(mask, decided, 0.0), np.where(mask, label, 0.0).astype(np.float64)
        return np.stack([mask.astype(np.float64), x, y, x * x, y * y, x * y], axis=-1)
    if task.group.kind == "classes":
        classes = np.arange(task.num_outputs)
        on, true = (decided[:, None] == classes) & mask, (label == classes) & mask
    else:
        on, true = (decided > 0.5) & mask, (label > 0.5) & mask
    return np.stack([on & true, on, true], axis=-1).astype(np.float64)


def task_score(task: Task, sums: np.ndarray) -> np.ndarray:
    """[...] the score of `task` from sums [..., K, M] of its columns; as `metrics.challenge.score`."""
    if task.group.score == "accuracy":
        return accuracy(sums)
    return np.asarray(COLUMN_SCORES[task.group.score](sums).mean(-1))


def scores(parts: Mapping[str, np.ndarray], tasks: Sequence[str], schema: Schema) -> dict[str, np.ndarray]:
    """The score of each of `tasks` from sums by group, and under "P" their sum, each times its weight."""
    found = {task.name: task_score(task, of_task(task, parts[task.group.name])) for task in schema.scored(tasks)}
    return {"P": total(found, schema), **found}


def total(found: Mapping[str, np.ndarray], schema: Schema) -> np.ndarray:
    """P from the scores of tasks."""
    return np.sum([task.group.weight * found[task.name] for task in schema.scored(list(found))], axis=0)


def of_task(task: Task, sums: np.ndarray) -> np.ndarray:
    """Of the sums [..., K, M] of a whole group those of the task's columns."""
    return sums if task.is_whole else sums[..., task.indices, :]


def ccc(moments: np.ndarray) -> np.ndarray:
    """[...] CCC from sums [..., 6], population moments; 0 where both traces are constant."""
    x, y, xx, yy, xy = _means(moments)
    spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
    constant = (xx - x * x < 1e-12) & (yy - y * y < 1e-12)
    return np.where(constant, 0.0, 2 * (xy - x * y) / np.where(constant, 1.0, spread))


def pearson(moments: np.ndarray) -> np.ndarray:
    """[...] Pearson's correlation from sums [..., 6]; 0 where one trace is constant."""
    x, y, xx, yy, xy = _means(moments)
    product = (xx - x * x) * (yy - y * y)
    constant = (xx - x * x < 1e-12) | (yy - y * y < 1e-12)
    return np.where(constant, 0.0, (xy - x * y) / np.sqrt(np.where(constant, 1.0, product)))


def f1(counts: np.ndarray) -> np.ndarray:
    """[...] F1 from counts [..., 3]; 0 where there is no positive at all."""
    hits, predicted, true = np.moveaxis(counts, -1, 0)
    return 2 * hits / np.maximum(predicted + true, 1e-9)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """[...] share of right classes from counts [..., K, 3]."""
    return np.asarray(counts[..., HITS].sum(-1) / np.maximum(counts[..., LABELLED].sum(-1), 1e-9))


def _means(moments: np.ndarray) -> list[np.ndarray]:
    n, *rest = np.moveaxis(moments, -1, 0)
    return [part / np.maximum(n, 1) for part in rest]


COLUMN_SCORES = {"ccc": ccc, "pearson": pearson, "f1": f1, "f1_macro": f1}
