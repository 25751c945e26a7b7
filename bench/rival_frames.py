"""What the rivals of `mtl train-head` get and give: embeddings, labels and predictions of frames; their own scores.

Nothing here knows of `heads` or `pipelines`. Letters: N frames, D width, W windows, T steps, R rows.
"""

from dataclasses import dataclass, replace

import numpy as np

LONGEST_GAP = 300  # frames; a window never spans a longer one


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What is known of N frames, sorted by video and frame number: `x` [N, D] float32; `va` [N, 2] and `au` [N, 12],
    NaN where missing; `expr` [N], -1 where missing; masks of the rows that train, choose and are scored."""

    x: np.ndarray
    va: np.ndarray
    expr: np.ndarray
    au: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    train: np.ndarray
    select: np.ndarray
    report: np.ndarray

    def beside_deviation(self) -> "Frames":
        """Each embedding beside its deviation from the mean of its video's."""
        _, video = np.unique(self.video, return_inverse=True)
        sums = np.zeros((video.max() + 1, self.x.shape[1]))
        np.add.at(sums, video, self.x)
        mean = sums / np.bincount(video)[:, None]
        return replace(self, x=np.concatenate([self.x, self.x - mean[video]], axis=1).astype(np.float32))

    def standardised(self) -> "Frames":
        """Every dimension with mean 0 and deviation 1 over the training rows."""
        mean, deviation = self.x[self.train].mean(axis=0), self.x[self.train].std(axis=0)
        return replace(self, x=((self.x - mean) / np.maximum(deviation, 1e-6)).astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Of N frames `va` [N, 2], probabilities `expr` [N, 8] and `au` [N, 12]; and the numbers that were fitted."""

    va: np.ndarray
    expr: np.ndarray
    au: np.ndarray
    num_parameters: int


def va_score(predicted: np.ndarray, label: np.ndarray) -> float:
    """Mean CCC of [R, 2], over what is labelled."""
    values = []
    for x, y in zip(predicted.T, label.T, strict=True):
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        values.append(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2 + 1e-12))
    return float(np.mean(values))


def expr_score(predicted: np.ndarray, label: np.ndarray) -> float:
    """Macro F1 of the most probable class of [R, 8], over what is labelled."""
    classes = np.arange(predicted.shape[1])
    known = label >= 0
    on, true = predicted[known].argmax(axis=1)[:, None] == classes, label[known][:, None] == classes
    return float((2 * (on & true).sum(axis=0) / np.maximum(on.sum(axis=0) + true.sum(axis=0), 1)).mean())


def au_score(predicted: np.ndarray, label: np.ndarray, thresholds: np.ndarray | float = 0.5) -> float:
    """Mean F1 of [R, 12] at `thresholds`, over what is labelled."""
    known = ~np.isnan(label)
    on, true = (predicted >= thresholds) & known, (label > 0.5) & known
    return float((2 * (on & true).sum(axis=0) / np.maximum(on.sum(axis=0) + true.sum(axis=0), 1)).mean())


def select_score(predicted: Predicted, frames: Frames) -> float:
    """P on the select rows."""
    rows = frames.select
    va, expr = va_score(predicted.va[rows], frames.va[rows]), expr_score(predicted.expr[rows], frames.expr[rows])
    return va + expr + au_score(predicted.au[rows], frames.au[rows])


def windows(
    frames: Frames, part: np.ndarray, window: int, stride: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """[W, T] rows of `part`, padded with -1 at the end: of one video each, across no gap above `LONGEST_GAP` frames.

    Every `stride` steps, the last one where the stretch ends; as many at random starts with a `generator`.
    """
    rows = np.flatnonzero(part)
    cut = (frames.video[rows][1:] != frames.video[rows][:-1]) | (np.diff(frames.frame[rows]) > LONGEST_GAP)
    found = []
    for stretch in np.split(rows, np.flatnonzero(cut) + 1):
        room = max(len(stretch) - window, 0)
        starts = np.minimum(np.arange(-(-room // stride) + 1) * stride, room)
        if generator is not None:
            starts = generator.integers(0, room + 1, len(starts))
        for start in starts:
            piece = stretch[start : start + window]
            found.append(np.pad(piece, (0, window - len(piece)), constant_values=-1))
    return np.stack(found)
