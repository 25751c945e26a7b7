"""How firmly the ranking stands: the places strategies take when other videos had chosen. V videos, R resamples.

Epochs are not chosen again, so the ranking is shown a little firmer than it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.scoring.intervals import LEVEL, NUM_RESAMPLES, Runs, drawn, resampled, videos_of


@dataclass(frozen=True, slots=True)
class Stability:
    """The share of resamples in which a strategy comes first, and the middle 95 % of its places."""

    first: float
    low: int
    high: int
    num_videos: int


def stability(
    strategies: Sequence[Runs], tasks: Sequence[str], *, num: int = NUM_RESAMPLES, seed: int = 0
) -> list[Stability]:
    """Of each of `strategies`, given with their selection rows in the order of the leaderboard.

    A resample draws videos with replacement within each fold, the same ones for all strategies.
    """
    videos = videos_of(strategies)
    draws = drawn(videos, num, seed)
    places = ranks(np.array([resampled(runs, videos, draws, tasks)["P"] for runs in strategies]))
    ends = np.quantile(places, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1, method="inverted_cdf")
    num_videos = sum(map(len, videos.values()))
    return [
        Stability(float((row == 1).mean()), int(low), int(high), num_videos)
        for row, low, high in zip(places, *ends, strict=True)
    ]


def ranks(scores: np.ndarray) -> np.ndarray:
    """[M, R] places from 1, the highest score first; equal scores keep the order of the strategies."""
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.argsort(order, axis=0, kind="stable") + 1
