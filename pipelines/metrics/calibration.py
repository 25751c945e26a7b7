"""Calibration of probabilities: how often what was predicted with a probability was so. N cases, B bins, G groups.

A case is a frame's most probable class, or a binary column of a frame. Intervals resample whole groups (subjects where
known, else videos).
"""

from dataclasses import dataclass

import numpy as np

from pipelines.metrics.intervals import LEVEL, NUM_RESAMPLES

NUM_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """By bin of equal width: the number of cases `count` [B], their mean probability `predicted` [B], the share that is
    so `observed` [B] with its interval `low`, `high` [B]; NaN where there is none.

    `ece` is the expected calibration error, the mean over cases of |predicted - observed| of their bins (Guo et al.,
    arXiv 1706.04599).
    """

    count: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ece: float


def calibration(probability: np.ndarray, happened: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> Calibration:
    """Of `probability` [N] and whether it was so, `happened` [N] bool; `groups` [N] are what is resampled."""
    names, group = np.unique(groups, return_inverse=True)
    bins = np.minimum((probability * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    values = np.stack([np.ones(len(bins)), probability, happened.astype(np.float64)], axis=1)
    sums = np.zeros((len(names), NUM_BINS, 3))
    np.add.at(sums, (group, bins), values)
    count, predicted, observed = _means(sums.sum(axis=0))
    low, high = _ends(sums, seed)
    error = np.where(count > 0, np.abs(predicted - observed), 0.0)
    ece = float((count * error).sum() / max(count.sum(), 1))
    return Calibration(count=count, predicted=predicted, observed=observed, low=low, high=high, ece=ece)


def _means(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From sums [..., B, 3] the counts and the two means, NaN without a case."""
    count = sums[..., 0]
    there = np.where(count > 0, count, np.nan)
    return count, sums[..., 1] / there, sums[..., 2] / there


def _ends(sums: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the share that is so by bin, over resampled groups; NaN for bins that fewer than two have."""
    number = len(sums)
    low, high = np.full((2, NUM_BINS), np.nan)
    several = (sums[..., 0] > 0).sum(axis=0) > 1
    if several.any():
        drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=NUM_RESAMPLES)
        shares = _means(np.tensordot(drawn.astype(np.float64), sums[:, several], axes=1))[2]
        low[several], high[several] = np.nanquantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
