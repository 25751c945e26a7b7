"""Ensembles on disk: which runs can be members, and the folder of an ensemble, beside the folder of the runs.

ensemble.json    members, weights, every score; written last      predictions.parquet  as a run's
postprocess.json, predictions.post.parquet                        its post-processing, as a run's
model_card.md    what it was trained on, its scores, misuse
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.durable import place_folder
from cache.parquet import parquet_bytes
from cache.seals import digest_of, read_sealed_json, sealed_json
from cache.valid_names import check_name
from pipelines.backbones.runs import fitting_runs, is_backbone
from pipelines.cards.records import ensemble_card
from pipelines.config import Config
from pipelines.ensemble.members import NUM_TOP, Ensemble, Library, Mix, Outcome
from pipelines.labels import labelled
from pipelines.postprocess.parts import Part
from pipelines.postprocess.run_folders import (
    PREDICTIONS,
    Truth,
    interval_json,
    part_of,
    read_predictions,
    read_run_manifest,
    write_postprocess,
)
from pipelines.run_files import CARD, find_folder
from pipelines.words import strategy_words

FORMAT = 2
RECORD = "ensemble.json"
PROCEDURES = ("single", "top", "ensemble")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished run: its folder and its run.json; whether it was asked for by name, not as one of a study."""

    folder: Path
    manifest: Mapping[str, Any]
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Runs that share rows, and those left out, each with the reason."""

    candidates: tuple[Candidate, ...]
    skipped: tuple[tuple[Path, str], ...]

    @property
    def digests(self) -> list[str]:
        return sorted(str(candidate.manifest["digest"]) for candidate in self.candidates)


def find_runs(given: Sequence[Path], truth: Truth, *, runs: Path, studies: Path, config: Config | None = None) -> Found:
    """The runs of the studies and run folders `given`; names without a folder are looked for in `studies` and `runs`.

    A run named by itself has to be usable; of a study's runs, those that are not are left out. With a study come the
    runs of the backbones that `config` names, where they are of its rows: those that its leaderboard lists.

    Raises:
        ValueError: no study or run by that name, a named run that is none, or fewer than two runs to choose from.
    """
    candidates: dict[Path, Candidate] = {}
    skipped: list[tuple[Path, str]] = []
    for path in given:
        folder = find_folder(path, studies)
        if not (folder / "study.json").is_file():
            folder = find_folder(path, runs)
            if not folder.exists():
                raise ValueError(
                    f"{path}: no study and no run here; `mtl search` makes a study, `mtl train-head` a run"
                )
            candidates[folder.resolve()] = Candidate(folder, read_run_manifest(folder, truth), is_named=True)
            continue
        for run in sorted(one for one in (folder / "runs").glob("[!.]*") if one.is_dir()):
            try:
                candidates[run.resolve()] = Candidate(run, read_run_manifest(run, truth))
            except ValueError as error:
                skipped.append((run, str(error).removeprefix(f"{run}: ")))
    same, others = _of_one_split(list(candidates.values()))
    if config is not None and same and any((find_folder(path, studies) / "study.json").is_file() for path in given):
        about = {
            "frames": truth.frames_digest,
            "labels": truth.labels_digest,
            "split": same[0].manifest["split"]["hash"],
        }
        folders, left_out = fitting_runs(config, about)
        same += [Candidate(one, read_run_manifest(one, truth)) for one in folders if one.resolve() not in candidates]
        skipped += left_out
    found = Found(tuple(same), (*skipped, *others))
    if len(found.candidates) < 2:
        why = f"; left out: {found.skipped[0][0].name}: {found.skipped[0][1]}" if found.skipped else ""
        raise ValueError(f"an ensemble needs at least two finished runs on one split, found {len(same)}{why}")
    return found


def read_library(
    found: Found, truth: Truth, advance: Callable[[int], None] = lambda count: None
) -> tuple[Library, Found]:
    """The select predictions of the runs, and `found` again without those that predict other rows.

    `advance` is called with 1 for each run.

    Raises:
        ValueError: a damaged file, or fewer than two runs left.
    """
    select, known = None, pl.DataFrame()
    tables: list[pl.DataFrame] = []
    kept: list[Candidate] = []
    skipped = list(found.skipped)
    for candidate in found.candidates:
        advance(1)
        try:
            table = read_predictions(candidate.folder).sort("video", "frame")
        except ValueError as error:
            if candidate.is_named:
                raise
            skipped.append((candidate.folder, str(error).removeprefix(f"{candidate.folder}/")))
            continue
        split = candidate.manifest["split"]
        rows = table.select("video", "frame", "part")
        complete = len(rows) == split["select"]["frames"] + split["report"]["frames"]
        if not complete or not rows.equals(rows if select is None else known):
            skipped.append((candidate.folder, "predicts other rows than those of its split"))
            continue
        first = table.filter(pl.col("part") == "select")
        if select is None:
            known, select = rows, part_of(table, "select", truth)
        tables.append(first)
        kept.append(candidate)
    if select is None or len(kept) < 2:
        raise ValueError(f"an ensemble needs at least two runs that predict the same rows, found {len(kept)}")
    has, predicted = _stacked(tables, select)
    library = Library(
        runs=tuple(candidate.folder for candidate in kept),
        has=has,
        predicted=predicted,
        select=select,
        read_report=lambda place: part_of(read_predictions(kept[place].folder), "report", truth),
    )
    return library, Found(tuple(kept), tuple(skipped))


def _stacked(tables: Sequence[pl.DataFrame], select: Part) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By task which of the runs' `tables` have it, and their predictions [M, R, K].

    Of a continuous group that some run predicts in part, each column is a task with members of its own.
    """
    has, predicted = {}, {}
    for group in select.schema:
        columns = set(group.output_columns)
        in_part = any(0 < len(columns & set(table.columns)) < len(columns) for table in tables)
        for name in group.columns if in_part and group.kind == "continuous" else (group.name,):
            task = select.schema.tasks[name]
            places = [place for place, table in enumerate(tables) if set(task.output_columns) <= set(table.columns)]
            if places and labelled(select.labels, task).any():
                has[name] = np.array(places)
                parts = [tables[place].select(task.output_columns).cast(pl.Float32).to_numpy() for place in places]
                predicted[name] = np.stack(parts)
    return has, predicted


