"""The offset of each class: added to its log probability before the highest one is taken.

Fitted as thresholds are: macro F1 on some rows, drawn towards nothing where few videos show a class.
R rows, K classes, T candidate offsets.
"""

import numpy as np

from pipelines.metrics.predictions import TINY
from pipelines.postprocess.thresholds import SHRINK_VIDEOS, f1_of

# A class may weigh up to e^2 = 7.4 times as much or as little, in steps of a tenth.
CANDIDATES = np.linspace(-2.0, 2.0, 41)
NUM_SWEEPS = 5  # with 20, the scores of 30 runs on the made data were the same


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """[R, K] finite; what is 0 is as good as impossible."""
    return np.log(np.maximum(probabilities, TINY))


def best_offsets(probabilities: np.ndarray, classes: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """[K] offsets: coordinate search from none, then each drawn towards 0 by n / (n + 2), n videos that show the class.

    A class after the other takes the candidate of the highest macro F1 with the others as they are, of equals the one
    nearest to 0, until a sweep changes none. A class that no video shows keeps 0.

    Args:
        probabilities: [R, K] of labelled rows.
        classes: [R] labels from 0.
        videos: [K] videos with a label of each class.
    """
    logs, offsets = log_probabilities(probabilities), np.zeros(len(videos))
    for _ in range(NUM_SWEEPS):
        before = offsets.copy()
        for one in np.flatnonzero(videos > 0):
            offsets[one] = _best_of_class(int(one), logs, offsets, classes)
        if (offsets == before).all():
            break
    return offsets * videos / (videos + SHRINK_VIDEOS)


def _best_of_class(one: int, logs: np.ndarray, offsets: np.ndarray, classes: np.ndarray) -> float:
    """The candidate of the highest macro F1 for class `one`; the present offset where none is higher."""
    values = np.append(CANDIDATES, offsets[one])
    f1 = f1_of(class_curves(one, logs, offsets, classes, values)).mean(axis=1)
    if f1.max() <= f1[-1] + TINY:
        return float(offsets[one])
    far = np.where(f1 >= f1.max() - TINY, np.abs(values), np.inf)
    return float(values[far.argmin()])


def class_curves(
    one: int, logs: np.ndarray, offsets: np.ndarray, classes: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """[T, K, 3]: hits, predicted and labelled rows of every class with class `one` at each of the offsets `values` [T].

    A row is predicted as class `one` from the offset on at which it exceeds the best of the others, which else has
    it: one sort of the rows into the candidates counts for all of them.
    """
    shifted = logs + offsets
    shifted[:, one] = -np.inf
    other = shifted.argmax(axis=1)
    needed = shifted[np.arange(len(other)), other] - logs[:, one]
    order = np.argsort(values, kind="stable")
    # Ties go to the class of the lower number, as argmax has it.
    first = np.where(one < other, *(np.searchsorted(values[order], needed, side=side) for side in ("left", "right")))
    num = len(values)
    taken = _counts(first, other, classes, num, logs.shape[1])  # [T + 1, K, K]: rows that turn at each candidate
    gone = taken.cumsum(axis=0)[:num]  # turned at this candidate or before
    left = taken.sum(axis=0) - gone
    curves = np.zeros((num, logs.shape[1], 3))
    curves[..., 0], curves[..., 1] = np.diagonal(left, axis1=1, axis2=2), left.sum(axis=2)
    mine = gone.sum(axis=1)
    curves[:, one, 0], curves[:, one, 1] = mine[:, one], mine.sum(axis=1)
    curves[..., 2] = np.bincount(classes, minlength=logs.shape[1])
    found = np.empty_like(curves)
    found[order] = curves
    return found


def _counts(first: np.ndarray, other: np.ndarray, classes: np.ndarray, num: int, num_classes: int) -> np.ndarray:
    """[num + 1, K, K]: rows by the candidate at which they turn, the class they turn from, and their label."""
    cell = (first * num_classes + other) * num_classes + classes
    size = (num + 1) * num_classes**2
    return np.bincount(cell, minlength=size).reshape(num + 1, num_classes, num_classes).astype(np.float64)
