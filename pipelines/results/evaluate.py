"""Scores a finished run again, from its weights and the cache. N frames."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.labels import ABAW, Schema
from cache.names import SPLITS
from extract.view_names import BASE
from pipelines.config import Config
from pipelines.metrics.challenge import main_key, score_predictions
from pipelines.metrics.predictions import Predictions
from pipelines.postprocess.apply import Parameters, processed
from pipelines.postprocess.outside import class_probabilities
from pipelines.postprocess.over_views import in_views, predict_views, split_of
from pipelines.postprocess.parts import score_part
from pipelines.postprocess.run_folders import read_post
from pipelines.run_files import read_manifest
from pipelines.splits import Split
from pipelines.training.budget import context_of, context_warnings
from pipelines.training.dataset import Dataset, load_dataset
from pipelines.training.inputs import taken
from pipelines.training.run import Run, load_run

PARTS = ("select", "report")


def evaluate_run(
    folder: Path, config: Config, split: str, device: torch.device, *, post: bool = False
) -> dict[str, Any]:
    """The metrics of the run at `folder` on `split`, over the frames and streams of `config`.

    `split` is train, val or test of the frames table, or select or report: the selection rows of the run, and those
    scored at its end. Besides the flat keys: "run", "split", "unscored" (tasks without a label there: null) and
    "num_seen", how many labelled rows trained the run or selected its weights (None where the frames are others).
    "warnings" are lines on rows without an embedding or without context. With `post` also "post", the metrics of the
    same predictions with the run's stored post-processing applied. "views" are those whose mean is predicted: those of
    `config`, else those that the post-processing was fitted with, else the run's own.

    Raises:
        ValueError: no such run, streams that do not fit, no label of any of its tasks in `split`, or with `post` no
            post-processing.
    """
    read_manifest(folder)
    stored = read_post(folder, config.predict.views) if post else None
    run, *others = in_views(load_run(folder, device), stored.views if stored else config.predict.views)
    wanted = [(name, each.strategy.train.view) for each in (run, *others) for name in run.streams]
    wanted += [] if stored is None else outside_streams(stored.parameters)
    dataset = load_dataset(config, wanted, device)
    rows = rows_of(run, dataset, split)
    predictions = predict_views([run, *others], dataset, rows)
    metrics = score_predictions(predictions, dataset.labels, run.tasks)
    if metrics["unscored"] == [task.group.name for task in dataset.schema.scored(run.tasks)]:
        raise ValueError(f"no frame of split {split} has a label for {', '.join(run.tasks)}; choose another --split")
    warnings = context_warnings(context_of(dataset, rows, run.strategy, run.streams), run.strategy, f"split {split}")
    seen = num_seen(run, dataset, rows)
    views = [each.strategy.train.view for each in (run, *others)]
    found = {"run": str(folder), "split": split, **metrics, "views": views, "num_seen": seen, "warnings": warnings}
    if stored is None:
        return found
    outside = outside_of(stored.parameters, dataset, rows, str(folder))
    probabilities = dataclasses.replace(predictions.probabilities, outside=outside)
    predictions = dataclasses.replace(predictions, probabilities=probabilities)
    return found | {"post": score_processed(stored.parameters, predictions, dataset, metrics)}


def outside_streams(parameters: Parameters) -> list[tuple[str, str]]:
    """(name, view) of the streams that the post-processing reads."""
    return [(one.stream, BASE) for one in parameters.outside.values()]


def outside_of(parameters: Parameters, dataset: Dataset, rows: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """By label group what its outside classifier says of the rows `rows` [N] bool.

    Raises:
        ValueError: the stream is another classifier's than that of `parameters`; says `where`.
    """
    found = {}
    for group, one in parameters.outside.items():
        key, resident = (one.stream, BASE), dataset.resident
        identity = resident.identities[key].as_made_by(one.identity)
        if differences := identity.differences(one.identity):
            raise ValueError(
                f"{where}: stream {one.stream} is not the classifier that its post-processing was fitted with: "
                f"{'; '.join(differences)}"
            )
        asked = torch.from_numpy(np.flatnonzero(rows)).to(resident.device)
        scores = taken(resident.streams[key], asked).float().cpu().numpy()
        valid = resident.valid[key][rows]
        found[group] = class_probabilities(scores, valid, one.classes, dataset.schema.group(group))
    return found


def score_processed(
    parameters: Parameters, predictions: Predictions, dataset: Dataset, plain: Mapping[str, Any]
) -> dict[str, Any]:
    """The metrics of `predictions` with `parameters` applied, under the keys of `plain`, those of the same rows."""
    table = dataset.rows(predictions.rows).select("video", "frame")
    decided = parameters.decide(processed(parameters, table, predictions.probabilities))
    return dict.fromkeys(plain) | score_part(decided, dataset.labels.take(predictions.rows))


def scored_tasks(metrics: dict[str, Any], schema: Schema = ABAW) -> dict[str, Any]:
    """`metrics` without the label groups that have no label; P is the sum of the others."""
    tasks = [key.removeprefix("num_frames.") for key in metrics if key.startswith("num_frames.")]
    kept = [task for task in tasks if task not in metrics["unscored"]]
    found = {key: value for key, value in metrics.items() if key.partition(".")[0] not in metrics["unscored"]}
    return found | {"P": sum(schema.group(name).weight * metrics[main_key(schema.group(name))] for name in kept)}


def rows_of(run: Run, dataset: Dataset, split: str) -> np.ndarray:
    """[N] bool: the rows of `split`.

    Raises:
        ValueError: an unknown split; one without frames; or a part of the run's own split, over other frames.
    """
    if split in PARTS:
        own = own_split(run, dataset)
        if own is None:
            raise ValueError(
                f"{run.folder}: the frames or splits are not those this run was trained on, so its part {split!r} is "
                "not known here; choose --split val or test"
            )
        rows: np.ndarray = getattr(own, split)
    elif split in SPLITS:
        rows = (dataset.frames["split"] == split).to_numpy()
    else:
        raise ValueError(f"--split {split}: unknown split; known: {', '.join((*SPLITS, *PARTS))}")
    if not rows.any():
        raise ValueError(f"no frame is in split {split}; choose another --split")
    return rows


def num_seen(run: Run, dataset: Dataset, rows: np.ndarray) -> int | None:
    """How many labelled rows among `rows` trained the run or selected its weights; None where the frames are others."""
    split = own_split(run, dataset)
    if split is None:
        return None
    labelled = dataset.labelled(run.tasks)
    return int((rows & labelled & (split.train | split.select)).sum())


def own_split(run: Run, dataset: Dataset) -> Split | None:
    """The rows that trained the run, selected and were held out; None where the dataset's frames do not fall so."""
    try:
        split = split_of(run, dataset)
    except ValueError:
        return None
    return split if split.description["hash"] == run.manifest["split"]["hash"] else None