def place_of(found: Found, name: str) -> Path:
    """Where the ensemble goes: `ensembles/NAME` beside the folder that holds its first run, in a study the study's."""
    check_name(name, "--name")
    place = found.candidates[0].folder.resolve().parent.parent / "ensembles" / name
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place


def read_ensemble(folder: Path) -> dict[str, Any]:
    """ensemble.json of the ensemble at `folder`.

    Raises:
        ValueError: none there, damaged, or of another format.
    """
    record = read_sealed_json(folder / RECORD, "`mtl ensemble --force` makes it again")
    if record.get("format") != FORMAT or not {"scores", "considered", "trained", "predictions"} <= set(record):
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

    def fill(made: Path) -> None:
        (made / PREDICTIONS).write_bytes(predictions)
        assert outcome.fitted is not None
        write_postprocess(made, outcome.fitted, name=folder.name, fitted_on="out-of-fold predictions")
        (made / CARD).write_bytes(card)
        (made / RECORD).write_bytes(sealed_json(record))

    place_folder(folder, RECORD, fill)
    return record


def record_of(folder: Path, ensemble: Ensemble, found: Found, size: int, truth: Truth) -> dict[str, Any]:
    """ensemble.json; runs by their path from the ensemble's folder, the keys are stable."""
    names = [os.path.relpath(run, folder) for run in ensemble.library.runs]
    outcomes = {name: ensemble.outcomes[name] for name in PROCEDURES if name in ensemble.outcomes}
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
        "num_top": NUM_TOP,
        "members": _members(outcomes["ensemble"].mix, names, words_of(found.candidates)),
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
    heads = [one.manifest["strategy"] for one in candidates if not is_backbone(one.manifest)]
    shared = [name for name in (heads[0] if heads else ()) if all(name in values for values in heads)]
    varied = [name for name in shared if len({repr(values[name]) for values in heads}) > 1]
    return [
        f"backbone {one.manifest['backbone']['section']} by itself"
        if is_backbone(one.manifest)
        else strategy_words(one.manifest["strategy"], varied)
        if varied
        else ""
        for one in candidates
    ]


def _members(mix: Mix, names: Sequence[str], words: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """By task the runs that count, the heaviest first."""
    return {
        task: [
            {
                "run": names[run],
                "strategy": words[run],
                "count": int(counts[run]),
                "weight": float(mix.weights[task][run]),
            }
            for run in np.argsort(-counts, kind="stable").tolist()
            if counts[run]
        ]
        for task, counts in mix.counts.items()
    }


def _chosen(outcome: Outcome, names: Sequence[str]) -> list[str]:
    return [names[run] for run in np.flatnonzero(next(iter(outcome.mix.counts.values()))).tolist()]


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _of_one_split(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[tuple[Path, str]]]:
    """The runs of the split that most of them have, and the others."""
    splits = Counter(candidate.manifest["split"]["hash"] for candidate in candidates)
    if not splits:
        return [], []
    most = splits.most_common(1)[0][0]
    same = [one for one in candidates if one.manifest["split"]["hash"] == most]
    reason = "another split or fold: its predictions are of other rows"
    return same, [(one.folder, reason) for one in candidates if one.manifest["split"]["hash"] != most]
