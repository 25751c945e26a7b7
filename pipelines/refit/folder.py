"""Refits on disk: models trained on train and val together, with the predictions and scores of the runs they come from.

refit.json       which runs, how many steps, the runs' scores; written last      runs/sSEED   a run folder per seed
predictions.parquet, postprocess.json, predictions.post.parquet   of the runs it was made from: their mean prediction,
                                                                  and the post-processing fitted on it
model_card.md    as a run's; no row is held out from the refit itself
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from cache.durable import place_folder
from cache.parquet import parquet_bytes, read_parquet
from cache.seals import digest_of, sealed_json
from heads.model import single_state
from pipelines.cards.records import refit_card
from pipelines.config import Config
from pipelines.fitting.runs import config_toml, weights_file, write_files
from pipelines.metrics.predictions import prediction_table
from pipelines.postprocess.fit import Fitted
from pipelines.postprocess.parts import Part
from pipelines.postprocess.run_folders import Truth, write_postprocess
from pipelines.refit.record import FORMAT, read_refit
from pipelines.refit.sources import Sources
from pipelines.refit.training import refit_digest, run_folder
from pipelines.run_files import CARD, PREDICTIONS, REFIT
from pipelines.training.dataset import Dataset
from pipelines.training.manifest import manifest_of
from pipelines.training.train import Trained


def write_refit(
    sources: Sources,
    trained: Sequence[Trained],
    parts: tuple[Part, Part],
    fitted: Fitted,
    truth: Truth,
    config: Config,
    dataset: Dataset,
) -> dict[str, Any]:
    """Puts the refit at `sources.place` in one step, replacing an older one; returns refit.json."""
    record = _record(sources, trained, fitted, truth, config)
    about = {key: record[key] for key in ("of", "num_steps")}
    manifests = {}
    for one in trained:
        name = f"{sources.place.name}-s{one.strategy.train.seed}"
        digest = refit_digest(config, dataset, one.strategy, sources.num_steps)
        manifest = manifest_of(name, one, config, dataset)
        manifests[run_folder(one.strategy)] = {**manifest, "digest": digest, "refit": about}
    predictions = parquet_bytes(pl.concat([part.table for part in parts]).sort("video", "frame"))
    report = parts[1]
    card = refit_card(record, list(manifests.values()), config, report.table, report.frames, report.labels)
    record |= {"predictions": digest_of(predictions), "card": digest_of(card.encode())}

    def fill(made: Path) -> None:
        digests = {}
        for one, (name, manifest) in zip(trained, manifests.items(), strict=True):
            (made / name).mkdir(parents=True)
            _write_run(made / name, one, manifest, card, config, dataset)
            digests[name] = digest_of((made / name / "run.json").read_bytes())
        (made / PREDICTIONS).write_bytes(predictions)
        name, fitted_on, views = sources.place.name, "the runs' predictions", config.predict.views
        table = read_parquet(predictions)
        write_postprocess(made, fitted, truth, name=name, fitted_on=fitted_on, views=views, table=table)
        (made / CARD).write_text(card, encoding="utf-8")
        (made / REFIT).write_bytes(sealed_json({**record, "runs": digests}))

    place_folder(sources.place, REFIT, fill)
    return read_refit(sources.place)


def _record(
    sources: Sources, trained: Sequence[Trained], fitted: Fitted, truth: Truth, config: Config
) -> dict[str, Any]:
    """refit.json, but for digests of files; the keys are stable."""
    strategy = sources.strategy
    return {
        "format": FORMAT,
        "name": sources.place.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": sum(one.seconds for one in trained),
        "schema": truth.schema.to_mapping(),
        "tasks": [task.name for task in truth.schema.scored(strategy.head.predicted)],
        "of": [os.path.relpath(folder, sources.place) for folder in sources.folders],
        "made_from": digests_of(sources),
        "strategy": strategy.flat(),
        "num_steps": sources.num_steps,
        "seeds": [one.strategy.train.seed for one in trained],
        "finetuned": [name for name in trained[0].streams if (made := config.backbone_of(name)) and made.score],
        "trained_on": dict(trained[0].split.description),
        "frames": truth.frames_digest,
        "labels": truth.labels_digest,
        "split": dict(sources.manifests[0]["split"]),
        "scores": {"plain": dict(fitted.plain), "post": dict(fitted.post)},
    }


def digests_of(sources: Sources) -> list[str]:
    """Of the runs that a refit is made from."""
    return sorted(str(manifest["digest"]) for manifest in sources.manifests)


def _write_run(
    made: Path, one: Trained, manifest: Mapping[str, Any], card: str, config: Config, dataset: Dataset
) -> None:
    write_files(
        made,
        config_toml=config_toml(config, one.strategy),
        states={weights_file(model.spec): single_state(model.module, 0) for model in one.models},
        history=one.history,
        predictions=[prediction_table(predicted, dataset.frames, part) for part, predicted in one.predictions.items()],
        metrics=one.metrics,
        card=card,
        manifest=manifest,
    )
