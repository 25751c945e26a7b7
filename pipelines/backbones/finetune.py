"""Separate training of a backbone: labelled faces in, weights and a section of mtl.toml out. N frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from cache.names import TASKS
from extract.backbones.build import build_trainable
from extract.config import BackboneConfig, Preprocessing
from heads.losses import MultiTaskLoss, class_weights, positive_weights
from heads.tasks import TASK_OUTPUTS
from pipelines.backbones.data import Faces, memory_for_faces
from pipelines.backbones.files import save_trained
from pipelines.backbones.loop import Course, Trainee, judge, train_backbone
from pipelines.backbones.precision import Precision, choose_precision
from pipelines.backbones.register import check_section_name, register_backbone
from pipelines.config import Config, to_mapping
from pipelines.device import resolve_device
from pipelines.labels import Labels, labels_of, targets_of
from pipelines.progress import progress
from pipelines.splits import Split, resolve_split
from pipelines.training.epochs import Epoch, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be trained: a timm `model` on `tasks`, to be called `section`.

    `init` is "pretrained", "random" or a file of weights. `config_path` is the mtl.toml that the section goes into.
    """

    tasks: tuple[str, ...]
    model: str
    section: str
    init: str
    config_path: Path
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """A trained backbone: its files, the best epoch and that epoch's metrics on the rows that choose.

    `unreadable` lists faces that could not be read, with the reason; `replaced` is the earlier section of that name.
    """

    order: Order
    weights: Path
    output: Path
    epoch: int
    metrics: dict[str, Any]
    history: tuple[Epoch, ...]
    unreadable: tuple[tuple[str, str], ...]
    precision: Precision
    device: str
    replaced: BackboneConfig | None

    def to_json(self) -> dict[str, Any]:
        return {
            "section": self.order.section,
            "model": self.order.model,
            "tasks": list(self.order.tasks),
            "init": self.order.init,
            "weights": str(self.weights),
            "output": str(self.output),
            "epoch": self.epoch,
            "num_epochs": len(self.history),
            "select": self.metrics,
            "history": [
                {"epoch": e.epoch, "P": e.p, **e.losses, "seconds": round(e.duration_s, 3)} for e in self.history
            ],
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "precision": self.precision,
            "device": self.device,
        }


