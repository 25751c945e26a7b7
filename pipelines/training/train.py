"""Trains strategies in memory, one or a stack of them; `pipelines.training.run` writes the results down. N frames.

Callable any number of times in a process over the same `Dataset`: nothing is read from disk here.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from pipelines.config import Config
from pipelines.fitting.epochs import Evaluation, ShouldStop
from pipelines.fitting.runs import Spec
from pipelines.metrics.challenge import score_predictions
from pipelines.metrics.predictions import Predictions, merge
from pipelines.splits import Split
from pipelines.strategy import SELF_TRAINING, Strategy, class_embeddings_of, problem_of, streams_of, tasks_with_labels
from pipelines.training.dataset import Dataset
from pipelines.training.halving import Halving
from pipelines.training.methods import METHODS, TrainedModel
from pipelines.training.predict import predict
from pipelines.training.setup import Setup
from pipelines.training.stack_checkpoint import StackCheckpoint
from pipelines.training.teaching import train_self

ALL_METHODS = {**METHODS, SELF_TRAINING: train_self}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained strategy. `predictions` and `metrics` have the parts "select" and "report".

    `metrics["report"]` comes from the one time the report rows were scored, with the best weights; where a task has no
    label there, its numbers and P are None. Both parts are predicted in windows that overlap; the evaluations that
    chose the weights were in windows side by side, so their P differs a little from `metrics["select"]`.
    """

    strategy: Strategy
    models: tuple[TrainedModel, ...]
    streams: tuple[str, ...]
    split: Split
    predictions: Mapping[str, Predictions]
    metrics: Mapping[str, Any]
    seconds: float

    @property
    def num_parameters(self) -> int:
        """Parameters of all models together."""
        return sum(p.numel() for model in self.models for p in model.module.parameters())

    @property
    def history(self) -> tuple[Evaluation, ...]:
        """Every evaluation of every model, in the order they were trained."""
        return tuple(evaluation for model in self.models for evaluation in model.history)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A strategy to train, and its callbacks.

    `on_evaluation` is called after every evaluation of every model; `should_stop` is asked after each, and True ends
    that model's training, its best weights so far stand.
    """

    strategy: Strategy
    on_evaluation: Callable[[Evaluation], None] | None = None
    should_stop: ShouldStop | None = None


def train_strategy(
    config: Config,
    dataset: Dataset,
    strategy: Strategy,
    *,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    should_stop: ShouldStop | None = None,
    checkpoint: StackCheckpoint | None = None,
) -> Trained:
    """`train_strategies` of a single one, whose failure it raises."""
    request = TrainRequest(strategy=strategy, on_evaluation=on_evaluation, should_stop=should_stop)
    (trained,) = train_strategies(config, dataset, [request], checkpoint=checkpoint)
    if isinstance(trained, ValueError):
        raise trained
    return trained


def train_strategies(
    config: Config,
    dataset: Dataset,
    requests: Sequence[TrainRequest],
    halving: Halving | None = None,
    checkpoint: StackCheckpoint | None = None,
) -> list[Trained | ValueError]:
    """Trains strategies of one shape (`pipelines.training.packing`) at once, each by its method; chooses weights on the
    split's select rows, scores the report rows once. None depends on the others.

    Args:
        config: names the backbones and the split; each strategy stands for its head, loss and train.
        dataset: must hold every stream that `streams_of` names, in the strategies' view.
        orders: what to train.
        halving: ends the training of strategies that are behind the others of the stack.
        checkpoint: where an interrupted training of these very strategies is saved; already open.

    Returns:
        For each what was trained, or why it cannot be: values that do not go together, a stream that is not there, a
        task without a labelled frame among the rows that train or choose, or numbers that stop being finite.
    """
    begin = time.perf_counter() - (0.0 if checkpoint is None else checkpoint.seconds_before)
    found: dict[int, Trained | ValueError] = {}
    setups: dict[int, Setup] = {}
    for place, request in enumerate(requests):
        try:
            setups[place] = make_setup(config, dataset, request, halving=halving, checkpoint=checkpoint)
        except ValueError as error:
            found[place] = error
    if setups:
        method = next(iter(setups.values())).strategy.train.method
        outcomes = ALL_METHODS[method](list(setups.values()))
        for (place, setup), models in zip(setups.items(), outcomes, strict=True):
            share = (time.perf_counter() - begin) / len(setups)
            found[place] = models if isinstance(models, ValueError) else _scored(setup, models, share)
    return [found[place] for place in range(len(requests))]


def make_setup(
    config: Config,
    dataset: Dataset,
    request: TrainRequest,
    split: Split | None = None,
    halving: Halving | None = None,
    checkpoint: StackCheckpoint | None = None,
    num_steps: Mapping[str, int] | None = None,
) -> Setup:
    """What a method needs for `request`; without a `split`, that of the configuration.

    Raises:
        ValueError: the strategy cannot be trained, or a task has no labelled frame.
    """
    strategy = request.strategy
    if problem := problem_of(strategy, config):
        raise ValueError(problem)
    setup = Setup(
        dataset=dataset,
        strategy=strategy,
        split=split or dataset.split(config.split, strategy.train.fold),
        streams=streams_of(strategy, config),
        class_embeddings=class_embeddings_of(strategy, config),
        on_evaluation=request.on_evaluation,
        should_stop=request.should_stop,
        halving=halving,
        checkpoint=checkpoint,
        num_steps=num_steps,
    )
    check_labels(setup)
    return setup


def _scored(setup: Setup, models: list[TrainedModel], seconds: float) -> Trained:
    """The strategy's predictions and scores; `seconds` is its share of the training."""
    begin = time.perf_counter()
    dataset, strategy = setup.dataset, setup.strategy
    modules = [(model.spec, model.module) for model in models]
    predictions = {
        part: predict_models(modules, dataset, strategy, setup.used, getattr(setup.split, part))
        for part in ("select", "report")
    }
    scores = {
        part: score_predictions(predicted, dataset.labels, strategy.head.predicted)
        for part, predicted in predictions.items()
    }
    return Trained(
        strategy=strategy,
        models=tuple(models),
        streams=setup.used,
        split=setup.split,
        predictions=predictions,
        metrics={
            **scores,
            "tasks": list(strategy.head.predicted),
            "step": {m.spec.name: m.step for m in models},
            "halted": max(m.halted for m in models),
        },
        seconds=seconds + time.perf_counter() - begin,
    )


