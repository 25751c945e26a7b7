"""Separate training of a backbone: labelled faces in, weights and a section of mtl.toml out. N frames."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from cache.names import TASKS
from extract.backbones.adapt import merge_lora
from extract.backbones.build import build_trainable
from extract.backbones.matching import Match
from extract.backbones.origin import file_digest
from extract.backbones.rename import read_rules
from extract.config import BackboneConfig, Preprocessing
from heads.losses import MultiTaskLoss, class_weights, positive_weights
from heads.tasks import TASK_OUTPUTS
from pipelines.backbones.checkpoint import identity_of
from pipelines.backbones.course import Course, Trainee
from pipelines.backbones.data import Faces, memory_for_faces
from pipelines.backbones.distributed import World, open_world
from pipelines.backbones.facesets import Material, gather
from pipelines.backbones.files import FOLDER, checkpoint_path, history_path, save_trained
from pipelines.backbones.loop import judge, train_backbone
from pipelines.backbones.precision import Precision, choose_precision
from pipelines.backbones.recipe import check_recipe, prepare
from pipelines.backbones.register import check_section_name, register_backbone
from pipelines.backbones.sampling import draw_rows
from pipelines.backbones.state import Checkpoints, Kept
from pipelines.config import Config, to_mapping
from pipelines.files import write_json
from pipelines.labels import as_targets
from pipelines.scoring.metrics import main_scores
from pipelines.training.epochs import Epoch, Fitted, Watch

# Fields of [finetune] that do not change what is trained; the start and the sets are described apart.
NOT_RECIPE = ("checkpoint_minutes", "licence", "init", "rename", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be trained: a timm `model` on `tasks`, to be called `section`.

    `init` is "pretrained", "random" or a file of weights, whose tensors are renamed as `rename` says. `config_path` is
    the mtl.toml that the section goes into. `restart` forgets what an earlier run of the command left off with.
    """

    tasks: tuple[str, ...]
    model: str
    section: str
    init: str
    config_path: Path
    device: str = "auto"
    rename: str = ""
    licence: str = ""
    restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """A trained backbone: its files, the best epoch and that epoch's metrics on the rows that choose.

    `unreadable` lists faces that could not be read, with the reason; `replaced` is the earlier section of that name;
    `matched` says what of a weights file the backbone started from. `is_first` is False in the other processes of
    several, which have written nothing.
    """

    order: Order
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
    sets: tuple[dict[str, Any], ...]
    is_first: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "section": self.order.section,
            "model": self.order.model,
            "tasks": list(self.order.tasks),
            "init": self.order.init,
            "matched": None if self.matched is None else self.matched.to_json(),
            "weights": str(self.weights),
            "output": str(self.output),
            "epoch": self.epoch,
            "num_epochs": len(self.history),
            "select": self.metrics,
            "history": [
                {"epoch": e.epoch, "P": e.p, **e.scores, **e.losses, "lr": e.lr, "seconds": round(e.duration_s, 3)}
                for e in self.history
            ],
            "data": list(self.sets),
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "precision": self.precision,
            "device": self.device,
        }


def finetune(config: Config, frames: pl.DataFrame, order: Order, watch: Watch | None = None) -> Finetuned:
    """Trains, saves and registers a backbone; weights of the same name are replaced when the training is over.

    Rows of split train with a label of one of the tasks train; the rows that `[split]` lets choose do so, an epoch at a
    time; no other row is looked at. `pipelines.backbones.facesets` tells how further sets of faces come in. A face
    that cannot be read counts as a row without labels. A run that was stopped goes on where it stood.

    Raises:
        ValueError: no labelled frame for a task on one of the two sides, an unknown model or device, weights that do
            not fit, faces that cannot be read, a checkpoint of another training, or a loss that is no number.
        KeyboardInterrupt: Ctrl-C; the state is kept.
    """
    check_section_name(order.section)
    check_recipe(config.finetune)
    material = gather(config, frames, order.tasks)
    with open_world(order.device) as (world, device):
        checkpoints, kept = open_checkpoints(config, order, material, world)
        model, preprocessing = build(config, order)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        augmented = bool(config.finetune.rand_augment)
        with Faces(material.folder, material.paths, preprocessing, device=device, augmented=augmented) as faces:
            if kept is not None:
                faces.unreadable.update({int(row): reason for row, reason in kept[1]["unreadable"].items()})
            faces.keep(memory_for_faces(), config.folder)
            course = make_course(config, order, material, model, faces, device, world, kept)
            checkpoints.about = {"precision": course.precision, "unreadable": faces.unreadable}
            fitted = train_backbone(course, watch, checkpoints, kept)
        result = finish(config, order, material, course, fitted)
        checkpoints.remove()
        world.barrier()
    return result


