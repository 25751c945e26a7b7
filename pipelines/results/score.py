"""Scores of a table of predictions against a table of labels, matched by video and frame."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.frames import stored_schema
from cache.labels import ABAW, Schema, Task
from extract.annotations.dummies import refuse_dummies
from extract.annotations.duplicates import OnConflict
from extract.annotations.readers import read_labels
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.predictions import Decisions
from pipelines.run_files import check_table


def score_tables(
    predictions: Path,
    labels: Path,
    tasks: str = "",
    split: str = "",
    on_conflict: OnConflict = "error",
    schema: Schema = ABAW,
) -> dict[str, Any]:
    """The metrics of the file `predictions` on the labelled frames of the file `labels`.

    Args:
        predictions: Parquet or CSV with the frames table's columns, or the challenge's text format.
        labels: the same; -5 and -1 mean that a label is missing.
        tasks: tasks of `schema`, several with commas, or "" for all that have both predictions and labels.
        split: only label rows of this split; "" for all.
        on_conflict: what counts where rows of `labels` disagree about a frame.

    The metrics have "not_scored" besides: why each task that has no score has none.

    Raises:
        ValueError: a file cannot be read or is not what a run or `mtl prepare` wrote, labels are dummy values, or a
            labelled frame has no prediction.
    """
    predicted, truth = read_labels(predictions, schema=schema), read_labels(labels, on_conflict, schema)
    for path in (predictions, labels):
        check_table(path)
    if split:
        truth = truth.filter(pl.col("split") == split)
        if not len(truth):
            raise ValueError(f"{labels}: no row is in split {split}")
    refuse_dummies(truth, str(labels), "score against the true labels", schema)
    table = truth.join(
        predicted.select("video", "frame", *schema.columns), on=["video", "frame"], how="left", suffix=":predicted"
    )
    chosen, not_scored = _tasks(tasks, table, predictions, labels, schema)
    for task in chosen:
        _check_complete(task, table, predictions)
    names = [task.name for task in chosen]
    return score(_decisions(table, chosen, schema), labels_of(table, schema), names) | {"not_scored": not_scored}


def schema_of_table(path: Path) -> Schema | None:
    """The schema in the metadata of the table at `path`; None where there is none."""
    return stored_schema(path) if path.suffix == ".parquet" and path.is_file() else None


def _tasks(
    tasks: str, table: pl.DataFrame, predictions: Path, labels: Path, schema: Schema
) -> tuple[list[Task], dict[str, str]]:
    """The tasks to score, and why each of the other groups is not: what has no label cannot be scored."""
    named = [task.strip() for task in tasks.split(",") if task.strip()]
    asked = schema.scored(schema.ordered(named, "--tasks")) if named else ()
    why: dict[str, str] = {}
    chosen: list[Task] = []
    for group in schema:
        task = next((each for each in asked if each.group is group), schema.tasks[group.name])
        if asked and task not in asked:
            why[group.name] = "not asked for"
        elif not table.select(pl.any_horizontal(pl.col(task.columns).is_not_null()).any()).item():
            why[task.name] = f"no label in {labels}"
        elif not asked and not table.select(_any_predicted(task).any()).item():
            why[task.name] = f"no prediction in {predictions} of a labelled frame"
        else:
            chosen.append(task)
    for task in asked:
        if task.name in why:
            raise ValueError(f"{labels}: no label of {task.name}, so it cannot be scored; leave it out of --tasks")
    if not chosen:
        unlabelled = all(reason.startswith("no label") for reason in why.values())
        if unlabelled:
            raise ValueError(f"{labels}: no label in any row, so nothing can be scored; is it a test list?")
        raise ValueError(f"{predictions}: no predicted frame is among the labelled ones; do video and frame match?")
    return chosen, why


def _any_predicted(task: Task) -> pl.Expr:
    return pl.any_horizontal(pl.col(f"{name}:predicted").is_not_null() for name in task.columns)


def _check_complete(task: Task, table: pl.DataFrame, predictions: Path) -> None:
    """Raises where a label of `task` has no prediction: a score over the rest would be no score of the whole."""
    for name in task.columns:
        lost = table.filter(pl.col(name).is_not_null() & pl.col(f"{name}:predicted").is_null())
        if len(lost):
            video, frame = lost.row(0, named=True)["video"], lost.row(0, named=True)["frame"]
            raise ValueError(
                f"{predictions}: {len(lost):,} labelled frames have no prediction of {name}, the first is "
                f"{video} frame {frame}; predict every labelled frame, choose the labels of one split with --split, or "
                "leave the task out with --tasks"
            )


def _decisions(table: pl.DataFrame, tasks: list[Task], schema: Schema) -> Decisions:
    parts = {}
    for task in tasks:
        values = table.select(pl.col(f"{name}:predicted") for name in task.columns).fill_null(0).to_numpy()
        kind = task.group.kind
        parts[task.name] = values.astype(DECIDED[kind])[:, 0] if kind == "classes" else values.astype(DECIDED[kind])
    return Decisions(parts=parts, schema=schema)


DECIDED = {"continuous": np.float64, "classes": np.int64, "binary": np.int8}
