"""How alike an ensemble's members are: correlations of their predictions and errors. M members, N frames, K outputs."""

import numpy as np


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
