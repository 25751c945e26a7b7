"""Separate training of a backbone: labelled faces in, weights and a section of mtl.toml out. N frames."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from extract.backbones.build import build_trainable
from extract.backbones.origin import file_digest
from extract.backbones.rename import read_rules
from extract.config import Preprocessing
from heads.losses import MultiTaskLoss, label_weights
from heads.tasks import Task
from pipelines.backbones.data import Faces, memory_for_faces
from pipelines.backbones.distributed import World, open_world
from pipelines.backbones.files import Trainee, alone_in, checkpoint_path
from pipelines.backbones.finetuning.course import Course
from pipelines.backbones.finetuning.facesets import Material, gather
from pipelines.backbones.finetuning.heldout import score_held_out
from pipelines.backbones.finetuning.loop import train_backbone
from pipelines.backbones.finetuning.order import Order
from pipelines.backbones.finetuning.recipe import check_recipe, prepare, with_rate
from pipelines.backbones.finetuning.result import Finetuned, finish
from pipelines.backbones.precision import Precision, choose_precision
from pipelines.backbones.register import check_section_name
from pipelines.backbones.runs import check_place
from pipelines.backbones.sampling import draw_rows
from pipelines.config import Config
from pipelines.fitting.checkpoint import Checkpoints, Kept, identity_of
from pipelines.fitting.epochs import EpochWatch
from pipelines.labels import as_tensors, tasks_of
from pipelines.typed import to_mapping

# Fields of [finetune] that do not change what is trained; the start and the sets are described apart.
NOT_RECIPE = ("checkpoint_minutes", "licence", "init", "rename", "data")


def finetune(config: Config, frames: pl.DataFrame, order: Order, watch: EpochWatch | None = None) -> Finetuned:
    """Trains, saves and registers a backbone; weights of the same name are replaced when the training is over.

    Rows of split train with a label of one of the tasks train; the rows that `[split]` lets choose do so, an epoch at a
    time; no other row is looked at until the training is over. Then the held-out rows of [data] are scored, once.
    `pipelines.backbones.finetuning.facesets` tells how further sets of faces come in.
    A face that cannot be read counts as a row without labels. A run that was stopped goes on where it stood.

    Raises:
        ValueError: no labelled frame for a task on one of the two sides, an unknown model or device, weights that do
            not fit, faces that cannot be read, a checkpoint of another training, or a loss that is no number.
        KeyboardInterrupt: Ctrl-C; the state is kept.
    """
    check_section_name(order.section)
    check_recipe(config.finetune)
    check_place(config, order.section)
    material = gather(config, frames, order.tasks)
    with open_world(order.device) as (world, device), alone_in(order.config_path.parent, order.section, world):
        checkpoints, kept = open_checkpoints(config, order, material, world)
        model, preprocessing = build(config, order)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        augmented = bool(config.finetune.rand_augment)
        with Faces(
            material.folder,
            material.paths,
            preprocessing,
            device=device,
            augmented=augmented,
            follow_orientation=not config.data.ignore_orientation,
        ) as faces:
            if kept is not None:
                faces.unreadable.update({int(row): reason for row, reason in kept[1]["unreadable"].items()})
            faces.keep(memory_for_faces(), config.folder)
            course = make_course(config, order, material, model, faces, device, world, kept)
            checkpoints.about = {"precision": course.precision, "unreadable": faces.unreadable}
            fitted = train_backbone(course, watch, checkpoints, kept)
        held_out = score_held_out(config, course, material)
        result = finish(config, order, material, course, fitted, held_out)
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
        **({"ignore_orientation": True} if config.data.ignore_orientation else {}),
    }


def build(config: Config, order: Order) -> tuple[Trainee, Preprocessing]:
    """The backbone with its outputs, and how its faces are prepared; the same for the same seed."""
    settings = config.finetune
    tasks = chosen_tasks(config, order)
    trainable, preprocessing = build_trainable(
        order.model,
        sum(task.num_outputs for task in tasks.values()),
        settings.size_px or None,
        order.init,
        seed=settings.seed,
        crop_pct=settings.crop_pct,
        drop_path=settings.drop_path,
        rename=read_rules(order.rename) if order.rename else None,
    )
    prepare(trainable, settings)
    return Trainee(trainable, tasks), preprocessing


def chosen_tasks(config: Config, order: Order) -> dict[str, Task]:
    """The tasks of `order`, as heads know them."""
    known = tasks_of(config.schema)
    return {name: known[name] for name in order.tasks}


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
    settings = with_rate(config.finetune, model)
    targets = as_tensors(material.labels)
    shown = draw_rows(material.pool, settings, np.random.default_rng([settings.seed, 0]), whole=True)
    tasks = chosen_tasks(config, order)
    weights = label_weights(tasks, targets.take(torch.from_numpy(shown)))
    loss = MultiTaskLoss(tasks, [config.loss], weights)
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
        targets=targets.map(lambda values: values.to(device)),
        labels=material.labels,
        pool=material.pool,
        select=material.select,
        tasks=order.tasks,
        schema=config.schema,
        config=settings,
        device=device,
        precision=precision,
        name=order.section,
        world=world,
    )
