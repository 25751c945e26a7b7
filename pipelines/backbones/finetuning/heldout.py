"""A fine-tuned backbone scored once on the rows of [data] that are held out, and its run folder. N frames, R rows.

The predictions are the backbone's own, of the faces themselves, for the rows that chose the epoch and those held out:
all of them, labelled or not, as of a head, so that the two can stand in one ensemble.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.durable import place_folder
from cache.frames import frames_digest, labels_digest
from cache.identity import StreamIdentity
from extract.backbones.build import Backbone, load_backbone
from extract.config import BackboneConfig
from extract.jobs import identity_of
from heads.config import HeadConfig
from pipelines.backbones.data import Faces, progress_of_first
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.facesets import FaceDataset, FaceSet
from pipelines.backbones.finetuning.loop import predict_readable
from pipelines.backbones.runs import KIND, run_folder
from pipelines.backbones.task_model import FOLDER, output_tensors
from pipelines.cards.records import run_card
from pipelines.config import Config, TrainConfig
from pipelines.fitting.epochs import Epoch, FitResult
from pipelines.fitting.runs import Spec, commit, config_toml, versions, weights_file, write_files
from pipelines.metrics.challenge import score_predictions
from pipelines.metrics.predictions import Predictions, Probabilities, prediction_table
from pipelines.nearest import NO_ROW, nearest_rows, video_codes
from pipelines.run_files import FORMAT, MANIFEST
from pipelines.strategy import Strategy
from pipelines.typed import from_mapping

PARTS = ("select", "report")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """`predictions` and `metrics` by part, "select" and "report"; `num_unreadable` counts rows whose face is not to be
    read: they have the prediction of the row nearest in time."""

    predictions: Mapping[str, Predictions]
    metrics: Mapping[str, Any]
    num_unreadable: Mapping[str, int]
    seconds: float


def score_held_out(config: Config, context: TrainContext, dataset: FaceDataset) -> HeldOut | str:
    """Predicts and scores both parts with the best epoch's weights; why not, where no face of a part can be read."""
    begin = time.perf_counter()
    data = dataset.sets[0]
    parts = {part: np.flatnonzero(getattr(dataset.split, part)) for part in PARTS}
    rows = np.sort(np.concatenate(list(parts.values())))
    paths = data.frames["path"].gather(rows).to_list()
    with (
        Faces(
            data.folder,
            paths,
            context.faces.preprocessing,
            device=context.device,
            follow_orientation=not config.data.ignore_orientation,
        ) as faces,
        progress_of_first(context.world, "score", len(rows)) as advance,
    ):
        predicted = predict_readable(dataclasses.replace(context, faces=faces), np.arange(len(rows)), advance)
    read = np.zeros(0, dtype=np.int64) if predicted is None else rows[predicted.rows]
    for part, asked in parts.items():
        if predicted is None or not np.isin(asked, read).any():
            return f"no face of {dataset.split.description[part]['of']} can be read, so there is no held-out score"
    assert predicted is not None
    predicted = Predictions(rows=read, probabilities=predicted.probabilities)
    predictions = {part: _filled(predicted, asked, data) for part, asked in parts.items()}
    return HeldOut(
        predictions=predictions,
        metrics={part: score_predictions(found, data.labels, context.tasks) for part, found in predictions.items()},
        num_unreadable={part: int((~np.isin(asked, read)).sum()) for part, asked in parts.items()},
        seconds=time.perf_counter() - begin,
    )


def _filled(predicted: Predictions, asked: np.ndarray, data: FaceSet) -> Predictions:
    """Predictions of the rows `asked` [R]: a row that `predicted` lacks takes those of the row nearest in time in its
    video, and zeros where there is none, as a row without an embedding does under a head."""
    times = data.frames["frame"].to_numpy().astype(np.int64)
    source = nearest_rows(video_codes(data.frames), times, np.intersect1d(predicted.rows, asked), asked)
    there, place = source != NO_ROW, np.searchsorted(predicted.rows, source)
    parts = {
        name: np.where(there[:, None], values[np.where(there, place, 0)], 0).astype(np.float32)
        for name, values in predicted.probabilities.parts.items()
    }
    return Predictions(rows=asked, probabilities=Probabilities(parts=parts, schema=predicted.probabilities.schema))


