"""How much a head is trained: windows per step, steps and evaluations, and what is too little. B windows, T steps.

Everything here is counted from mtl.toml and the frames table before anything trains.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.frames import Frames, num_in_split
from heads.config import DEPTHS
from pipelines.config import TrainConfig
from pipelines.strategy import Strategy

if TYPE_CHECKING:
    from pipelines.training.dataset import Dataset

LEAST_BATCH, MOST_BATCH = 4, 32
# Optimiser steps for one pass over the windows that a batch by size aims at: small data sets get small batches.
STEPS_A_PASS = 20
# Fewer steps stopped heads of the demo's streams before their best held-out score.
LEAST_STEPS = {name: 120 if name == "none" else 400 for name in DEPTHS}
MOST_SINGLE = 0.5  # of the windows, with a single step each


def batch_windows(config: TrainConfig, frames: Frames) -> int:
    """Windows B of a step: `config.batch_windows`, or where that is 0 a power of two from 4 to 32.

    A data set of W windows (its rows that train, over the stride) gets the one nearest to W / 20. Folds are no part of
    it, so that the folds of a strategy train alike and in one stack.
    """
    if config.batch_windows:
        return config.batch_windows
    windows = num_in_split(frames, "train") / min(config.stride, config.window)
    nearest = 2 ** round(math.log2(max(windows / STEPS_A_PASS, 1)))
    return min(max(nearest, LEAST_BATCH), MOST_BATCH)


def evaluations(config: TrainConfig) -> list[int]:
    """The steps after which a head is scored: every `eval_steps`, and the last."""
    return [*range(config.eval_steps, config.steps, config.eval_steps), config.steps]


def budget_of(strategy: Strategy, frames: Frames) -> dict[str, Any]:
    """What a model of `strategy` gets on `frames`: "steps" at most, of "batch_windows"; "eval_steps" between scores.
    Under "task" the same of the models of tasks that get something else."""
    train = strategy.train
    found: dict[str, Any] = {
        "steps": train.steps,
        "batch_windows": batch_windows(train, frames),
        "eval_steps": min(train.eval_steps, train.steps),
    }
    own = {task: budget_of(strategy.model(task), frames) for task in strategy.task}
    own = {task: budget for task, budget in own.items() if budget != found}
    return found | ({"task": own} if own else {})


def budget_words(budget: Mapping[str, Any]) -> str:
    """ "800 steps of 8 windows, scored every 40; va: 400 steps of 4 windows, scored every 40"."""
    words = f"{budget['steps']:,} steps of {budget['batch_windows']} windows, scored every {budget['eval_steps']}"
    return "; ".join([words, *(f"{task}: {budget_words(own)}" for task, own in budget.get("task", {}).items())])


def shortfall(strategy: Strategy) -> str:
    """What is too little for the temporal encoders of `strategy`, in one line; empty where nothing is."""
    found = []
    for name in strategy.models:
        model = strategy.model(name)
        temporal, steps, least = model.head.temporal, model.train.steps, LEAST_STEPS.get(model.head.temporal, 0)
        if steps < least:
            found.append(
                f"{steps} steps are few for temporal = {temporal!r}: with fewer than {least} it underfits; "
                "raise train.steps"
            )
    return "; ".join(dict.fromkeys(found))


def context_of(dataset: "Dataset", rows: np.ndarray, strategy: Strategy, used: Sequence[str]) -> dict[str, int]:
    """What the rows `rows` [N] bool have to be predicted from: counts of labelled rows, of those without an embedding,
    of windows, and of windows of a single step, those of the model with the longest."""
    labelled = dataset.labelled(strategy.head.tasks) & rows
    longest = max((strategy.model(name).train for name in strategy.models), key=lambda train: train.window)
    windows = dataset.place_windows(rows, longest)
    valid = dataset.resident.all_valid(used, strategy.train.view)
    return {
        "num_labelled": int(labelled.sum()),
        "num_without_embedding": int((labelled & ~valid).sum()),
        "num_windows": len(windows),
        "num_single_step": int((windows.length == 1).sum()),
    }


def context_warnings(context: Mapping[str, int], strategy: Strategy, where: str) -> list[str]:
    """What is silently missing among the rows called `where`: a line each."""
    found = []
    missing, labelled = context["num_without_embedding"], context["num_labelled"]
    if missing:
        found.append(
            f"{where}: {missing:,} of {labelled:,} labelled frames have no embedding; each gets the prediction of the "
            "frame nearest in time"
        )
    single, windows = context["num_single_step"], context["num_windows"]
    temporal = {strategy.model(name).head.temporal for name in strategy.models}
    if temporal != {"none"} and single > MOST_SINGLE * windows:
        found.append(
            f"{where}: {single:,} of {windows:,} windows hold a single frame, so the temporal encoder sees nothing "
            f"beside it: the gaps between frames are longer than train.max_gap = {strategy.train.max_gap}"
        )
    return found
