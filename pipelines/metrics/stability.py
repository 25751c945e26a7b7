"""Stability of the ranking: the ranks of the strategies over resampled selection subjects or videos. R resamples.

Epochs are not chosen again, so the ranking appears slightly more stable than it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.metrics.intervals import LEVEL, NUM_RESAMPLES, Runs, Sample, drawn, groups_of_runs, resampled


@dataclass(frozen=True, slots=True)
class Stability:
    """The share of resamples in which a strategy ranks first, and the 95 % interval of its rank."""

    first: float
    low: int
    high: int
    sample: Sample

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {"first": self.first, "low": self.low, "high": self.high, **self.sample.to_json()}


def stability(
    strategies: Sequence[Runs], tasks: Sequence[str], *, num: int = NUM_RESAMPLES, seed: int = 0
) -> list[Stability]:
    """Of each of `strategies`, given with their selection rows in the order of the leaderboard.

    A resample draws groups with replacement within each fold, the same ones for all strategies. One that holds no
    labels of a task, and so has no P, is left out; empty where that is so of all, and for a single group, of which
    every resample is the same.
    """
    groups = groups_of_runs(strategies)
    if not groups.can_vary:
        return []
    draws = drawn(groups, num, seed)
    scores = np.array([resampled(runs, groups, draws, tasks)["P"] for runs in strategies])
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    if not scores.size:
        return []
    found = ranks(scores)
    ends = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1, method="inverted_cdf")
    return [
        Stability(float((row == 1).mean()), int(low), int(high), groups.sample)
        for row, low, high in zip(found, *ends, strict=True)
    ]


def ranks(scores: np.ndarray) -> np.ndarray:
    """[M, R] ranks from 1, the highest score first; equal scores keep the order of the strategies."""
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.argsort(order, axis=0, kind="stable") + 1
