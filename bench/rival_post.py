"""Post-processing of a rival's predictions, as HSEmotion has it at ABAW7: each task smoothed over real frame numbers,
a threshold an AU, both fitted on the select rows. R rows, K columns."""

import itertools
from dataclasses import replace

import numpy as np

from bench.rival_frames import Frames, Predicted, au_score, expr_score, va_score

WIDTHS = (0, 1, 2, 4, 8, 16, 32, 64)  # frames
KERNELS = ("gaussian", "box")
THRESHOLDS = np.linspace(0.05, 0.95, 37)


def post_process(predicted: Predicted, frames: Frames) -> tuple[Predicted, np.ndarray]:
    """`predicted` smoothed, and the thresholds [12] of AUs."""
    rows, scores = frames.select, {"va": va_score, "expr": expr_score, "au": au_score}
    found = {}
    for task, score in scores.items():
        values, label = getattr(predicted, task), getattr(frames, task)[rows]
        tried = [smoothed(values, frames, kernel, width) for kernel in KERNELS for width in WIDTHS]
        found[task] = max(tried, key=lambda one: score(one[rows], label))
    return replace(predicted, **found), fitted_thresholds(found["au"][rows], frames.au[rows])


def fitted_thresholds(predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
    """[12] the threshold of each AU's best F1."""
    best = []
    for values, truth in zip(predicted.T[:, :, None], label.T[:, :, None], strict=True):
        scores = [au_score(values, truth, threshold) for threshold in THRESHOLDS]
        best.append(THRESHOLDS[int(np.argmax(scores))])
    return np.array(best)


def smoothed(values: np.ndarray, frames: Frames, kernel: str, width: float) -> np.ndarray:
    """`values` [N, K] averaged over frames near in time in their video: `width` is sigma, or half of a box.

    Rows that choose and rows that are scored never meet.
    """
    if width == 0:
        return values
    found = values.copy()
    for video, part in itertools.product(np.unique(frames.video), (frames.select, frames.report)):
        rows = np.flatnonzero((frames.video == video) & part)
        distance = np.abs(frames.frame[rows][:, None] - frames.frame[rows]).astype(np.float64)
        weights = np.exp(-0.5 * (distance / width) ** 2) if kernel == "gaussian" else (distance <= width) * 1.0
        found[rows] = (weights / weights.sum(axis=1, keepdims=True)) @ values[rows]
    return found
