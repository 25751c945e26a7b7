"""A run, or an ensemble of runs, as one thing that predicts frames from the cache. N frames, R rows, K outputs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from cache.identity import StreamIdentity
from cache.labels import ABAW, Schema
from cache.seals import digest_of
from extract.view_names import BASE
from pipelines.config import Config
from pipelines.ensemble.ensemble_folder import RECORD as ENSEMBLE
from pipelines.ensemble.ensemble_folder import read_ensemble
from pipelines.metrics.predictions import Decisions, Probabilities, joined
from pipelines.nearest import in_videos_of
from pipelines.postprocess.apply import Parameters, processed
from pipelines.postprocess.over_views import in_views
from pipelines.postprocess.run_folders import RECORD as POSTPROCESS
from pipelines.postprocess.run_folders import read_post
from pipelines.refit.record import read_refit
from pipelines.results.evaluate import num_seen, outside_of
from pipelines.run_files import CARD, MANIFEST, PREDICTIONS, REFIT, find_folder, read_manifest, run_bytes
from pipelines.training.dataset import Dataset
from pipelines.training.run import Run, load_run, predict_run
from pipelines.training.windows import context_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedRun:
    """A run, in one view of its streams, and the weight of its predictions, for each task for which it counts."""

    run: Run
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A run or an ensemble. `parameters` is its stored post-processing; None where there is none, or none is wanted."""

    folder: Path
    kind: str
    runs: tuple[WeightedRun, ...]
    parameters: Parameters | None

    @property
    def tasks(self) -> tuple[str, ...]:
        named = [task for one in self.runs for task in one.weights]
        return tuple(task.name for task in self.schema.scored(named))

    @property
    def schema(self) -> Schema:
        """What its labels are."""
        return self.runs[0].run.schema

    @property
    def views(self) -> list[str]:
        """The views whose mean it predicts."""
        return list(dict.fromkeys(one.run.strategy.train.view for one in self.runs))

    @property
    def streams(self) -> list[tuple[str, str]]:
        """(name, view) of every stream that a model or the post-processing reads."""
        return list(self.identities)

    @property
    def identities(self) -> dict[tuple[str, str], tuple[Run, StreamIdentity]]:
        """What each of the `streams` is, and the first run that reads it; of an outside classifier the first of all."""
        found: dict[tuple[str, str], tuple[Run, StreamIdentity]] = {}
        for one in self.runs:
            for name, identity in one.run.identities.items():
                found.setdefault((name, one.run.strategy.train.view), (one.run, identity))
        for outside in self.parameters.outside.values() if self.parameters else ():
            found.setdefault((outside.stream, BASE), (self.runs[0].run, outside.identity))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePredictions:
    """Predictions of the frames `frames` [R] (video, frame, path), post-processed where the predictor says so; `raw`
    are those before smoothing.

    `valid` [R] is False where the frame has no embedding of its own: its prediction is that of the video's nearest
    frame. `known` [R] is False where the video has none at all: then nothing is predicted, and the numbers are zeros.
    """

    frames: pl.DataFrame
    probabilities: Probabilities
    raw: Probabilities
    parameters: Parameters
    valid: np.ndarray
    known: np.ndarray

    def decide(self) -> Decisions:
        """The decided values, classes and binary columns."""
        return self.parameters.decide(self.probabilities)

    def rows(self, rows: np.ndarray) -> "FramePredictions":
        """Those of `rows` [R] bool."""
        return FramePredictions(
            frames=self.frames.filter(rows),
            probabilities=self.probabilities.rows(rows),
            raw=self.raw.rows(rows),
            parameters=self.parameters,
            valid=self.valid[rows],
            known=self.known[rows],
        )


