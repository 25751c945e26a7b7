"""Intervals of a held-out score by resampling videos, not frames: frames of one video are no independent evidence.

V videos, R resamples. CCC and F1 are functions of sums over frames, so each video is summed once and a resample is a
weighted sum of videos: 500 resamples cost one matrix product.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS, VA_COLUMNS
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

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.moments, self.expr, self.au

    @property
    def labelled(self) -> tuple[str, ...]:
        """Tasks with a labelled frame; of an expression or AU without a positive nothing is known here."""
        there = {"va": self.moments[..., 0], "expr": self.expr[..., 2], "au": self.au[..., 2]}
        return tuple(task for task in TASKS if there[task].any())

    def over(self, videos: Sequence[str]) -> "VideoSums":
        """The same sums for `videos` in their order; 0 for one that is not here."""
        if self.videos == tuple(videos):
            return self
        place = {video: index for index, video in enumerate(self.videos)}
        index = np.array([place.get(video, -1) for video in videos], dtype=np.int64)
        known = (index >= 0)[:, None, None]
        moments, expr, au = (np.where(known, part[index], 0.0) for part in self.parts)
        return VideoSums(videos=tuple(videos), moments=moments, expr=expr, au=au)


# The runs of a strategy: fold -> seed -> the sums of that run over its fold's videos.
Runs = Mapping[int, Mapping[int, VideoSums]]


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
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(len(videos)))
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
        return np.add.reduceat(stacked[order], starts, axis=0)

    return VideoSums(
        videos=tuple(videos.tolist()),
        moments=summed(labels.va_mask, x, y, x * x, y * y, x * y),
        expr=summed(said_class & is_class, said_class, is_class),
        au=summed(said_on & is_on, said_on, is_on),
    )


def scores(moments: np.ndarray, expr: np.ndarray, au: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """P over `tasks` from sums with any leading shape [..., 2, 6], [..., 8, 3], [..., 12, 3]; as `metrics.score`."""
    return task_scores((moments, expr, au), tasks)["P"]


def task_scores(parts: Sequence[np.ndarray], tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Each task's score from the same sums, and under "P" their sum."""
    found = {task: SCORES[task](parts).mean(-1) for task in tasks}
    return {"P": np.sum(list(found.values()), axis=0), **found}


def mean_of_runs(values: Mapping[int, Mapping[int, np.ndarray]]) -> np.ndarray:
    """Fold -> seed -> [R]: each seed's mean over its folds, then the mean over seeds, as the leaderboard has it."""
    by_seed: dict[int, list[np.ndarray]] = {}
    for seeds in values.values():
        for seed, value in seeds.items():
            by_seed.setdefault(seed, []).append(value)
    means = [np.mean(folds, axis=0) for folds in by_seed.values()]
    return np.asarray(np.mean(means, axis=0))


def interval(runs: Runs, tasks: Sequence[str], *, num: int = NUM_RESAMPLES, seed: int = 0) -> Interval | None:
    """The interval of the mean P of `runs` on their held-out videos.

    A resample draws videos with replacement within each fold, the same ones for all seeds. None for a single video.
    """
    videos = videos_of([runs])
    num_videos = sum(map(len, videos.values()))
    if num_videos < 2:
        return None
    low, high = middle(resampled(runs, videos, drawn(videos, num, seed), tasks)["P"])
    return Interval(low, high, num_videos)


def middle(values: np.ndarray) -> tuple[float, float]:
    """The ends of the middle `LEVEL` of `values` [R]."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def videos_of(strategies: Iterable[Runs]) -> dict[int, tuple[str, ...]]:
    """Fold -> the videos that any of the `strategies` has there, sorted."""
    found: dict[int, set[str]] = {}
    for runs in strategies:
        for fold, seeds in runs.items():
            found.setdefault(fold, set()).update(*(sums.videos for sums in seeds.values()))
    return {fold: tuple(sorted(found[fold])) for fold in sorted(found)}


def drawn(videos: Mapping[int, Sequence[str]], num: int, seed: int) -> dict[int, np.ndarray]:
    """Fold -> [R, V]: how often each video is drawn, with replacement within its fold."""
    generator = np.random.default_rng(seed)
    return {
        fold: generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num).astype(np.float64)
        for fold, names in videos.items()
    }


def resampled(
    runs: Runs, videos: Mapping[int, Sequence[str]], weights: Mapping[int, np.ndarray], tasks: Sequence[str]
) -> dict[str, np.ndarray]:
    """[R] mean scores of `runs` under the draws `weights` of `videos`, by task and under "P"."""
    scores = {
        fold: {seed: _resampled(sums.over(videos[fold]), weights[fold], tasks) for seed, sums in seeds.items()}
        for fold, seeds in runs.items()
    }
    return {key: mean_of_runs(pick(scores, key)) for key in ("P", *tasks)}


def pick(scores: Mapping[int, Mapping[int, Mapping[str, np.ndarray]]], key: str) -> dict[int, dict[int, np.ndarray]]:
    """Of every run the one score `key`."""
    return {fold: {seed: values[key] for seed, values in seeds.items()} for fold, seeds in scores.items()}


def _resampled(sums: VideoSums, weights: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """[R] scores of the resamples `weights` [R, V].

    A class that is labelled, but in none of the videos drawn, has no F1 in that resample: it is left out of the mean.
    Counted as 0 it would pull the whole interval below the score it is about.
    """
    found = {}
    for task in tasks:
        if task == "va":
            found[task] = _ccc(np.tensordot(weights, sums.moments, axes=1)).mean(-1)
        else:
            part: np.ndarray = getattr(sums, task)
            found[task] = _mean_f1(np.tensordot(weights, part, axes=1), part)
    return {"P": np.sum(list(found.values()), axis=0), **found}


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


SCORES = {"va": lambda parts: _ccc(parts[0]), "expr": lambda parts: _f1(parts[1]), "au": lambda parts: _f1(parts[2])}