def write_run(
    config: Config,
    section: str,
    entry: Mapping[str, Any],
    dataset: FaceDataset,
    context: TrainContext,
    fitted: FitResult[Epoch],
    held_out: HeldOut,
) -> Path:
    """The run folder of the backbone that is registered as [backbones.SECTION] with the values `entry`, in the place of
    an earlier one."""
    registered: BackboneConfig = from_mapping(BackboneConfig, entry, f"[backbones.{section}]")
    backbone = dataclasses.replace(load_backbone(section, registered, config.folder), dtype=config.cache.dtype)
    config = dataclasses.replace(config, backbones={**config.backbones, section: registered})
    tasks = context.tasks
    strategy = Strategy(
        head=HeadConfig(tasks=tasks, streams=(section,), fusion="concat", temporal="none"),
        loss=config.loss,
        train=TrainConfig(seed=config.finetune.seed),
    )
    spec = Spec(
        name=section, kind="linear", tasks=tasks, parts={"joint": {section: backbone.width}}, schema=config.schema
    )
    outputs = {f"outputs.{name.replace('.', '.linear.', 1)}": t for name, t in output_tensors(context.model).items()}
    metrics = {**held_out.metrics, "tasks": list(tasks), "epoch": {section: fitted.best.epoch}, "halted": 0}
    folder = run_folder(config, section)
    frames = dataset.sets[0].frames
    follow = not config.data.ignore_orientation
    identity = identity_of(backbone, "base", frames_digest(frames), len(frames), follow)  # what mtl extract makes
    manifest = manifest_of(folder.name, strategy, spec, backbone, identity, dataset, context, fitted, held_out)
    tables = {part: prediction_table(found, frames, part) for part, found in held_out.predictions.items()}
    report = held_out.predictions["report"].rows
    card = run_card(manifest, metrics, config, tables["report"], frames[report], dataset.sets[0].labels.take(report))
    place_folder(
        folder,
        MANIFEST,
        lambda made: write_files(
            made,
            config_toml=config_toml(config, strategy),
            states={weights_file(spec): outputs},
            history=fitted.history,
            predictions=list(tables.values()),
            metrics=metrics,
            card=card,
            manifest=manifest,
        ),
    )
    return folder


def manifest_of(
    name: str,
    strategy: Strategy,
    spec: Spec,
    backbone: Backbone,
    identity: StreamIdentity,
    dataset: FaceDataset,
    context: TrainContext,
    fitted: FitResult[Epoch],
    held_out: HeldOut,
) -> dict[str, Any]:
    """run.json: that of a head whose one model is the backbone's own outputs on its stream, with "kind" beside it."""
    frames = dataset.sets[0].frames
    made_from = {
        "kind": KIND,
        "tasks": list(spec.tasks),
        "file_digest": backbone.config.file_digest,
        "outputs": _digest(context),
        "stream": identity.digest,
        "frames": frames_digest(frames),
        "labels": labels_digest(frames, spec.schema),
        "split": dataset.split.description["hash"],
    }
    num_outputs = sum(p.numel() for p in context.model.trainable.output.parameters())
    return {
        "format": FORMAT,
        "kind": KIND,
        "name": name,
        "digest": hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=8).hexdigest(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": sum(epoch.duration_s for epoch in fitted.history) + held_out.seconds,
        "backbone": {
            "section": spec.name,
            "model": backbone.config.model,
            "weights": (FOLDER / f"{spec.name}.safetensors").as_posix(),
            "file_digest": backbone.config.file_digest,
        },
        "schema": spec.schema.to_mapping(),
        "strategy": strategy.flat(),
        "seed": strategy.train.seed,
        "epoch": {spec.name: fitted.best.epoch},
        "num_parameters": sum(p.numel() for p in context.model.parameters()),
        "models": [
            {
                "name": spec.name,
                "kind": spec.kind,
                "tasks": list(spec.tasks),
                "targets": [],
                "parts": {part: dict(widths) for part, widths in spec.parts.items()},
                "file": weights_file(spec),
                "epoch": fitted.best.epoch,
                "num_parameters": num_outputs,
            }
        ],
        "streams": {spec.name: {"digest": identity.digest, "identity": identity.to_json()}},
        "frames": made_from["frames"],
        "labels": made_from["labels"],
        "split": dict(dataset.split.description),
        "num_without_embedding": dict(held_out.num_unreadable),
        "device": str(context.device),
        "commit": commit(),
        "versions": versions(),
    }


def _digest(context: TrainContext) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(output_tensors(context.model).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