def find_predictor(given: Path, config: Config) -> Path:
    """The folder of a run, an ensemble or a refit: `given` as a path, or a name in `runs/`, or in the `ensembles/` or
    `refits/` beside it or in a study.

    Raises:
        ValueError: there is none, or several of that name; a study is named with what is in it.
    """
    folders = dict.fromkeys(find_folder(given, home) for home in _homes(config))
    found = [folder for folder in folders if any((folder / mark).is_file() for mark in KINDS)]
    if len(found) > 1:
        raise ValueError(
            f"{given}: several runs, ensembles and refits have this name; give a path: {' or '.join(map(str, found))}"
        )
    if found:
        return found[0]
    study = given if given.exists() else config.at(config.output.studies) / given
    if (study / "study.json").is_file():
        raise ValueError(
            f"{study}: a study; name a run or an ensemble in it: {study}/runs/NAME, {study}/ensembles/NAME"
        )
    raise ValueError(
        f"{given}: no finished run and no ensemble here; `mtl train-head` makes a run, `mtl ensemble` an ensemble"
    )


def _homes(config: Config) -> list[Path]:
    """The folders of runs and ensembles: `runs/`, `ensembles/` next to it, and that of each study."""
    runs, studies = config.at(config.output.runs), config.at(config.output.studies)
    parents = [runs.parent, *(sorted(studies.iterdir()) if studies.is_dir() else [])]
    return [runs, *(parent / name for parent in parents for name in ("ensembles", "refits"))]


def load_predictor(folder: Path, device: torch.device, *, post: bool = True, views: Sequence[str] = ()) -> Predictor:
    """The run or ensemble at `folder` with its weights; with `post` also its stored post-processing.

    It predicts the mean over `views`; where none are asked for, over those that its post-processing was fitted with or
    its members were selected with, else over the view that each run was trained with.

    Raises:
        ValueError: none there, a member of the ensemble is gone, a file is damaged, or the post-processing was fitted
            on other views.
    """
    kind, load = next((found for mark, found in KINDS.items() if (folder / mark).is_file()), KINDS[MANIFEST])
    runs = load(folder, device)
    stored = read_post(folder, views) if post and (folder / POSTPROCESS).exists() else None
    known = stored.views if stored else tuple(read_ensemble(folder)["views"]) if kind == "ensemble" else ()
    return Predictor(
        folder=folder,
        kind=kind,
        runs=tuple(each for one in runs for each in _in_views(one, tuple(views) or known)),
        parameters=stored.parameters if stored else None,
    )


def _in_views(one: WeightedRun, views: Sequence[str]) -> list[WeightedRun]:
    """The run on each of `views`, its weights shared between them."""
    runs = in_views(one.run, views)
    weights = {task: weight / len(runs) for task, weight in one.weights.items()}
    return [WeightedRun(run=run, weights=weights) for run in runs]


def read_card(folder: Path) -> str:
    """The model card of the run or ensemble at `folder`.

    Raises:
        ValueError: it is missing, damaged or of another one.
    """
    read = next((one for mark, one in RECORDS.items() if (folder / mark).is_file()), None)
    if read is None:
        return run_bytes(folder, read_manifest(folder), CARD).decode()
    data = (folder / CARD).read_bytes() if (folder / CARD).is_file() else b""
    if digest_of(data) != read(folder).get("card"):
        command = "ensemble" if read is read_ensemble else "refit"
        raise ValueError(f"{folder / CARD}: missing, damaged or changed; `mtl {command} --force` makes it again")
    return data.decode()


def predict_frames(predictor: Predictor, dataset: Dataset, part: np.ndarray) -> FramePredictions:
    """Predictions of the rows `part` [N] bool of the dataset.

    Raises:
        ValueError: a stream is not the one that a run was trained on, or a prediction is not a finite number.
    """
    totals: dict[str, np.ndarray] = {}
    valid, known = np.ones(len(part), dtype=bool), np.ones(len(part), dtype=bool)
    context = context_rows(dataset.frames, dataset.videos, part)
    for one in predictor.runs:
        predictions = predict_run(one.run, dataset, part).probabilities
        for task, weight in one.weights.items():
            totals[task] = totals.get(task, 0.0) + weight * predictions.values(task).astype(np.float64)
        has_embedding = dataset.resident.all_valid(one.run.streams, one.run.strategy.train.view)
        valid &= has_embedding
        known &= in_videos_of(dataset.videos, context & has_embedding)
    frames = dataset.named(part)
    _check_finite(predictor, frames, totals)
    parameters = predictor.parameters or Parameters(schema=predictor.schema)
    outside = outside_of(parameters, dataset, part, str(predictor.folder))
    raw = dataclasses.replace(joined(totals, predictor.schema), outside=outside)
    return FramePredictions(
        frames=frames,
        probabilities=processed(parameters, frames, raw),
        raw=raw,
        parameters=parameters,
        valid=valid[part],
        known=known[part],
    )


