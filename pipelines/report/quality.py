"""Calibration of a model's probabilities, and its errors by video and by subject."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from cache.labels import Task
from pipelines.metrics.calibration import Calibration, calibration
from pipelines.metrics.errors import ERROR_WORDS, errors_by, frame_errors
from pipelines.report import plots
from pipelines.report.pages import Figure, Part, Section
from pipelines.report.predicted import PART_WORDS, Predicted
from pipelines.report.tables import Column, Table
from pipelines.words import counted, task_label


def column_calibration(shown: Predicted, task: Task, place: int) -> Calibration:
    rows = shown.part.labels.masks[task.group.name][:, place]
    probability = shown.part.predicted.parts[task.name][rows, place]
    return calibration(probability, shown.positives(task)[rows, place], shown.groups[rows])


def calibration_parts(shown: Predicted) -> tuple[Part, ...]:
    found: dict[str, Calibration] = {}
    words = []
    for task in shown.tasks:
        if task.group.kind == "continuous":
            continue
        masks, values = shown.part.labels.masks[task.group.name], shown.part.predicted.parts[task.name]
        if task.group.kind == "classes":
            rows = masks[:, 0]
            label = shown.part.labels.values[task.group.name][rows, 0]
            probability, so = values[rows].max(axis=1), values[rows].argmax(axis=1) == label
            groups = shown.groups[rows]
            words.append(
                f"{task_label(task.name)}: the probability of the most probable class, and how often it is so."
            )
        else:
            probability, so = values[masks], shown.positives(task)[masks]
            groups = np.repeat(shown.groups[:, None], masks.shape[1], axis=1)[masks]
            words.append(f"{task_label(task.name)}: the probabilities of all columns together.")
        found[task_label(task.name)] = calibration(np.clip(probability, 0, 1), so, groups)
    if not found:
        return ()
    labelled = np.any([shown.part.labels.labelled(task.group.name) for task in shown.tasks], axis=0)
    caption = (
        f"{shown.rows_words(labelled)} {' '.join(words)} On the dashed line probabilities are right; bars are the "
        f"share of cases in each tenth. ECE is the expected calibration error: the mean distance from the line."
        f" Vertical lines are 95 % intervals over resampled {shown.units}, where two or more have such cases."
    )
    return (Figure(plots.reliability(found), caption),)


def error_sections(shown: Predicted) -> list[Section]:
    """Errors by video, and by subject where the frames table has them."""
    errors = {task.name: frame_errors(task, shown.decided.parts[task.name], shown.part.labels) for task in shown.tasks}
    tasks = {task.name: task for task in shown.tasks}
    frames, found = shown.part.frames, []
    keys = {"video": frames["video"].to_list()}
    if "subject" in frames.columns and frames["subject"].null_count() < len(frames):
        keys["subject"] = frames["subject"].to_list()
    for unit, names in keys.items():
        known = np.array([name is not None for name in names])
        tables = errors_by(
            [name for name in names if name is not None], {name: values[known] for name, values in errors.items()}
        )
        tables = {name: table for name, table in tables.items() if len(table)}
        if not tables:
            continue
        titles = {f"{task_label(name)}: {ERROR_WORDS[tasks[name].group.kind]}": table for name, table in tables.items()}
        rows = shown.rows_words(np.any([np.isfinite(values) for values in errors.values()], axis=0) & known)
        most = max(len(table) for table in tables.values())
        shown_words = (
            f"The {plots.MOST_BARS} {unit}s with the largest error" if most > plots.MOST_BARS else f"Every {unit}"
        )
        caption = f"{rows} {shown_words}; the line is the median {unit}."
        parts = (Figure(plots.error_bars(f"errors-{unit}", titles), caption), _error_table(shown, unit, tables, tasks))
        found.append(Section(f"Error by {unit}", parts))
    return found


def _error_table(shown: Predicted, unit: str, tables: Mapping[str, pl.DataFrame], tasks: Mapping[str, Task]) -> Table:
    columns = [Column(unit, unit)]
    joined: dict[str, list[Any]] = {}
    for place, (name, table) in enumerate(tables.items()):
        label = task_label(name)
        columns += [
            Column(f"error.{name}", f"{label}: {ERROR_WORDS[tasks[name].group.kind]}"),
            Column(f"num_frames.{name}", f"{label}: labelled frames"),
        ]
        for key, error, number in table.iter_rows():
            joined.setdefault(key, [None] * (2 * len(tables)))[2 * place : 2 * place + 2] = [error, number]
    rows = tuple((key, *values) for key, values in joined.items())
    caption = f"Error by {unit} of {shown.whose}, {counted(len(rows), unit)}, {PART_WORDS[shown.of]} rows."
    return Table(name=f"errors-{unit}", caption=caption, columns=tuple(columns), rows=rows)
