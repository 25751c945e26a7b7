"""What a fine-tuning ends with: weights, outputs, history and a section of mtl.toml."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.labels import Schema
from extract.backbones.adapt import merge_lora
from extract.backbones.matching import Match
from extract.backbones.origin import file_digest
from extract.backbones.passes import Precision
from extract.config import BackboneConfig, Preprocessing
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.facesets import FaceDataset
from pipelines.backbones.finetuning.heldout import HeldOut, write_run
from pipelines.backbones.finetuning.loop import evaluate
from pipelines.backbones.finetuning.request import FinetuneRequest
from pipelines.backbones.register import register_backbone
from pipelines.backbones.runs import run_name
from pipelines.backbones.task_model import FOLDER, TaskModel, history_path, save_trained
from pipelines.config import Config
from pipelines.fitting.epochs import Epoch, FitResult
from pipelines.json_files import write_json
from pipelines.metrics.challenge import main_scores
from pipelines.typed import to_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """A trained backbone: its files, the best epoch and that epoch's metrics on the rows that choose.

    `unreadable` lists faces that could not be read, with the reason; `replaced` is the earlier section of that name;
    `matched` says what of a weights file the backbone started from. `report` are the metrics of the held-out rows,
    those of `report_of`, and `run` the folder with the predictions; `not_scored` says why there are none. `is_first` is
    False in the other processes of several, which have written nothing.
    """

    request: FinetuneRequest
    weights: Path
    output: Path
    history_file: Path
    epoch: int
    metrics: dict[str, Any]
    history: tuple[Epoch, ...]
    unreadable: tuple[tuple[str, str], ...]
    precision: Precision
    device: str
    replaced: BackboneConfig | None
    matched: Match | None
    schema: Schema
    sets: tuple[dict[str, Any], ...]
    run: Path | None = None
    report: Mapping[str, Any] | None = None
    report_of: str = ""
    not_scored: str = ""
    is_first: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "section": self.request.section,
            "model": self.request.model,
            "tasks": list(self.request.tasks),
            "init": self.request.init,
            "matched": None if self.matched is None else self.matched.to_json(),
            "weights": str(self.weights),
            "output": str(self.output),
            "epoch": self.epoch,
            "num_epochs": len(self.history),
            "select": self.metrics,
            "report": None if self.report is None else dict(self.report),
            "report_of": self.report_of,
            "run": None if self.run is None else str(self.run),
            "not_scored": self.not_scored,
            "history": [
                {"epoch": e.epoch, "P": e.p, **e.scores, **e.losses, "lr": e.lr, "seconds": round(e.duration_s, 3)}
                for e in self.history
            ],
            "data": list(self.sets),
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "precision": self.precision,
            "device": self.device,
        }


def finish(
    config: Config,
    request: FinetuneRequest,
    dataset: FaceDataset,
    context: TrainContext,
    fitted: FitResult[Epoch],
    held_out: HeldOut | str,
) -> Finetuned:
    """Saves and registers what was trained. The first process does; the others only know of it."""
    model, preprocessing, world = context.model.cpu(), context.faces.preprocessing, context.world
    if config.finetune.lora_rank:
        merge_lora(model.trainable.backbone)
    assert fitted.predictions is not None, "the loop keeps them"
    metrics, licence = evaluate(context, fitted.predictions), request.licence or dataset.licence
    unreadable = {row: reason for met in world.gather_objects(context.faces.unreadable) for row, reason in met.items()}
    sets = tuple({"set": each.name, "faces": str(each.folder), **each.about()} for each in dataset.sets)
    result = Finetuned(
        request=request,
        weights=FOLDER / f"{request.section}.safetensors",
        output=FOLDER / f"{request.section}.output.safetensors",
        history_file=history_path(request.section),
        epoch=fitted.best.epoch,
        metrics=metrics,
        history=fitted.history,
        unreadable=tuple((context.faces.paths[row], reason) for row, reason in sorted(unreadable.items())),
        precision=context.precision,
        device=str(context.device),
        replaced=None,
        matched=model.trainable.matched,
        schema=config.schema,
        sets=sets,
        run=None if isinstance(held_out, str) else config.output.runs / run_name(request.section),
        report=None if isinstance(held_out, str) else held_out.metrics["report"],
        report_of=dataset.split.description["report"]["of"],
        not_scored=held_out if isinstance(held_out, str) else "",
        is_first=world.is_first,
    )
    if not world.is_first:
        return result
    about = {"finetune": to_mapping(config.finetune), "loss": to_mapping(config.loss)}
    result, section = save(result, model, preprocessing, about, licence)
    if not isinstance(held_out, str):
        write_run(config, request.section, section, dataset, context, fitted, held_out)
    return result


def save(
    result: Finetuned, model: TaskModel, preprocessing: Preprocessing, about: dict[str, Any], licence: str
) -> tuple[Finetuned, dict[str, Any]]:
    """Writes weights, outputs and history, then the section of mtl.toml, which is returned; the result knows which one
    it replaced."""
    request = result.request
    folder = request.config_path.parent
    about |= {
        "init": request.init,
        "epoch": result.epoch,
        "select": result.metrics,
        "data": list(result.sets),
        "precision": result.precision,
        **({"licence": licence} if licence else {}),
    }
    save_trained(folder, request.section, request.model, model, preprocessing, about)
    section = section_of(result, preprocessing, file_digest(folder / result.weights), licence)
    write_json(folder / result.history_file, result.to_json())
    replaced = register_backbone(request.config_path, request.section, section)
    return dataclasses.replace(result, replaced=replaced), section


def section_of(result: Finetuned, preprocessing: Preprocessing, digest: str, licence: str) -> dict[str, Any]:
    """[backbones.NAME] as it stands in mtl.toml; the rest of the preprocessing travels in the file of weights."""
    scores = ", ".join(f"{task} {value:.4f}" for task, value in main_scores(result.metrics, result.schema).items())
    return {
        "model": result.request.model,
        "weights": result.weights.as_posix(),
        "tasks": list(result.request.tasks),
        "size_px": preprocessing.size_px,
        "crop_pct": preprocessing.crop_pct,
        "score": f"{scores} on the selection frames, epoch {result.epoch}",
        "file_digest": digest,
        **({"licence": licence} if licence else {}),
    }
