"""How alike an ensemble's members are: correlations of their predictions and errors. M members, N frames, K outputs."""

import numpy as np

from cache.labels import Task
from heads.labels import Labels


def error_targets(task: Task, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] what each output of `task` should be (a class or a positive is 1), and whether that is known."""
    values, mask = labels.values[task.group.name], labels.masks[task.group.name]
    if task.group.kind == "continuous":
        return values[:, list(task.indices)], mask[:, list(task.indices)]
    is_on = values == np.arange(task.num_outputs) if task.group.kind == "classes" else values > 0.5
    return is_on.astype(np.float64), np.broadcast_to(mask, is_on.shape)


def mean_correlation(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[M, M]: Pearson's correlation of `values` [M, N, K] over the frames `mask` [N, K], its mean over the K columns.

    A column in which a member is constant says nothing about it and is left out; NaN where that is so of all.
    """
    matrices = []
    for column in range(values.shape[2]):
        rows = values[:, mask[:, column], column].astype(np.float64)
        if rows.shape[1] < 2:
            continue
        centred = rows - rows.mean(axis=1, keepdims=True)
        size = np.sqrt((centred**2).sum(axis=1))
        size[size < 1e-9 * np.sqrt(rows.shape[1])] = np.nan
        matrices.append(np.clip(centred @ centred.T / np.outer(size, size), -1, 1))
    if not matrices:
        return np.full((len(values), len(values)), np.nan)
    stacked = np.stack(matrices)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
