"""Scores of the held-out rows with intervals, for all of them and for each group of subjects. R rows, G groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from cache.labels import Schema, Task
from heads.labels import Labels
from pipelines.cards.attributes import attributes_of, values_of
from pipelines.folds import NO_FOLD
from pipelines.metrics.intervals import GroupSums, Interval, group_sums, groups_of_runs, intervals, resampled
from pipelines.metrics.sums import LABELLED, of_task
from pipelines.splits import groups_of

FEWEST = 2  # groups of a subgroup that is scored: of one person a score says who it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The held-out rows whose subjects have the `value` of an `attribute`: how many groups and frames, and the score of
    each task with its interval; no scores of fewer than `FEWEST` groups."""

    attribute: str
    value: str
    num_groups: int
    num_frames: int
    scores: Mapping[str, tuple[float, Interval | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """`intervals` of the held-out scores by task and under "P", none for what has no label there; `unit` is what they
    resample. `problem` says why there are no `subgroups` though attributes are named."""

    intervals: Mapping[str, Interval]
    unit: str
    subgroups: tuple[Subgroup, ...] = ()
    problem: str = ""


def held_out(
    table: pl.DataFrame,
    frames: pl.DataFrame,
    labels: Labels,
    tasks: Sequence[str],
    schema: Schema,
    attributes: Path | None,
) -> HeldOut:
    """Of the predictions `table` [R] of the held-out rows, row for row with their `frames` and `labels`; `attributes`
    is the file of them, None where none is named."""
    tasks = [task.name for task in schema.scored(tasks) if labels.labelled(task.group.name).any()]
    groups = groups_of(frames)
    unit = _unit(frames)
    if not tasks or not len(table):
        return HeldOut(intervals={}, unit=unit)
    sums = group_sums(table, labels, groups, schema)
    found = HeldOut(intervals=intervals({NO_FOLD: {0: sums}}, tasks), unit=unit)
    if attributes is None:
        return found
    try:
        named = attributes_of(attributes, frames)
    except ValueError as error:
        return replace(found, problem=str(error))
    return replace(found, subgroups=_subgroups(table, labels, groups, named, tasks, schema))


def _unit(frames: pl.DataFrame) -> str:
    """What intervals resample."""
    num_unknown = frames["subject"].null_count() if "subject" in frames.columns else len(frames)
    return "subject" if not num_unknown else "video" if num_unknown == len(frames) else "subject or video"


def _subgroups(
    table: pl.DataFrame, labels: Labels, groups: np.ndarray, named: pl.DataFrame, tasks: Sequence[str], schema: Schema
) -> tuple[Subgroup, ...]:
    """Every value of every attribute, and what is not stated as a value of its own."""
    found = []
    for attribute in named.columns:
        column = named[attribute]
        masks = {value: (column == value).fill_null(False).to_numpy() for value in values_of(column)}
        masks |= {"not stated": column.is_null().to_numpy()} if column.null_count() else {}
        for value, mask in masks.items():
            if mask.any():
                sums = group_sums(table.filter(mask), labels.take(mask), groups[mask], schema)
                found.append(_subgroup(attribute, value, sums, int(mask.sum()), tasks))
    return tuple(found)


def _labelled_share(task: Task, sums: GroupSums) -> float:
    """Of the columns or classes of a task that is scored by mean F1, how many have a positive label; of others 1. The
    mean counts those without as 0."""
    if task.group.score not in ("f1", "f1_macro"):
        return 1.0
    return float((of_task(task, sums.parts[task.group.name])[..., LABELLED].sum(axis=0) > 0).mean())


def _subgroup(attribute: str, value: str, sums: GroupSums, num_frames: int, tasks: Sequence[str]) -> Subgroup:
    """Of F1 over classes and columns those that have a positive label among its rows count: one that nobody shows there
    says nothing about the subgroup."""
    runs = {NO_FOLD: {0: sums}}
    scores: dict[str, tuple[float, Interval | None]] = {}
    if len(sums.groups) >= FEWEST:
        ends = intervals(runs, tasks)
        once = {NO_FOLD: np.ones((1, len(sums.groups)))}
        values = resampled(runs, groups_of_runs([runs]), once, tasks)
        for task in sums.schema.scored(tasks):
            if task.group.name in sums.labelled and np.isfinite(values[task.name][0]):
                share = _labelled_share(task, sums)
                between = ends.get(task.name)
                if between is not None:
                    between = replace(between, low=between.low / share, high=between.high / share)
                scores[task.name] = float(values[task.name][0]) / share, between
    return Subgroup(attribute=attribute, value=value, num_groups=len(sums.groups), num_frames=num_frames, scores=scores)
