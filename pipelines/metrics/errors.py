"""Errors of single frames, and of videos or subjects: mean absolute error, or the share of wrong decisions. N frames.

CCC and F1 are of all frames at once: of one video they say little, as where its label hardly changes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from cache.labels import Task
from heads.labels import Labels

ERROR_WORDS = {
    "continuous": "mean absolute error",
    "classes": "share of frames with a wrong class",
    "binary": "share of wrong decisions",
}


def frame_errors(task: Task, decided: np.ndarray, labels: Labels) -> np.ndarray:
    """[N] the error of `decided`, as `Decisions` has it: |prediction - label| or 1 for a wrong decision, its mean over
    the labelled columns; NaN without a label."""
    label, mask = labels.values[task.group.name], labels.masks[task.group.name]
    if task.group.kind == "continuous":
        label, mask = label[:, list(task.indices)], mask[:, list(task.indices)]
        error = np.abs(decided - label)
    else:
        error = (decided.reshape(len(label), -1) != label).astype(np.float64)
    count = mask.sum(axis=1)
    return np.where(count > 0, np.where(mask, error, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def errors_by(names: Sequence[str], errors: Mapping[str, np.ndarray]) -> dict[str, pl.DataFrame]:
    """By task the table `name`, `error` (mean over labelled frames), `num_frames`, the largest error first."""
    found = {}
    for task, values in errors.items():
        table = pl.DataFrame({"name": names, "error": values}).filter(pl.col("error").is_not_nan())
        grouped = table.group_by("name").agg(pl.col("error").mean(), pl.len().alias("num_frames"))
        found[task] = grouped.sort(["error", "name"], descending=[True, False])
    return found
