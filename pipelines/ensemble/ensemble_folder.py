"""Ensembles on disk: the folder of an ensemble, beside the folder of the runs.

ensemble.json    members, weights, every score; written last      predictions.parquet  as a run's
postprocess.json, predictions.post.parquet                        its post-processing, as a run's
model_card.md    what it was trained on, its scores, misuse
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.durable import place_folder
from cache.parquet import parquet_bytes, read_parquet
from cache.seals import digest_of, read_sealed_json, sealed_json
from cache.valid_names import check_name
from pipelines.backbones.runs import is_backbone
from pipelines.cards.records import ensemble_card
from pipelines.config import Config
from pipelines.ensemble.candidates import Candidate, Found
from pipelines.ensemble.diversity import Diversity, diversity_of
from pipelines.ensemble.members import Ensemble, Mix, Outcome
from pipelines.postprocess.run_folders import PREDICTIONS, Truth, interval_json, write_postprocess
from pipelines.run_files import CARD
from pipelines.strategy import Strategy, field_names
from pipelines.words import strategy_words

FORMAT = 3
RECORD = "ensemble.json"
PROCEDURES = ("single", "top", "ensemble")


def place_of(found: Found, name: str) -> Path:
    """Where the ensemble goes: `ensembles/NAME` beside the folder that holds its first run, in a study the study's; of
    several studies the first one's."""
    check_name(name, "--name")
    place = found.candidates[0].folder.resolve().parent.parent / "ensembles" / name
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place


def read_ensemble(folder: Path) -> dict[str, Any]:
    """ensemble.json of the ensemble at `folder`.

    Raises:
        ValueError: none there, damaged, or of another format.
    """
    record = read_sealed_json(folder / RECORD, "`mtl ensemble --force` makes it again")
    if record.get("format") != FORMAT or not {"scores", "considered", "trained", "predictions", "views"} <= set(record):
        raise ValueError(
            f"{folder / RECORD}: not an ensemble of format {FORMAT}; `mtl ensemble --force` makes it again"
        )
    path = folder / PREDICTIONS
    if not path.is_file() or digest_of(path.read_bytes()) != record["predictions"]:
        raise ValueError(f"{path}: missing, damaged or of another ensemble; `mtl ensemble --force` makes it again")
    return record


def write_ensemble(
    folder: Path,
    ensemble: Ensemble,
    found: Found,
    size: int,
    considered: Sequence[str],
    truth: Truth,
    config: Config,
) -> dict[str, Any]:
    """Puts the ensemble at `folder` in one step, replacing an older one; returns ensemble.json.

    `considered` are the digests of the runs it was asked to choose from; `config` has the notes of its model card.
    """
    outcome = ensemble.outcomes["ensemble"]
    predictions = parquet_bytes(pl.concat([outcome.select.table, outcome.report.table]).sort("video", "frame"))
    record = record_of(folder, ensemble, found, size, truth)
    used = {member["run"] for members in record["members"].values() for member in members}
    names = record["library"]["runs"]
    manifests = [one.manifest for name, one in zip(names, found.candidates, strict=True) if name in used]
    report = outcome.report
    card = ensemble_card(record, manifests, config, report.table, report.frames, report.labels).encode()
    record |= {"considered": list(considered), "predictions": digest_of(predictions), "card": digest_of(card)}
    record["views"] = list(config.predict.views)

    def fill(made: Path) -> None:
        (made / PREDICTIONS).write_bytes(predictions)
        assert outcome.fitted is not None
        table, fitted_on = read_parquet(predictions), "out-of-fold predictions"
        views = config.predict.views
        write_postprocess(made, outcome.fitted, truth, name=folder.name, fitted_on=fitted_on, views=views, table=table)
        (made / CARD).write_bytes(card)
        (made / RECORD).write_bytes(sealed_json(record))

    place_folder(folder, RECORD, fill)
    return record


def record_of(folder: Path, ensemble: Ensemble, found: Found, size: int, truth: Truth) -> dict[str, Any]:
    """ensemble.json; runs by their path from the ensemble's folder, the keys are stable."""
    names = [os.path.relpath(run, folder) for run in ensemble.library.runs]
    outcomes = {name: ensemble.outcomes[name] for name in PROCEDURES if name in ensemble.outcomes}
    mix = outcomes["ensemble"].mix
    diversity = diversity_of(ensemble.library, mix)
    return {
        "format": FORMAT,
        "name": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "schema": ensemble.library.select.schema.to_mapping(),
        "tasks": [task.name for task in ensemble.library.select.schema.scored(ensemble.library.tasks)],
        "size": size,
        "library": {"num": len(names), "runs": names},
        "skipped": [{"run": str(run), "reason": reason} for run, reason in found.skipped],
        "frames": truth.frames_digest,
        "labels": truth.labels_digest,
        "split": dict(found.candidates[0].manifest["split"]),
        "folds": {"num": ensemble.num_folds, "unit": "subject, else video"},
        "members": _members(mix, diversity, names, words_of(found.candidates)),
        "diversity": {task: {"errors": _numbers(one.errors)} for task, one in diversity.items()},
        "trained": {
            name: one.manifest["files"][PREDICTIONS] for name, one in zip(names, found.candidates, strict=True)
        },
        "compared": {name: _chosen(one, names) for name, one in outcomes.items() if name != "ensemble"},
        "scores": {
            name: {"plain": dict(one.metrics), "post": dict(one.post) if one.post else None}
            for name, one in outcomes.items()
        },
        "differences": {
            name: {
                "report": _minus(outcomes["ensemble"].metrics["report"]["P"], outcomes[name].metrics["report"]["P"]),
                "interval": interval_json(between),
            }
            for name, between in ensemble.differences.items()
        },
    }


def words_of(candidates: Sequence[Candidate]) -> list[str]:
    """What sets each of the runs apart from the others: "fusion sum, temporal GRU, seed 1"; "" where nothing does.

    A backbone by itself is called so.
    """
    heads = [_strategy(one) for one in candidates if not is_backbone(one.manifest)]
    names = field_names(heads)
    found = [one.values(names) for one in heads]
    varied = [name for name in names if len({repr(values[name]) for values in found}) > 1]
    return [
        f"backbone {one.manifest['backbone']['section']} by itself"
        if is_backbone(one.manifest)
        else strategy_words(_strategy(one).values(names), varied)
        if varied
        else ""
        for one in candidates
    ]


def _strategy(one: Candidate) -> Strategy:
    return Strategy().replace(one.manifest["strategy"], f"{one.folder}/run.json")


def member_name(run: str) -> str:
    """What a member is called whose path from the ensemble's folder is `run`: of another study "STUDY/RUN"."""
    study = Path(run).parent.parent.name
    return Path(run).name if study == ".." else f"{study}/{Path(run).name}"


def _members(
    mix: Mix, diversity: Mapping[str, Diversity], names: Sequence[str], words: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """By task the runs that count, the heaviest first."""
    return {
        task: [
            {
                "run": names[run],
                "strategy": words[run],
                "count": int(mix.counts[task][run]),
                "weight": float(mix.weights[task][run]),
                "score": score,
                "correlation": correlation,
            }
            for run, score, correlation in zip(
                one.runs.tolist(), one.scores.tolist(), _numbers(one.correlation), strict=True
            )
        ]
        for task, one in diversity.items()
    }


def _numbers(values: np.ndarray) -> Any:
    """As JSON has them: null where a number is not known."""
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()


def _chosen(outcome: Outcome, names: Sequence[str]) -> list[str]:
    return [names[run] for run in np.flatnonzero(next(iter(outcome.mix.counts.values()))).tolist()]


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
