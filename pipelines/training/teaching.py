"""The method "self-training": teachers label the unlabelled rows of the training split, then a model learns from all.

Pseudo-labels of a confident ensemble, as in Lee (ICML workshop 2013) and Lakshminarayanan et al. (NIPS 2017). Only rows
that train are ever labelled. Letters: N frames, R rows, K columns of a task, T teachers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from pipelines.label_table import LabelTable
from pipelines.metrics.predictions import Predictions
from pipelines.strategy import JOINT, SELF_TRAINING
from pipelines.training.methods import ModelsOrError, TrainedModel, train_heads
from pipelines.training.predict import predict
from pipelines.training.setup import Setup

SEED_STEP, NUM_SEEDS = 1_000_003, 2**32


def train_self(setups: Sequence[Setup]) -> list[ModelsOrError]:
    """Teachers of seeds of their own, then one trunk with an output for every task, from the labels and from theirs."""
    found: list[ModelsOrError] = [unlabelled_problem(setup) or [] for setup in setups]
    for number in range(setups[0].strategy.train.teachers):
        _train_next(found, setups, f"teacher{number + 1}", partial(_teacher, number))
    _train_next(found, setups, JOINT, _taught)
    return [models if isinstance(models, ValueError) else [_with_history(models)] for models in found]


def _train_next(
    found: list[ModelsOrError],
    setups: Sequence[Setup],
    title: str,
    change: Callable[[Setup, list[TrainedModel]], Setup],
) -> None:
    """Adds one more model to those of each setup that has not failed, trained by what `change` makes of the setup."""
    going = [(place, models) for place, models in enumerate(found) if not isinstance(models, ValueError)]
    changed = [change(setups[place], models) for place, models in going]
    for (place, models), model in zip(going, train_heads(changed, JOINT, title) if going else [], strict=True):
        found[place] = model if isinstance(model, ValueError) else [*models, model]


def _with_history(models: Sequence[TrainedModel]) -> TrainedModel:
    """The last of `models`, with the evaluations of all."""
    history = tuple(evaluation for model in models for evaluation in model.history)
    return dataclasses.replace(models[-1], history=history)


def unlabelled_problem(setup: Setup) -> ValueError | None:
    """What is wrong where no task lacks a label on any row that trains."""
    if any(_free(setup, name).any() for name in setup.strategy.head.tasks):
        return None
    where, tasks = setup.split.description["train"]["of"], ", ".join(setup.strategy.head.tasks)
    return ValueError(
        f"method = {SELF_TRAINING!r}: every frame of {where} is labelled for {tasks}, so there is nothing to teach; "
        "add unlabelled faces to split train (`mtl prepare`), or take method = 'joint'"
    )


def taught_labels(setup: Setup, teachers: Sequence[TrainedModel]) -> LabelTable:
    """The data set's labels, and what the `teachers` say with confidence where a row that trains has none."""
    schema, train = setup.dataset.schema, setup.strategy.train
    predicted = [_predict(setup, teacher) for teacher in teachers]
    found = setup.dataset.labels.map(np.copy)
    rows = predicted[0].rows
    for name in setup.strategy.head.tasks:
        task = schema.tasks[name]
        said = np.stack([each.probabilities.values(name) for each in predicted])  # [T, R, K]
        mean, free = said.mean(axis=0), _free(setup, name)[rows]
        if task.group.kind == "classes":
            new, sure = mean.argmax(axis=1)[:, None], mean.max(axis=1)[:, None] >= train.class_confidence
        elif task.group.kind == "binary":
            new, sure = mean >= 0.5, np.maximum(mean, 1 - mean) >= train.binary_confidence
        else:
            new, sure = mean, _most_agreed(said.std(axis=0), free, train.agreed_share)
        columns = [0] if task.group.kind == "classes" else list(task.indices)
        at = rows[:, None], np.asarray(columns)
        chosen = free & sure
        labels = found.arrays[task.group.name]
        labels[at] = np.where(chosen, new, labels[at])
    return found


def _most_agreed(spread: np.ndarray, free: np.ndarray, share: float) -> np.ndarray:
    """[R, K] bool: where teachers differ least, in each column so large a share of what is `free`."""
    sure = np.zeros_like(free)
    for column, (values, mask) in enumerate(zip(spread.T, free.T, strict=True)):
        if mask.any():
            sure[:, column] = values <= np.quantile(values[mask], share)
    return sure


def _free(setup: Setup, name: str) -> np.ndarray:
    """[N, K] bool: the rows that train and have an embedding, where they have no label of the task `name`."""
    task = setup.dataset.schema.tasks[name]
    mask = setup.dataset.labels.mask(task.group.name)
    mask = mask if task.group.kind == "classes" else mask[:, list(task.indices)]
    valid = setup.dataset.resident.all_valid(setup.used, setup.strategy.train.view)
    return np.asarray(~mask & (setup.split.train & valid)[:, None])


def _taught(setup: Setup, teachers: list[TrainedModel]) -> Setup:
    return dataclasses.replace(setup, taught=taught_labels(setup, teachers))


def _teacher(number: int, setup: Setup, before: list[TrainedModel]) -> Setup:
    """A training with a seed of its own, of which no other may be ended early to compare."""
    seed = (setup.strategy.train.seed + SEED_STEP * (number + 1)) % NUM_SEEDS
    return dataclasses.replace(setup, strategy=setup.strategy.changed({"seed": seed}), halving=None)


def _predict(setup: Setup, teacher: TrainedModel) -> Predictions:
    """What a teacher says of the rows that train."""
    dataset, strategy, spec = setup.dataset, setup.strategy, teacher.spec
    reader = dataset.reader(spec.streams, setup.used, strategy.head, (strategy.train.view,))
    plan = dataset.plan(setup.split.train, strategy.train, setup.used)
    return predict(teacher.module, spec.tasks, reader, plan)