def finetune(config: Config, frames: pl.DataFrame, order: Order, watch: Watch | None = None) -> Finetuned:
    """Trains, saves and registers a backbone. Nothing is written before the training is over.

    Rows of split train with a label of one of the tasks train; the rows that `[split]` lets choose do so, an epoch at a
    time; no other row is looked at. A face that cannot be read counts as a row without labels.

    Raises:
        ValueError: no labelled frame for a task on one of the two sides, an unknown model or device, weights that do
            not fit, faces that cannot be read, or a loss that is no number.
    """
    check_section_name(order.section)
    split = resolve_split(frames, config.split)
    sides = choose_rows(labels_of(frames), split, order.tasks)
    device = resolve_device(order.device)
    folder = config.at(config.data.faces)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of faces; set faces under [data] in mtl.toml")
    model, preprocessing = build(config, order)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    used = frames[sides.rows]
    with Faces(folder, used["path"].to_list(), preprocessing) as faces:
        if faces.fit_in(memory_for_faces()):
            with progress("decode", len(used), "faces") as advance:
                faces.load(advance)
        elif faces.are_in_videos:
            raise ValueError(
                f"{folder}: {faces.num_bytes / 2**30:.1f} GiB of faces do not fit in memory, and frames of video files "
                "cannot be read in the random order of training; unpack the videos into images, or lower size_px"
            )
        course = make_course(config, order, used, sides, model, faces, device)
        fitted = train_backbone(course, watch)
    metrics = judge(course, fitted.predictions)
    about = {
        "init": order.init,
        "epoch": fitted.epoch,
        "select": metrics,
        "split": split.description["hash"],
        "precision": course.precision,
        "finetune": to_mapping(config.finetune),
        "loss": to_mapping(config.loss),
    }
    weights, output = save_trained(
        order.config_path.parent, order.section, order.model, model.cpu(), preprocessing, about
    )
    return Finetuned(
        order=order,
        weights=weights,
        output=output,
        epoch=fitted.epoch,
        metrics=metrics,
        history=fitted.history,
        unreadable=tuple((faces.paths[row], reason) for row, reason in sorted(faces.unreadable.items())),
        precision=course.precision,
        device=str(device),
        replaced=register_backbone(order.config_path, order.section, section_of(order, weights, preprocessing)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """`rows` of the frames table that are used at all; `train` and `select` are places in `rows`."""

    rows: np.ndarray
    train: np.ndarray
    select: np.ndarray


def choose_rows(labels: Labels, split: Split, tasks: Sequence[str]) -> Sides:
    """The labelled rows of both sides.

    Raises:
        ValueError: a task has no labelled row on one side; says which.
    """
    for side, mask in (("train", split.train), ("select", split.select)):
        for task in tasks:
            if not (labels.labelled(task) & mask).any():
                where = split.description[side]["of"]
                raise ValueError(
                    f"task {task}: no labelled frame in {where}, whose frames "
                    f"{'train' if side == 'train' else 'choose the epoch'}; add labels with `mtl prepare`, or leave "
                    f"{task} out of --task"
                )
    labelled = np.logical_or.reduce([labels.labelled(task) for task in tasks])
    rows = np.flatnonzero(labelled & (split.train | split.select))
    return Sides(rows=rows, train=np.flatnonzero(split.train[rows]), select=np.flatnonzero(split.select[rows]))


def build(config: Config, order: Order) -> tuple[Trainee, Preprocessing]:
    """The backbone with its outputs, and how its faces are prepared; the same for the same seed."""
    settings = config.finetune
    num_outputs = sum(TASK_OUTPUTS[task].num_outputs for task in order.tasks)
    trainable, preprocessing = build_trainable(
        order.model, num_outputs, settings.size_px or None, order.init, seed=settings.seed
    )
    return Trainee(trainable, order.tasks), preprocessing


def make_course(
    config: Config,
    order: Order,
    used: pl.DataFrame,
    sides: Sides,
    model: Trainee,
    faces: Faces,
    device: torch.device,
) -> Course:
    """Everything the training loop needs, the loss's weights taken from training rows alone."""
    targets = targets_of(used)
    learnt = targets.gather(torch.from_numpy(sides.train))
    loss = MultiTaskLoss(order.tasks, [config.loss], class_weights(learnt), positive_weights(learnt))
    precision = config.finetune.precision
    return Course(
        model=model,
        loss=loss.to(device),
        faces=faces,
        targets=targets.to(device),
        labels=labels_of(used),
        train=sides.train,
        select=sides.select,
        tasks=order.tasks,
        config=config.finetune,
        device=device,
        precision=choose_precision(model, faces.preprocessing, device) if precision == "auto" else precision,
        name=order.section,
    )


def section_of(order: Order, weights: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    """[backbones.NAME] as it stands in mtl.toml; the rest of the preprocessing travels in the file of weights."""
    return {
        "model": order.model,
        "weights": weights.as_posix(),
        "tasks": list(order.tasks),
        "size_px": preprocessing.size_px,
    }


def parse_tasks(text: str) -> tuple[str, ...]:
    """ "va,expr" as tasks, in the house's order.

    Raises:
        ValueError: an unknown task, or none.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [task for task in given if task not in TASKS]
    if unknown or not given:
        raise ValueError(f"--task {text}: expected one or several of {', '.join(TASKS)}, comma separated")
    return tuple(task for task in TASKS if task in given)


def make_order(
    config: Config, config_path: Path, task: str, model: str = "", name: str = "", init: str = "", device: str = "auto"
) -> Order:
    """What the command line asks for; what it leaves out comes from mtl.toml.

    The section's default name is the task's, "joint" for several; the default model is that of the section if it is
    there already. A file given by `init` is seen from where the command is typed, one in mtl.toml from there.
    """
    tasks = parse_tasks(task)
    section = name or (tasks[0] if len(tasks) == 1 else "joint")
    check_section_name(section)
    if not model and section not in config.backbones:
        raise ValueError(f"--model: which timm model is to be trained? mtl.toml has no [backbones.{section}] to go by")
    configured = config.finetune.init
    if configured not in ("pretrained", "random"):
        configured = str(config.at(configured))
    return Order(
        tasks=tasks,
        model=model or config.backbones[section].model,
        section=section,
        init=init or configured,
        config_path=config_path,
        device=device,
    )
