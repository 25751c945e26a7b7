"""The threshold of each binary column: candidates, F1 at all of them at once, and a choice that few positives cannot
carry away. R rows, K columns, T candidate thresholds.
"""

import numpy as np

NUM_CANDIDATES = 50
LEAST_SHARE = 0.002  # the highest candidate calls so many of the frames positive
SHRINK_VIDEOS = 2.0  # out of fold on the made data: 0.573 unshrunk, 0.576 so (mean AU F1 of 12 runs)


def threshold_candidates(probabilities: np.ndarray) -> np.ndarray:
    """[K, T] ascending: midpoints between quantiles of `probabilities` [R, K], and 0.5, as often as there is room.

    The share of frames above goes down by the same factor each time, from all to 0.2 %: rare ones need fine steps.
    """
    shares = np.geomspace(1.0, LEAST_SHARE, NUM_CANDIDATES)
    values = np.quantile(probabilities, 1 - shares, axis=0, method="nearest").T
    candidates = np.full((len(values), NUM_CANDIDATES), 0.5)
    for unit, found in enumerate(map(np.unique, values)):
        candidates[unit, : len(found) - 1] = (found[1:] + found[:-1]) / 2
    return np.sort(candidates, axis=1)


def threshold_curves(
    probabilities: np.ndarray,
    candidates: np.ndarray,
    labels: np.ndarray,
    mask: np.ndarray,
    group: np.ndarray,
    num: int,
) -> np.ndarray:
    """[num, K, T, 3]: hits, predicted and labelled positives of each group of rows at each candidate; rows count where
    `mask` [R, K], with the `labels` [R, K]."""
    curves = np.zeros((num, *candidates.shape, 3))
    width = candidates.shape[1] + 1
    for unit in range(len(candidates)):
        rows = mask[:, unit]
        passed = np.searchsorted(candidates[unit], probabilities[rows, unit], side="right")
        cell, true = group[rows] * width + passed, labels[rows, unit] > 0.5
        for place, weights in enumerate((true.astype(float), np.ones(len(true)))):
            count = np.bincount(cell, weights, num * width).reshape(num, width)
            curves[:, unit, :, place] = count[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        curves[:, unit, :, 2] = np.bincount(group[rows], true, num)[:, None]
    return curves


def best_thresholds(candidates: np.ndarray, curves: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """[K] thresholds: the candidate of the highest F1, drawn towards 0.5 where few videos have a positive.

    In log-odds, times n / (n + 2) with n videos that show one: frames of one video are no independent evidence, and
    a column that no video shows keeps 0.5. Of candidates that do equally well, the one nearest to 0.5.

    Args:
        candidates: [K, T] thresholds.
        curves: [K, T, 3] hits, predicted and labelled positives at each.
        positives: [K] videos with a positive label.
    """
    f1 = f1_of(curves)
    far = np.where(f1 >= f1.max(axis=1, keepdims=True) - 1e-12, np.abs(candidates - 0.5), np.inf)
    best = np.take_along_axis(candidates, far.argmin(axis=1)[:, None], axis=1)[:, 0].clip(1e-6, 1 - 1e-6)
    odds = np.log(best / (1 - best)) * positives / (positives + SHRINK_VIDEOS)
    return 1 / (1 + np.exp(-odds))


def f1_of(curves: np.ndarray) -> np.ndarray:
    """[...] F1 from [..., 3]: hits, predicted and labelled positives."""
    found: np.ndarray = 2 * curves[..., 0] / np.maximum(curves[..., 1] + curves[..., 2], 1e-9)
    return found
