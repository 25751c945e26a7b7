"""Scores of a table of predictions against a table of labels, matched by video and frame."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.names import ACTION_UNITS, LABEL_COLUMNS, TASK_COLUMNS, TASKS, VA_COLUMNS
from extract.annotations.dummies import refuse_dummies
from extract.annotations.duplicates import OnConflict
from extract.annotations.readers import read_labels
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.predictions import Decisions
from pipelines.run_files import check_table


def score_tables(
    predictions: Path, labels: Path, tasks: str = "", split: str = "", on_conflict: OnConflict = "error"
) -> dict[str, Any]:
    """The metrics of the file `predictions` on the labelled frames of the file `labels`.

    Args:
        predictions: Parquet or CSV with the frames table's columns, or the challenge's text format.
        labels: the same; -5 and -1 mean that a label is missing.
        tasks: "va", "expr", "au", several with commas, or "" for all that have both predictions and labels.
        split: only label rows of this split; "" for all.
        on_conflict: what counts where rows of `labels` disagree about a frame.

    The metrics have "not_scored" besides: why each task that has no score has none.

    Raises:
        ValueError: a file cannot be read or is not what a run or `mtl prepare` wrote, labels are dummy values, or a
            labelled frame has no prediction.
    """
    said, truth = read_labels(predictions), read_labels(labels, on_conflict)
    for path in (predictions, labels):
        check_table(path)
    if split:
        truth = truth.filter(pl.col("split") == split)
        if not len(truth):
            raise ValueError(f"{labels}: no row is in split {split}")
    refuse_dummies(truth, str(labels), "score against the true labels")
    table = truth.join(said.select("video", "frame", *LABEL_COLUMNS), on=["video", "frame"], how="left", suffix=":said")
    chosen, not_scored = _tasks(tasks, table, predictions, labels)
    for task in chosen:
        _check_complete(task, table, predictions)
    return score(_decisions(table, chosen), labels_of(table), chosen) | {"not_scored": not_scored}


def _tasks(tasks: str, table: pl.DataFrame, predictions: Path, labels: Path) -> tuple[list[str], dict[str, str]]:
    """The tasks to score, and why each of the others is not: what has no label cannot be scored."""
    asked = [task.strip() for task in tasks.split(",") if task.strip()]
    for task in asked:
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    why: dict[str, str] = {}
    for task in TASKS:
        if asked and task not in asked:
            why[task] = "not asked for"
        elif not table.select(pl.any_horizontal(pl.col(TASK_COLUMNS[task]).is_not_null()).any()).item():
            why[task] = f"no label in {labels}"
        elif not asked and not table.select(_any_said(task).any()).item():
            why[task] = f"no prediction in {predictions} of a labelled frame"
    for task in asked:
        if task in why:
            raise ValueError(f"{labels}: no label of {task}, so it cannot be scored; leave it out of --tasks")
    chosen = [task for task in TASKS if task not in why]
    if not chosen:
        unlabelled = all(reason.startswith("no label") for reason in why.values())
        if unlabelled:
            raise ValueError(f"{labels}: no label in any row, so nothing can be scored; is it a test list?")
        raise ValueError(f"{predictions}: no predicted frame is among the labelled ones; do video and frame match?")
    return chosen, why


def _any_said(task: str) -> pl.Expr:
    return pl.any_horizontal(pl.col(f"{name}:said").is_not_null() for name in TASK_COLUMNS[task])


def _check_complete(task: str, table: pl.DataFrame, predictions: Path) -> None:
    """Raises where a label of `task` has no prediction: a score over the rest would be no score of the whole."""
    for name in TASK_COLUMNS[task]:
        lost = table.filter(pl.col(name).is_not_null() & pl.col(f"{name}:said").is_null())
        if len(lost):
            video, frame = lost.row(0, named=True)["video"], lost.row(0, named=True)["frame"]
            raise ValueError(
                f"{predictions}: {len(lost):,} labelled frames have no prediction of {name}, the first is "
                f"{video} frame {frame}; predict every labelled frame, or leave the task out with --tasks"
            )


def _decisions(table: pl.DataFrame, tasks: list[str]) -> Decisions:
    def said(names: tuple[str, ...]) -> np.ndarray:
        return table.select(pl.col(f"{name}:said") for name in names).fill_null(0).to_numpy()

    return Decisions(
        va=said(VA_COLUMNS).astype(np.float64) if "va" in tasks else None,
        expression=said(("expression",))[:, 0].astype(np.int64) if "expr" in tasks else None,
        action_units=said(ACTION_UNITS).astype(np.int8) if "au" in tasks else None,
    )
