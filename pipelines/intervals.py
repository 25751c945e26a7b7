"""Intervals of a held-out score by resampling videos, not frames: frames of one video are no independent evidence.

V videos, R resamples. CCC and F1 are functions of sums over frames, so each video is summed once and a resample is a
weighted sum of videos: 500 resamples cost one matrix product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cache.names import ACTION_UNITS, EXPRESSIONS, VA_COLUMNS
from pipelines.labels import Labels

NUM_RESAMPLES = 500
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSums:
    """Sums over the labelled frames of each video.

    `moments` [V, 2, 6]: n, x, y, x², y², xy of valence and arousal (x predicted, y label). `expr` [V, 8, 3] and `au`
    [V, 12, 3]: hits, predicted positives, labelled positives.
    """

    videos: tuple[str, ...]
    moments: np.ndarray
    expr: np.ndarray
    au: np.ndarray


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle `LEVEL` of the resampled scores, over so many videos."""

    low: float
    high: float
    num_videos: int


def video_sums(predictions: pl.DataFrame, labels: Labels) -> VideoSums:
    """Sums of `predictions` (columns video, valence, arousal, expression, AU..; null where not predicted), row for row
    with `labels`."""
    videos, code = np.unique(predictions["video"].to_numpy(), return_inverse=True)
    said_va = _matrix(predictions, VA_COLUMNS, np.float64)
    said_expr = _matrix(predictions, ("expression",), np.int64)[:, 0]
    said_au = _matrix(predictions, ACTION_UNITS, np.float64) > 0.5
    x, y = np.where(labels.va_mask, said_va, 0.0), np.where(labels.va_mask, labels.va, 0.0).astype(np.float64)
    classes = np.arange(len(EXPRESSIONS))
    said_class = (said_expr[:, None] == classes) & labels.expr_mask[:, None]
    is_class = (labels.expr[:, None] == classes) & labels.expr_mask[:, None]
    said_on, is_on = said_au & labels.au_mask, (labels.au > 0.5) & labels.au_mask

    def summed(*columns: np.ndarray) -> np.ndarray:
        stacked = np.stack([column.astype(np.float64) for column in columns], axis=-1)
        total = np.zeros((len(videos), *stacked.shape[1:]))
        np.add.at(total, code, stacked)
        return total

    return VideoSums(
        videos=tuple(videos.tolist()),
        moments=summed(labels.va_mask, x, y, x * x, y * y, x * y),
        expr=summed(said_class & is_class, said_class, is_class),
        au=summed(said_on & is_on, said_on, is_on),
    )


def scores(moments: np.ndarray, expr: np.ndarray, au: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """P over `tasks` from sums with any leading shape [..., 2, 6], [..., 8, 3], [..., 12, 3]; as `metrics.score`."""
    parts = {"va": _ccc(moments).mean(-1), "expr": _f1(expr).mean(-1), "au": _f1(au).mean(-1)}
    return np.sum([parts[task] for task in tasks], axis=0)


def interval(
    runs: Mapping[int, Sequence[VideoSums]], tasks: Sequence[str], *, num: int = NUM_RESAMPLES, seed: int = 0
) -> Interval | None:
    """The interval of the mean P of `runs`: fold -> the sums of each seed's run on that fold's held-out videos.

    A resample draws videos with replacement within each fold, the same ones for all seeds. None for a single video.
    """
    generator = np.random.default_rng(seed)
    drawn, num_videos = [], 0
    for fold in sorted(runs):
        count = len(runs[fold][0].videos)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=num).astype(np.float64)
        drawn += [_resampled(sums, weights, tasks) for sums in runs[fold]]
        num_videos += count
    if num_videos < 2:
        return None
    low, high = np.quantile(np.mean(drawn, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), num_videos)


def _resampled(sums: VideoSums, weights: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """[R] P of the resamples `weights` [R, V].

    A class that is labelled, but in none of the videos drawn, has no F1 in that resample: it is left out of the mean.
    Counted as 0 it would pull the whole interval below the score it is about.
    """
    moments, expr, au = (np.tensordot(weights, part, axes=1) for part in (sums.moments, sums.expr, sums.au))
    parts = {"va": _ccc(moments).mean(-1), "expr": _mean_f1(expr, sums.expr), "au": _mean_f1(au, sums.au)}
    return np.sum([parts[task] for task in tasks], axis=0)


def _mean_f1(counts: np.ndarray, all_videos: np.ndarray) -> np.ndarray:
    """[R] mean F1 of `counts` [R, classes, 3]: over classes drawn, times the share of classes that are labelled."""
    labelled = all_videos[:, :, 2].sum(axis=0) > 0
    drawn = counts[:, :, 2] > 0
    mean = (_f1(counts) * drawn).sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
    return mean * labelled.mean()


def _ccc(moments: np.ndarray) -> np.ndarray:
    """[...] CCC from sums [..., 6], population moments; 0 where both traces are constant."""
    n, *rest = np.moveaxis(moments, -1, 0)
    x, y, xx, yy, xy = (part / np.maximum(n, 1) for part in rest)
    spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
    constant = (xx - x * x < 1e-12) & (yy - y * y < 1e-12)
    return np.where(constant, 0.0, 2 * (xy - x * y) / np.where(constant, 1.0, spread))


def _f1(counts: np.ndarray) -> np.ndarray:
    """[...] F1 from counts [..., 3]; 0 where there is no positive at all."""
    hits, said, true = np.moveaxis(counts, -1, 0)
    return 2 * hits / np.maximum(said + true, 1e-9)


def _matrix(table: pl.DataFrame, names: Sequence[str], dtype: type) -> np.ndarray:
    """Columns [rows, len(names)]; a column that is missing or null was not predicted and counts as 0."""
    columns = [pl.col(name) if name in table.columns else pl.lit(0).alias(name) for name in names]
    return table.select(columns).fill_null(0).fill_nan(0).to_numpy().astype(dtype)
