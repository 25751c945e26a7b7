"""Separate training of a backbone: labelled faces in, weights and a section of mtl.toml out. N frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from extract.backbones.build import build_trainable
from extract.backbones.origin import file_digest
from extract.backbones.passes import Precision
from extract.backbones.rename import read_rules
from extract.config import Preprocessing
from heads.frequencies import count_labels, label_frequencies, label_weights
from heads.losses import MultiTaskLoss
from heads.tasks import Task
from pipelines.backbones.data import Faces, memory_for_faces
from pipelines.backbones.distributed import World, open_world
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.facesets import FaceDataset, gather
from pipelines.backbones.finetuning.heldout import score_held_out
from pipelines.backbones.finetuning.loop import train_backbone
from pipelines.backbones.finetuning.recipe import check_recipe, prepare, with_rate
from pipelines.backbones.finetuning.request import FinetuneRequest
from pipelines.backbones.finetuning.result import Finetuned, finish
from pipelines.backbones.precision import choose_precision
from pipelines.backbones.register import check_section_name
from pipelines.backbones.runs import check_place
from pipelines.backbones.sampling import draw_rows
from pipelines.backbones.task_model import TaskModel, alone_in, checkpoint_path
from pipelines.config import Config
from pipelines.fitting.checkpoint import Checkpoints, Resumed, identity_of
from pipelines.fitting.epochs import Epoch
from pipelines.labels import as_tensors, tasks_of
from pipelines.typed import to_mapping

# Fields of [finetune] that do not change what is trained; the start and the sets are described apart.
NOT_RECIPE = ("checkpoint_minutes", "licence", "init", "rename", "data")


def finetune(
    config: Config, frames: pl.DataFrame, request: FinetuneRequest, on_epoch: Callable[[Epoch], None] | None = None
) -> Finetuned:
    """Trains, saves and registers a backbone; weights of the same name are replaced when the training is over.

    Rows of split train with a label of one of the tasks train; the rows that `[split]` lets choose do so, once per
    epoch; no other row is looked at until the training is over. Then the held-out rows of [data] are scored, once.
    `pipelines.backbones.finetuning.facesets` tells how further sets of faces come in.
    A face that cannot be read counts as a row without labels. A run that was stopped resumes.

    Raises:
        ValueError: no labelled frame for a task on one of the two sides, an unknown model or device, weights that do
            not fit, faces that cannot be read, a checkpoint of another training, or a loss that is no number.
        KeyboardInterrupt: Ctrl-C; the state is kept.
    """
    check_section_name(request.section)
    check_recipe(config.finetune)
    check_place(config, request.section)
    dataset = gather(config, frames, request.tasks)
    with open_world(request.device) as (world, device), alone_in(request.config_path.parent, request.section, world):
        checkpoints, resumed = open_checkpoints(config, request, dataset, world)
        model, preprocessing = build(config, request)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        augmented = bool(config.finetune.rand_augment)
        with Faces(
            dataset.folder,
            dataset.paths,
            preprocessing,
            device=device,
            augmented=augmented,
            follow_orientation=not config.data.ignore_orientation,
        ) as faces:
            if resumed is not None:
                faces.unreadable.update({int(row): reason for row, reason in resumed[1]["unreadable"].items()})
            faces.keep(memory_for_faces(), config.folder)
            context = make_context(config, request, dataset, model, faces, device, world, resumed)
            checkpoints.about = {"precision": context.precision, "unreadable": faces.unreadable}
            fitted = train_backbone(context, on_epoch, checkpoints, resumed)
        held_out = score_held_out(config, context, dataset)
        result = finish(config, request, dataset, context, fitted, held_out)
        checkpoints.remove()
        world.barrier()
    return result


def open_checkpoints(
    config: Config, request: FinetuneRequest, dataset: FaceDataset, world: World
) -> tuple[Checkpoints, Resumed | None]:
    """Where this training's state is kept, and what an earlier run of the command left there."""
    checkpoints = Checkpoints(
        path=checkpoint_path(request.config_path.parent, request.section),
        identity=identity_of(describe(config, request, dataset)),
        minutes=config.finetune.checkpoint_minutes,
        writes=world.is_first,
    )
    if request.restart:
        checkpoints.remove()
    world.barrier()
    return checkpoints, checkpoints.read()


def describe(config: Config, request: FinetuneRequest, dataset: FaceDataset) -> dict[str, Any]:
    """What makes one training another: the recipe, the start and the data; not where it runs."""
    recipe = {key: value for key, value in to_mapping(config.finetune).items() if key not in NOT_RECIPE}
    file = Path(request.init)
    return {
        "model": request.model,
        "tasks": list(request.tasks),
        "init": file_digest(file) if file.is_file() else request.init,
        "rename": request.rename,
        "finetune": recipe,
        "loss": to_mapping(config.loss),
        "data": {each.name: each.about() for each in dataset.sets},
        **({"ignore_orientation": True} if config.data.ignore_orientation else {}),
    }


def build(config: Config, request: FinetuneRequest) -> tuple[TaskModel, Preprocessing]:
    """The backbone with its outputs, and how its faces are prepared; the same for the same seed."""
    settings = config.finetune
    tasks = chosen_tasks(config, request)
    trainable, preprocessing = build_trainable(
        request.model,
        sum(task.num_outputs for task in tasks.values()),
        settings.size_px or None,
        request.init,
        seed=settings.seed,
        crop_pct=settings.crop_pct,
        drop_path=settings.drop_path,
        rename=read_rules(request.rename) if request.rename else None,
    )
    prepare(trainable, settings)
    return TaskModel(trainable, tasks), preprocessing


def chosen_tasks(config: Config, request: FinetuneRequest) -> dict[str, Task]:
    """The tasks of `request`, as heads know them."""
    known = tasks_of(config.schema)
    return {name: known[name] for name in request.tasks}


def make_context(
    config: Config,
    request: FinetuneRequest,
    dataset: FaceDataset,
    model: TaskModel,
    faces: Faces,
    device: torch.device,
    world: World = World(),
    resumed: Resumed | None = None,
) -> TrainContext:
    """Everything the training loop needs.

    The loss's weights of classes and positives are those of what an epoch shows: of training rows alone, as often as
    sampling draws them, so that nothing is made up for twice.
    """
    settings = with_rate(config.finetune, model)
    targets = as_tensors(dataset.labels)
    shown = draw_rows(dataset.pool, settings, np.random.default_rng([settings.seed, 0]), whole=True)
    tasks = chosen_tasks(config, request)
    counts = count_labels(tasks, [targets.take(torch.from_numpy(shown))])
    loss = MultiTaskLoss(tasks, [config.loss], label_weights(tasks, counts), label_frequencies(tasks, counts))
    if resumed is not None:
        precision: Precision = resumed[1]["precision"]
    elif settings.precision == "auto":
        precision = world.gather_objects(choose_precision(model, faces.preprocessing, device))[0]
    else:
        precision = settings.precision
    return TrainContext(
        model=model,
        loss=loss.to(device),
        faces=faces,
        targets=targets.map(lambda values: values.to(device)),
        labels=dataset.labels,
        pool=dataset.pool,
        select=dataset.select,
        tasks=request.tasks,
        schema=config.schema,
        config=settings,
        device=device,
        precision=precision,
        name=request.section,
        world=world,
    )
