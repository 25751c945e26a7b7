"""Model cards of runs and ensembles, from their manifests, and what a bundle's card adds. R rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cache.labels import schema_of
from heads.labels import Labels
from pipelines.cards.card import OWN_SCORES, REFIT_SCORES, Backbone, Card, card_text
from pipelines.cards.held_out import held_out
from pipelines.config import Config
from pipelines.task_fields import split_field
from pipelines.words import counted, field_words, refit_words, task_words, value_words

ABOUT = ("fusion", "temporal", "causal", "inputs", "method")


def run_card(
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    config: Config,
    table: pl.DataFrame,
    frames: pl.DataFrame,
    labels: Labels,
) -> str:
    """The card of the run with that run.json and metrics.json, whose predictions of the held-out rows are `table` [R],
    row for row with their `frames` and `labels`."""
    strategy = manifest["strategy"]
    own = [name for name in strategy if split_field(name)[0]]
    words = ", ".join(f"{field_words(name, short=True)} {value_words(name, strategy[name])}" for name in (*ABOUT, *own))
    of = counted(len(manifest["streams"]), "backbone")
    made_of = (
        f"The outputs of the fine-tuned backbone {manifest['backbone']['section']}."
        if "backbone" in manifest
        else f"A head on the embeddings of {of} ({words}), seed {manifest['seed']}."
    )
    auxiliary = [task for task in strategy["tasks"] if task not in (strategy["targets"] or strategy["tasks"])]
    if auxiliary:
        made_of += f" {task_words(auxiliary)} were trained beside and are not predicted."
    return _card([manifest], manifest, metrics, made_of, config, table, frames, labels)


def ensemble_card(
    record: Mapping[str, Any],
    members: Sequence[Mapping[str, Any]],
    config: Config,
    table: pl.DataFrame,
    frames: pl.DataFrame,
    labels: Labels,
) -> str:
    """The card of the ensemble with that ensemble.json of the runs with the manifests `members`; the rest as in
    `run_card`. Its scores are of the predictions without post-processing, those of the selection rows out of fold."""
    made_of = (
        f"An ensemble of {counted(len(members), 'run')} for {task_words(record['tasks'])}, without post-processing."
    )
    plain = record["scores"]["ensemble"]["plain"]
    metrics = {"select": plain["out_of_fold"] or plain["in_fold"], "report": plain["report"]}
    return _card(members, record, metrics, made_of, config, table, frames, labels)


def refit_card(
    record: Mapping[str, Any],
    members: Sequence[Mapping[str, Any]],
    config: Config,
    table: pl.DataFrame,
    frames: pl.DataFrame,
    labels: Labels,
) -> str:
    """The card of the refit with that refit.json, of the runs with the manifests `members`; the rest as in `run_card`,
    of the runs that it was made from."""
    made_of = f"The mean of {counted(len(members), 'head')} with different seeds. {refit_words(record)}"
    return _card(
        members,
        {**record, "split": record["trained_on"]},
        record["scores"]["plain"],
        made_of,
        config,
        table,
        frames,
        labels,
        REFIT_SCORES,
    )


def bundle_card(card: str, record: Mapping[str, Any], post: Mapping[str, Any] | None) -> str:
    """The `card` of a run or an ensemble with a section on the bundle that bundle.json describes; `post` is the
    postprocess.json that it applies, None for none."""
    takes = (
        f"aligned faces of {record['face_px']} px" if record["face_px"] else "embeddings (its backbones are not in it)"
    )
    words = "none: its scores are those above"
    if post is not None:
        scores = [post[key]["report"]["P"] for key in ("plain", "post")]
        ends = (
            ""
            if None in scores
            else f"; the sum of the held-out scores is {scores[1]:.3f} with it, {scores[0]:.3f} without"
            + (", of the runs that it was refitted from" if record["kind"] == "refit" else "")
        )
        words = f"applied, fitted on {post['fitted_on']}{ends}"
    lines = [
        "## This bundle",
        "",
        f"- Made {record['created']} from the {record['kind']} {record['name']}; it takes {takes}.",
        f"- Post-processing: {words}.",
        f"- Frames are counted at {record['fps']:g} per second.",
    ]
    return card + "\n" + "\n".join(lines) + "\n"


def _card(
    runs: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    made_of: str,
    config: Config,
    table: pl.DataFrame,
    frames: pl.DataFrame,
    labels: Labels,
    whose: str = OWN_SCORES,
) -> str:
    schema, data = schema_of(record["schema"], "schema"), config.data
    tasks = record.get("tasks") or metrics["tasks"]
    alignments = [run.get("alignment") for run in runs]
    attributes = config.at(Path(data.attributes)) if data.attributes else None
    card = Card(
        name=record["name"],
        created=record["created"],
        made_of=made_of,
        schema=schema,
        tasks=tasks,
        data=data.name,
        licence=data.licence,
        split=record["split"],
        backbones=_backbones(runs, config),
        alignment=alignments[0] if all(each == alignments[0] for each in alignments) else None,
        metrics=metrics,
        held_out=held_out(table, frames, labels, tasks, schema, attributes),
        whose=whose,
        versions=runs[0]["versions"],
        commit=runs[0]["commit"],
    )
    return card_text(card)


def _backbones(runs: Sequence[Mapping[str, Any]], config: Config) -> list[Backbone]:
    """Each stream of the runs once."""
    found = {}
    for run in runs:
        for name, stream in run["streams"].items():
            identity, section = stream["identity"], config.backbone_of(name)
            licence = "" if section is None else section.licence
            found[name] = Backbone(name=name, model=identity["backbone"], weights=identity["weights"], licence=licence)
    return list(found.values())
