"""Which faces an epoch shows, how often and in which order; all of it follows from (seed, epoch). R rows.

Consecutive frames are nearly one picture, and expressions and action units are rare: shown as they come, one long video
and one class would be most of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heads.labels import Labels
from heads.tasks import Task
from pipelines.backbones.data import in_chunks
from pipelines.config import FinetuneConfig
from pipelines.labels import label_pattern

MAX_RARITY = 10.0  # no label makes a face count more: it would be learned by heart


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The rows that train. For all R rows: `video` and `source` (the data set) by number, the `rarity` of the labels,
    and the `pattern` of what is labelled. `shares` is each source's part of an epoch, 0 as many as it has rows."""

    rows: np.ndarray
    video: np.ndarray
    source: np.ndarray
    rarity: np.ndarray
    pattern: np.ndarray
    shares: tuple[float, ...] = (0.0,)


def make_pool(
    labels: Labels,
    train: np.ndarray,
    video: np.ndarray,
    source: np.ndarray,
    tasks: Sequence[Task],
    shares: tuple[float, ...] = (0.0,),
) -> Pool:
    """The pool of the rows `train`, of R rows with `labels`."""
    return Pool(
        rows=train,
        video=video,
        source=source,
        rarity=rarity_of(labels, train, tasks),
        pattern=label_pattern(labels),
        shares=shares,
    )


def epoch_steps(pool: Pool, config: FinetuneConfig, epoch: int) -> list[list[np.ndarray]]:
    """One epoch's steps, each in the parts of its accumulation: rows in a new order, steps and parts of even size.

    Even, because a last batch of one face would have no spread for batch normalisation. For mixup, rows of a part that
    are labelled for the same things stand side by side.
    """
    order = draw_rows(pool, config, np.random.default_rng([config.seed, epoch]))
    steps = [_parts(step, config) for step in in_chunks(order, config.batch_size * config.accumulate)]
    if not config.mixup:
        return steps
    return [[part[np.argsort(pool.pattern[part], kind="stable")] for part in parts] for parts in steps]


def _parts(step: np.ndarray, config: FinetuneConfig) -> list[np.ndarray]:
    """A step in `accumulate` parts, fewer where they would have less than two faces."""
    return np.array_split(step, max(1, min(config.accumulate, len(step) // 2)))


def draw_rows(pool: Pool, config: FinetuneConfig, rng: np.random.Generator, *, whole: bool = False) -> np.ndarray:
    """The rows of an epoch in random order: each once, or as often as its weight says, in all as many.

    `whole` draws as if there were no `max_faces_per_epoch`.
    """
    rows = capped(rng.permutation(pool.rows), pool.video, config.max_faces_per_video)
    limit = 0 if whole else config.max_faces_per_epoch
    number = min(limit, len(rows)) if limit else len(rows)
    weights = row_weights(pool, rows, config.balance)
    if np.ptp(weights) <= 1e-12 * weights.max():
        return rows[:number]
    return rng.permutation(rows[resampled(weights, number, rng)])


def capped(rows: np.ndarray, video: np.ndarray, limit: int) -> np.ndarray:
    """The first `limit` of `rows` of each video, in their order; 0 is all."""
    if not limit:
        return rows
    order = np.argsort(video[rows], kind="stable")
    of = video[rows][order]
    begin = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
    number = np.arange(len(of)) - np.repeat(begin, np.diff(np.r_[begin, len(of)]))
    return np.asarray(rows[np.sort(order[number < limit])])


def row_weights(pool: Pool, rows: np.ndarray, balance: str) -> np.ndarray:
    """How often each of `rows` is to be shown, up to a factor.

    A video of n faces counts sqrt(n) in all with "videos" and "both"; the rarity of labels with "labels" and "both".
    """
    weights = np.ones(len(rows))
    if balance in ("labels", "both"):
        weights *= pool.rarity[rows]
    if balance in ("videos", "both"):
        _, place, counts = np.unique(pool.video[rows], return_inverse=True, return_counts=True)
        weights /= np.sqrt(counts)[place]
    if any(pool.shares):
        source = pool.source[rows]
        shares = source_shares(pool.shares, np.bincount(source, minlength=len(pool.shares)))
        totals = np.bincount(source, weights, minlength=len(shares))
        weights *= (shares / np.maximum(totals, 1e-12))[source]
    return weights


def source_shares(given: Sequence[float], counts: np.ndarray) -> np.ndarray:
    """Each source's part of an epoch, summing to 1: those `given`, the rest cut by the `counts` of rows.

    Raises:
        ValueError: the given ones are negative, or leave nothing for the others.
    """
    shares = np.array(given, dtype=np.float64)
    free = (shares == 0) & (counts > 0)
    rest = 1 - shares.sum()
    if (shares < 0).any() or (free.any() and rest <= 1e-9) or rest < -1e-9:
        listed = ", ".join(f"{share:g}" for share in given[1:])
        raise ValueError(
            f"[[finetune.data]] share: {listed} must be parts of an epoch, together below 1, for the faces under "
            "[data] are a part of it too"
        )
    shares[free] = rest * counts[free] / counts[free].sum() if free.any() else 0
    return np.asarray(shares / shares.sum())


def resampled(weights: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """`number` places of `weights`, each as often as its weight says, rounded up or down: systematic resampling."""
    ends = np.cumsum(weights / weights.sum())
    points = (np.arange(number) + rng.random()) / number
    return np.minimum(np.searchsorted(ends, points, side="right"), len(weights) - 1)


def rarity_of(labels: Labels, train: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """[R] how much more often a row is worth showing for its labels: 1 / sqrt(frequency), at most 10.

    For a task that is of its class, or of its rarest binary column that is there; the mean over the tasks it is
    labelled for (a continuous one counts 1). Frequencies are those among the rows `train`.
    """
    known: list[tuple[np.ndarray, np.ndarray]] = []
    for task in tasks:
        value, mask = task.labels_in(labels)
        labelled = mask.any(axis=1)
        known.append((np.where(labelled, RARITIES[task.kind](value, mask, train, task.num_outputs), 0.0), labelled))
    total, count = (np.sum(parts, axis=0) for parts in zip(*known, strict=True))
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def _plain(value: np.ndarray, mask: np.ndarray, train: np.ndarray, num: int) -> np.ndarray:
    return np.ones(len(value))


def _of_class(value: np.ndarray, mask: np.ndarray, train: np.ndarray, num: int) -> np.ndarray:
    counts = np.bincount(value[train][mask[train]], minlength=num)
    return np.asarray(_rarity(counts / max(counts.sum(), 1))[value[:, 0]])


def _of_positives(value: np.ndarray, mask: np.ndarray, train: np.ndarray, num: int) -> np.ndarray:
    positive = (value > 0.5) & mask
    frequency = positive[train].sum(axis=0) / np.maximum(mask[train].sum(axis=0), 1)
    return np.where(positive, _rarity(frequency), 1.0).max(axis=1)


def _rarity(frequency: np.ndarray) -> np.ndarray:
    return np.minimum(1 / np.sqrt(np.maximum(frequency, 1e-12)), MAX_RARITY)


RARITIES = {"continuous": _plain, "classes": _of_class, "binary": _of_positives}