def open_checkpoints(config: Config, order: Order, material: Material, world: World) -> tuple[Checkpoints, Kept | None]:
    """Where this training's state is kept, and what an earlier run of the command left there."""
    checkpoints = Checkpoints(
        path=checkpoint_path(order.config_path.parent, order.section),
        identity=identity_of(describe(config, order, material)),
        minutes=config.finetune.checkpoint_minutes,
        writes=world.is_first,
    )
    if order.restart:
        checkpoints.remove()
    world.barrier()
    return checkpoints, checkpoints.read()


def describe(config: Config, order: Order, material: Material) -> dict[str, Any]:
    """What makes one training another: the recipe, the start and the data; not where it runs."""
    recipe = {key: value for key, value in to_mapping(config.finetune).items() if key not in NOT_RECIPE}
    file = Path(order.init)
    return {
        "model": order.model,
        "tasks": list(order.tasks),
        "init": file_digest(file) if file.is_file() else order.init,
        "rename": order.rename,
        "finetune": recipe,
        "loss": to_mapping(config.loss),
        "data": {each.name: each.about() for each in material.sets},
    }


def build(config: Config, order: Order) -> tuple[Trainee, Preprocessing]:
    """The backbone with its outputs, and how its faces are prepared; the same for the same seed."""
    settings = config.finetune
    num_outputs = sum(TASK_OUTPUTS[task].num_outputs for task in order.tasks)
    trainable, preprocessing = build_trainable(
        order.model,
        num_outputs,
        settings.size_px or None,
        order.init,
        seed=settings.seed,
        drop_path=settings.drop_path,
        rename=read_rules(order.rename) if order.rename else None,
    )
    prepare(trainable, settings)
    return Trainee(trainable, order.tasks), preprocessing


def make_course(
    config: Config,
    order: Order,
    material: Material,
    model: Trainee,
    faces: Faces,
    device: torch.device,
    world: World = World(),
    kept: Kept | None = None,
) -> Course:
    """Everything the training loop needs.

    The loss's weights of classes and positives are those of what an epoch shows: of training rows alone, as often as
    sampling draws them, so that nothing is made up for twice.
    """
    settings = config.finetune
    targets = as_targets(material.labels)
    shown = draw_rows(material.pool, settings, np.random.default_rng([settings.seed, 0]), whole=True)
    learnt = targets.gather(torch.from_numpy(shown))
    loss = MultiTaskLoss(order.tasks, [config.loss], class_weights(learnt), positive_weights(learnt))
    if kept is not None:
        precision: Precision = kept[1]["precision"]
    elif settings.precision == "auto":
        precision = world.gather_objects(choose_precision(model, faces.preprocessing, device))[0]
    else:
        precision = settings.precision
    return Course(
        model=model,
        loss=loss.to(device),
        faces=faces,
        targets=targets.to(device),
        labels=material.labels,
        pool=material.pool,
        select=material.select,
        tasks=order.tasks,
        config=settings,
        device=device,
        precision=precision,
        name=order.section,
        world=world,
    )


