"""The report of an ensemble: its members, how alike they are, and what they predict together. M members, R rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.labels import Schema
from cache.parquet import read_parquet
from pipelines.ensemble.ensemble_folder import member_name, read_ensemble
from pipelines.html import Markup, join, tag, tiles
from pipelines.metrics.challenge import main_key
from pipelines.metrics.correlation import error_targets, mean_correlation
from pipelines.postprocess.run_folders import PREDICTIONS, Truth
from pipelines.report import plots
from pipelines.report.model import about_rows, model_sections, timeline
from pipelines.report.pages import Figure, Part, Report, Section, paragraphs
from pipelines.report.predicted import PART_WORDS, Predicted, read_predicted
from pipelines.report.tables import Column, Table, Value
from pipelines.run_files import check_schema, read_manifest
from pipelines.run_files import read_predictions as read_run_predictions
from pipelines.timeline.section import explorer_script, explorer_style
from pipelines.words import split_words, task_label

PROCEDURES = {"ensemble": "the ensemble", "top": "mean of the best runs", "single": "the best single run"}


def ensemble_report(folder: Path, truth: Truth, faces: str | None = None, *, brief: bool = False) -> Report:
    """The report of the ensemble at `folder`, made on `truth`; `brief` leaves out single videos and subjects.

    Raises:
        ValueError: none there, a damaged file, or other frames or labels.
    """
    record = read_ensemble(folder)
    check_ensemble(folder, record, truth)
    raw = read_parquet((folder / PREDICTIONS).read_bytes())
    shown = read_predicted(folder, raw, record["split"], truth, f"the ensemble {folder.name}")
    sections = [
        Section("Scores", (*about_rows(shown), _scores(record, truth.schema))),
        Section("Members", (_members(record), _diversity(record), *_correlations(folder, record, shown))),
        *model_sections(shown, brief=brief),
        *([] if brief else [timeline(shown, faces)]),
    ]
    return Report(
        title=f"Ensemble: {folder.name}",
        opening=_opening(record),
        sections=tuple(sections),
        style="" if brief else explorer_style(),
        script="" if brief else explorer_script(),
    )


def check_ensemble(folder: Path, record: Mapping[str, Any], truth: Truth) -> None:
    """Raises `ValueError` where the frames or labels are no longer those of the ensemble."""
    from cache.labels import schema_of

    check_schema(schema_of(record["schema"], f"{folder}/ensemble.json: schema"), truth.schema, str(folder))
    for key, found in (("frames", truth.frames_digest), ("labels", truth.labels_digest)):
        if record[key] != found:
            what = "frames" if key == "frames" else "labels, splits or subjects"
            raise ValueError(
                f"{folder}: the {what} in {truth.path} are not those of this ensemble; `mtl ensemble --force` makes it "
                "again"
            )


def _opening(record: Mapping[str, Any]) -> Markup:
    scores = record["scores"]["ensemble"]
    post = scores["post"] or scores["plain"]
    single = record["differences"].get("single") or {}
    between = single.get("interval")
    numbers = [
        (_number(post["report"].get("P")), "held-out P, post-processed"),
        (_number(scores["plain"]["report"].get("P")), "held-out P without post-processing"),
        (
            "–" if single.get("report") is None else f"{single['report']:+.3f}",
            "against the best single run, both post-processed where that helped"
            if between is None
            else f"against the best single run, 95 % interval {between['low']:+.3f} to {between['high']:+.3f}",
        ),
        (str(len(_names(record))), f"members of {record['library']['num']} runs"),
    ]
    return join([tag("p", split_words(record["split"])), tiles(numbers)])


def _scores(record: Mapping[str, Any], schema: Schema) -> Table:
    rows: list[tuple[Value, ...]] = []
    tasks = schema.scored(record["tasks"])
    for name, words in PROCEDURES.items():
        for kind in ("plain", "post"):
            found = record["scores"].get(name, {}).get(kind)
            if not found:
                continue
            outside = (found["out_of_fold"] or {}).get("P")
            parts = [found["report"].get(main_key(task.group)) for task in tasks]
            words_of = words + (", post-processed" if kind == "post" else "")
            rows.append((words_of, found["in_fold"].get("P"), outside, found["report"].get("P"), *parts))
    columns = [
        Column("procedure", "predictions of"), Column("in_fold", "selection P, in fold"),
        Column("out_of_fold", "selection P, out of fold"), Column("report", "held-out P"),
    ]  # fmt: skip
    columns += [Column(task.group.name, f"held-out {task_label(task.name)}") for task in tasks]
    caption = (
        "In fold, the rows that selected members and parameters are scored by them; out of fold, each part of the "
        "subjects or videos is scored by what the others selected. Held-out rows are scored once."
    )
    return Table(name="scores", caption=caption, columns=tuple(columns), rows=tuple(rows))


def _names(record: Mapping[str, Any]) -> list[str]:
    """The members that count for some task, the heaviest first."""
    weights: dict[str, float] = {}
    for members in record["members"].values():
        for one in members:
            weights[one["run"]] = weights.get(one["run"], 0.0) + one["weight"]
    return sorted(weights, key=lambda name: (-weights[name], name))


def _members(record: Mapping[str, Any]) -> Table:
    """One row per member, with its weight in each task."""
    tasks = list(record["members"])
    words = {one["run"]: one["strategy"] for members in record["members"].values() for one in members}
    weight = {(task, one["run"]): one["weight"] for task in tasks for one in record["members"][task]}
    rows: list[tuple[Value, ...]] = [
        (place, member_name(name), words[name], *(weight.get((task, name), 0.0) for task in tasks))
        for place, name in enumerate(_names(record), start=1)
    ]
    columns = [Column("number", "#"), Column("run", "run"), Column("strategy", "strategy")]
    columns += [Column(f"weight.{task}", f"weight in {task_label(task)}", 2) for task in tasks]
    caption = "Members and their weights by task, selected greedily on selection rows."
    return Table(name="members", caption=caption, columns=tuple(columns), rows=tuple(rows))


def _diversity(record: Mapping[str, Any]) -> Table:
    """By task how strong each member is, and how alike its errors and those of the others are."""
    place = {name: number for number, name in enumerate(_names(record), start=1)}
    rows: list[tuple[Value, ...]] = [
        (task_label(task), place[one["run"]], member_name(one["run"]), one["weight"], one["score"], one["correlation"])
        for task, members in record["members"].items()
        for one in members
    ]
    columns = (
        Column("task", "task"), Column("number", "#"), Column("run", "run"), Column("weight", "weight", 2),
        Column("score", "selection score alone"), Column("correlation", "correlation of errors"),
    )  # fmt: skip
    caption = (
        "Selection rows: the score of each member by itself, and the mean correlation of its errors (prediction minus "
        "label) with those of the task's other members. An ensemble gains most from members of equal strength whose "
        "errors differ."
    )
    return Table(name="diversity", caption=caption, columns=columns, rows=tuple(rows))


def _correlations(folder: Path, record: Mapping[str, Any], shown: Predicted) -> tuple[Part, ...]:
    """By task how alike the members' predictions and their errors are."""
    names = _names(record)
    tables: dict[str, pl.DataFrame] = {}
    for name in names:
        try:
            tables[name] = _member_table(folder, name, record, shown)
        except ValueError as error:
            return tuple(paragraphs([f"The correlation of the members is not shown: {error}."]))
    parts: list[Part] = []
    for task in shown.tasks:
        outputs = list(task.output_columns)
        of_task = [place for place, name in enumerate(names) if set(outputs) <= set(tables[name].columns)]
        if len(of_task) < 2:
            continue
        values = np.stack([tables[names[place]].select(outputs).to_numpy().astype(np.float64) for place in of_task])
        truth, mask = error_targets(task, shown.part.labels)
        matrices = {
            f"{task_label(task.name)}: predictions": mean_correlation(values, mask),
            f"{task_label(task.name)}: errors": mean_correlation(values - truth, mask),
        }
        numbers = [str(place + 1) for place in of_task]
        caption = (
            f"{shown.rows_words(mask.any(axis=1))} Correlation between members, numbered as in the table, mean over "
            f"the {'classes' if task.group.kind == 'classes' else 'columns'}: of their predictions, and of their "
            "errors (prediction minus label). The lower that of the errors, the more they add to each other."
        )
        parts.append(Figure(plots.correlations(f"correlation-{task.group.name}", numbers, matrices), caption))
    return tuple(parts)


def _member_table(folder: Path, name: str, record: Mapping[str, Any], shown: Predicted) -> pl.DataFrame:
    """The member's predictions of the rows that are shown."""
    run = (folder / name).resolve()
    manifest = read_manifest(run)
    if manifest["files"].get(PREDICTIONS) != record["trained"].get(name):
        raise ValueError(f"{run} was trained again since the ensemble was made")
    table = read_run_predictions(run, manifest).filter(pl.col("part") == shown.of).sort("video", "frame")
    if not table.select("video", "frame").equals(shown.part.table.select("video", "frame")):
        raise ValueError(f"{run} predicts other {PART_WORDS[shown.of]} rows")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