def num_trained_on(predictor: Predictor, dataset: Dataset, part: np.ndarray) -> int:
    """How many labelled rows of `part` [N] bool trained a run of the predictor or selected its epoch, if known."""
    return max(num_seen(one.run, dataset, part) or 0 for one in predictor.runs)


def _single_run(folder: Path, device: torch.device) -> list[WeightedRun]:
    run = load_run(folder, device)
    return [WeightedRun(run=run, weights={task.name: 1.0 for task in run.schema.scored(run.tasks)})]


def _refit_runs(folder: Path, device: torch.device) -> list[WeightedRun]:
    """Its runs, with equal weights."""
    record = read_refit(folder)
    for name, digest in record["runs"].items():
        path = folder / name / MANIFEST
        if not path.is_file() or digest_of(path.read_bytes()) != digest:
            raise ValueError(f"{path}: missing, damaged or of another refit; `mtl refit --force` makes it again")
    weights = dict.fromkeys(record["tasks"], 1 / len(record["runs"]))
    return [WeightedRun(run=load_run(folder / name, device), weights=weights) for name in record["runs"]]


def _ensemble_runs(folder: Path, device: torch.device) -> list[WeightedRun]:
    """The members that count for some task."""
    weights: dict[str, dict[str, float]] = {}
    record = read_ensemble(folder)
    for task, members in record["members"].items():
        for member in members:
            weights.setdefault(member["run"], {})[task] = float(member["weight"])
    for name in weights:
        if not (folder / name / "run.json").is_file():
            raise ValueError(
                f"{folder}: its member {(folder / name).resolve()} is no finished run any more; put it back, or make "
                "the ensemble again with `mtl ensemble --force`"
            )
    runs = {name: load_run((folder / name).resolve(), device) for name in weights}
    for name, run in runs.items():
        if run.manifest["files"][PREDICTIONS] != record["trained"].get(name):
            raise ValueError(
                f"{folder}: its member {run.folder} was trained again since; make the ensemble again with "
                "`mtl ensemble --force`"
            )
    return [WeightedRun(run=run, weights=weights[name]) for name, run in runs.items()]


def _check_finite(predictor: Predictor, frames: pl.DataFrame, totals: Mapping[str, np.ndarray]) -> None:
    for task, values in totals.items():
        wrong = ~np.isfinite(values).all(axis=1)
        if wrong.any():
            video, frame = frames.select("video", "frame").row(int(wrong.argmax()))
            raise ValueError(
                f"{predictor.folder}: its prediction of {task} for {video} frame {frame} is not a finite number "
                f"({int(wrong.sum()):,} of {len(wrong):,} frames); its weights are damaged or diverged: train it again"
            )


def check_tasks(predictor: Predictor, needed: Sequence[str], what: str) -> None:
    """Raises `ValueError` where the predictor lacks one of the challenge's tasks that `what` needs, or has it with
    other columns or classes."""
    for name in (task for task in needed if task in predictor.schema.names):
        own, wanted = (Schema(name="", groups=(schema.group(name),)) for schema in (predictor.schema, ABAW))
        if differences := own.differences(wanted, "in the run", "in the challenge"):
            raise ValueError(f"{predictor.folder}: {what} is of the challenge's labels ({'; '.join(differences)})")
    if lacking := [task for task in needed if task not in predictor.tasks]:
        raise ValueError(
            f"{predictor.folder}: predicts {', '.join(predictor.tasks)}, but {what} needs {', '.join(lacking)} too; "
            "combine it with a run of that task (`mtl ensemble RUN RUN --name NAME`), or train one with all tasks"
        )


RECORDS: dict[str, Callable[[Path], dict[str, Any]]] = {ENSEMBLE: read_ensemble, REFIT: read_refit}
KINDS: dict[str, tuple[str, Callable[[Path, torch.device], list[WeightedRun]]]] = {
    ENSEMBLE: ("ensemble", _ensemble_runs),
    REFIT: ("refit", _refit_runs),
    MANIFEST: ("run", _single_run),
}
