"""The report of one run: a head, or a fine-tuned backbone by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.labels import Schema
from pipelines.backbones.runs import is_backbone
from pipelines.folds import NO_FOLD
from pipelines.html import Markup, join, tag, tiles
from pipelines.metrics.challenge import main_key
from pipelines.metrics.intervals import Interval, intervals
from pipelines.postprocess.run_folders import RECORD, Truth, read_postprocess, read_run_manifest
from pipelines.report.history import learning_parts
from pipelines.report.model import about_rows, model_sections, timeline
from pipelines.report.pages import Part, Report, Section
from pipelines.report.predicted import Predicted, read_predicted
from pipelines.report.tables import Column, Table, Value
from pipelines.run_files import read_metrics, read_predictions
from pipelines.strategy import Strategy
from pipelines.timeline.section import explorer_script, explorer_style
from pipelines.words import (
    duration_words,
    field_words,
    score_title,
    split_words,
    task_words,
    trained_words,
    units_words,
    value_words,
)

FIELDS = (
    "streams",
    "fusion",
    "temporal",
    "causal",
    "method",
    "inputs",
    "window",
    "stride",
    "steps",
    "lr",
    "seed",
    "fold",
)


def run_report(folder: Path, truth: Truth, faces: str | None = None, *, brief: bool = False) -> Report:
    """The report of the run at `folder`, trained on `truth`; `brief` leaves out single videos and subjects.

    Raises:
        ValueError: no finished run, a damaged file, or other frames or labels.
    """
    manifest = read_run_manifest(folder, truth)
    metrics = read_metrics(folder, manifest)
    whose = f"the run {folder.name}"
    shown = read_predicted(folder, read_predictions(folder, manifest), manifest["split"], truth, whose)
    post = read_postprocess(folder) if (folder / RECORD).is_file() else None
    sections = [
        Section("Scores", (*about_rows(shown), scores_table(shown, metrics, post, truth.schema))),
        Section("Learning curves", learning_parts(folder)),
        *model_sections(shown, brief=brief),
        *([] if brief else [timeline(shown, faces)]),
        Section("How it was made", _made(manifest)),
    ]
    return Report(
        title=f"Run: {folder.name}",
        opening=_opening(shown, manifest, metrics, post, truth.schema),
        sections=tuple(sections),
        style="" if brief else explorer_style(),
        script="" if brief else explorer_script(),
    )


def held_out_intervals(shown: Predicted) -> dict[str, Interval]:
    """Of the scores of the rows that are shown, by task and under "P"; empty where these are the selection rows."""
    if shown.of != "report" or not shown.tasks:
        return {}
    return intervals({NO_FOLD: {0: shown.sums}}, [task.name for task in shown.tasks])


def _opening(
    shown: Predicted,
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    post: Mapping[str, Any] | None,
    schema: Schema,
) -> Markup:
    tasks = Strategy().replace(manifest["strategy"], "run.json").head.predicted
    scored = [task.name for task in schema.scored(tasks)]
    score = "P" if schema.is_complete(scored) else f"P over {task_words(scored)}"
    between = held_out_intervals(shown).get("P")
    what = "A fine-tuned backbone by its own outputs, frame by frame." if is_backbone(manifest) else "One trained head."
    plain = (_number(metrics["report"].get("P")), f"held-out {score}" + (" without post-processing" if post else ""))
    numbers = [
        (_number(post["post"]["report"].get("P")), f"held-out {score}, post-processed") if post else plain,
        (
            f"{between.low:.2f} – {between.high:.2f}" if between else "–",
            f"its 95 % interval, {between.sample.words} resampled" if between else "its 95 % interval",
        ),
        *([plain] if post else []),
        (_number(metrics["select"].get("P")), "selection score" + (" without post-processing" if post else "")),
        (duration_words(float(manifest["seconds"])), f"of training on {manifest.get('device', 'a device')}"),
    ]
    return join([tag("p", what), tag("p", split_words(manifest["split"])), tiles(numbers)])


def scores_table(shown: Predicted, metrics: Mapping[str, Any], post: Mapping[str, Any] | None, schema: Schema) -> Table:
    """Selection and held-out scores by task; with post-processing, where there is one, beside those without."""
    found = held_out_intervals(shown)
    columns = [Column("task", "task"), Column("select", "selection"), Column("report", "held-out")]
    if post:
        columns.append(Column("report.post", "held-out, post-processed"))
    columns.append(Column("report.interval", "95 % interval" + (", post-processed" if post else "")))
    rows: list[tuple[Value, ...]] = []
    tasks = {task.name: task for task in shown.part.predicted.tasks}
    for name in ("P", *tasks):
        key = "P" if name == "P" else main_key(tasks[name].group)
        words = "P, their weighted sum" if name == "P" else score_title(tasks[name])
        scores = [metrics[part].get(key) for part in ("select", "report")]
        scores += [post["post"]["report"].get(key)] if post else []
        rows.append((words, *scores, found.get(name)))
    rows = [*rows[1:], rows[0]]
    units = units_words(next(iter(found.values())).sample.unit) if found else "videos"
    caption = (
        "The weights were selected by the selection score, which is optimistic for that; held-out rows are scored "
        f"once. Intervals resample held-out {units}, whole."
    )
    if not schema.is_complete(list(tasks)):
        caption += " P over these tasks only is not the official P."
    return Table(name="scores", caption=caption, columns=tuple(columns), rows=tuple(rows))


def _made(manifest: Mapping[str, Any]) -> tuple[Part, ...]:
    values = manifest["strategy"]
    head = Strategy().replace(values, "run.json").head
    rows: list[tuple[Value, ...]] = [("tasks", trained_words(head.predicted, head.auxiliary))]
    rows += [
        (field_words(name), value_words(name, values[name]))
        for name in (*FIELDS, *(name for name in values if name.startswith("task.")))
        if name in values
    ]
    rows += [
        ("label schema", manifest["schema"]["name"]),
        ("parameters", f"{manifest['num_parameters']:,}" if "num_parameters" in manifest else "–"),
        ("streams read", ", ".join(manifest.get("streams", {})) or "–"),
        ("commit", str(manifest.get("commit") or "–")),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()) or "–"),
    ]
    caption = "The whole configuration is in config.toml of the run's folder."
    columns = (Column("field", "field"), Column("value", "value"))
    return (Table(name="configuration", caption=caption, columns=columns, rows=tuple(rows)),)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
