"""Precision over recall of a binary column. N frames."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecall:
    """`precision` and `recall` at every distinct probability, the highest first; `average_precision` is the area under
    them, `at_threshold` (precision, recall) of the decisions in use, `share` that of positives among the labels."""

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float
    at_threshold: tuple[float, float]
    threshold: float
    share: float
    num_frames: int
    num_positives: int


def precision_recall(probability: np.ndarray, label: np.ndarray, threshold: float) -> PrecisionRecall | None:
    """The curve of `probability` [N] and `label` [N] bool; None without a positive or without a negative.

    Average precision is the mean of the precision over the recall's steps, not interpolated, as in scikit-learn.
    """
    positives = int(label.sum())
    if positives == 0 or positives == len(label):
        return None
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order], np.cumsum(label[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal probabilities the last
    precision, recall = hits[last] / (last + 1), hits[last] / positives
    decided = probability >= threshold
    found = int((decided & label).sum())
    return PrecisionRecall(
        precision=precision,
        recall=recall,
        average_precision=float(np.sum(np.diff(recall, prepend=0.0) * precision)),
        at_threshold=(found / max(int(decided.sum()), 1), found / positives),
        threshold=threshold,
        share=positives / len(label),
        num_frames=len(label),
        num_positives=positives,
    )