def finish(config: Config, order: Order, material: Material, course: Course, fitted: Fitted) -> Finetuned:
    """Saves and registers what was trained. The first process does; the others only know of it."""
    model, preprocessing, world = course.model.cpu(), course.faces.preprocessing, course.world
    if config.finetune.lora_rank:
        merge_lora(model.trainable.backbone)
    metrics, licence = judge(course, fitted.predictions), order.licence or material.licence
    unreadable = {row: reason for met in world.gather_objects(course.faces.unreadable) for row, reason in met.items()}
    sets = tuple({"set": each.name, "faces": str(each.folder), **each.about()} for each in material.sets)
    result = Finetuned(
        order=order,
        weights=FOLDER / f"{order.section}.safetensors",
        output=FOLDER / f"{order.section}.output.safetensors",
        history_file=history_path(order.section),
        epoch=fitted.epoch,
        metrics=metrics,
        history=fitted.history,
        unreadable=tuple((course.faces.paths[row], reason) for row, reason in sorted(unreadable.items())),
        precision=course.precision,
        device=str(course.device),
        replaced=None,
        matched=model.trainable.matched,
        sets=sets,
        is_first=world.is_first,
    )
    if not world.is_first:
        return result
    about = {"finetune": to_mapping(config.finetune), "loss": to_mapping(config.loss)}
    return save(result, model, preprocessing, about, licence)


def save(
    result: Finetuned, model: Trainee, preprocessing: Preprocessing, about: dict[str, Any], licence: str
) -> Finetuned:
    """Writes weights, outputs and history, then the section of mtl.toml; the result knows which one it replaced."""
    order = result.order
    folder = order.config_path.parent
    about |= {
        "init": order.init,
        "epoch": result.epoch,
        "select": result.metrics,
        "data": list(result.sets),
        "precision": result.precision,
        **({"licence": licence} if licence else {}),
    }
    save_trained(folder, order.section, order.model, model, preprocessing, about)
    section = section_of(result, preprocessing, file_digest(folder / result.weights), licence)
    write_json(folder / result.history_file, result.to_json())
    return dataclasses.replace(result, replaced=register_backbone(order.config_path, order.section, section))


def section_of(result: Finetuned, preprocessing: Preprocessing, digest: str, licence: str) -> dict[str, Any]:
    """[backbones.NAME] as it stands in mtl.toml; the rest of the preprocessing travels in the file of weights."""
    scores = ", ".join(f"{task} {value:.4f}" for task, value in main_scores(result.metrics).items())
    return {
        "model": result.order.model,
        "weights": result.weights.as_posix(),
        "tasks": list(result.order.tasks),
        "size_px": preprocessing.size_px,
        "score": f"{scores} on the frames that chose epoch {result.epoch}",
        "file_digest": digest,
        **({"licence": licence} if licence else {}),
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
    config: Config,
    config_path: Path,
    task: str,
    model: str = "",
    name: str = "",
    init: str = "",
    device: str = "auto",
    *,
    rename: str = "",
    licence: str = "",
    restart: bool = False,
) -> Order:
    """What the command line asks for; what it leaves out comes from mtl.toml.

    The section's default name is the task's, "joint" for several; the default model is that of the section if it is
    there already. A file given by `init` or `rename` is seen from where the command is typed, one in mtl.toml from
    there.
    """
    tasks = parse_tasks(task)
    section = name or (tasks[0] if len(tasks) == 1 else "joint")
    check_section_name(section)
    if not model and section not in config.backbones:
        raise ValueError(f"--model: which timm model is to be trained? mtl.toml has no [backbones.{section}] to go by")
    settings = config.finetune
    configured = settings.init if settings.init in ("pretrained", "random") else str(config.at(settings.init))
    rules = str(config.at(settings.rename)) if config.at(settings.rename).is_file() else settings.rename
    return Order(
        tasks=tasks,
        model=model or config.backbones[section].model,
        section=section,
        init=init or configured,
        config_path=config_path,
        device=device,
        rename=rename or (rules if not init else ""),
        licence=licence or settings.licence,
        restart=restart,
    )