def predict_models(
    models: Iterable[tuple[Spec, nn.Module]],
    dataset: Dataset,
    strategy: Strategy,
    used: tuple[str, ...],
    part: np.ndarray,
) -> Predictions:
    """The predictions of `models` together for the rows `part` [N]; `used` are all streams of the strategy."""
    found = []
    for spec, module in models:
        model = strategy.model(spec.name)
        plan = dataset.plan(part, model.train, used)
        found.append(
            predict(module, spec.predicted, dataset.reader(spec.streams, used, model.head, model.train.views[:1]), plan)
        )
    return merge(found)


def check_labels(setup: Setup) -> None:
    """Raises `ValueError` unless every task has a labelled frame with an embedding to learn, and those that choose
    weights one to choose on."""
    valid = setup.dataset.resident.all_valid(setup.used, setup.strategy.train.view)
    for part in ("train", "select") if setup.num_steps is None else ("train",):
        rows = getattr(setup.split, part) & valid
        for task in tasks_with_labels(setup.strategy, part):
            if not (rows & setup.dataset.labelled([task])).any():
                where = setup.split.description[part]["of"]
                role = "learn from" if part == "train" else "choose weights on"
                raise ValueError(
                    f"task {task}: no labelled frame in {where} to {role}; leave the task out (--tasks), label some, "
                    "or choose another split ([split] in mtl.toml)"
                )
