"""Trains one strategy in memory; `pipelines.run` writes the result down. N frames.

Callable any number of times in a process over the same `Dataset`: nothing is read from disk here.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.config import Config
from pipelines.dataset import Dataset
from pipelines.epochs import Epoch, ShouldStop, Watch
from pipelines.grid import problem_of
from pipelines.methods import METHODS, Setup, TrainedModel
from pipelines.predict import Predictions, merge, predict, score_predictions
from pipelines.splits import Split
from pipelines.strategy import Strategy, streams_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained strategy. `predictions` and `metrics` have the parts "select" and "report".

    `metrics["report"]` comes from the one time the report rows were scored, with the best weights; where a task has no
    label there, its numbers and P are None.
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
    def history(self) -> tuple[Epoch, ...]:
        """Every epoch of every model, in the order they were trained."""
        return tuple(epoch for model in self.models for epoch in model.history)


def train_strategy(
    config: Config,
    dataset: Dataset,
    strategy: Strategy,
    *,
    watch: Watch | None = None,
    should_stop: ShouldStop | None = None,
) -> Trained:
    """Trains `strategy` by its method, chooses epochs on the split's select rows, scores its report rows once.

    Args:
        config: names the backbones and the split; `strategy` stands for its head, loss and train.
        dataset: must hold every stream that `streams_of` names, in the strategy's view.
        strategy: what to train.
        watch: told of every epoch of every model.
        should_stop: asked after every epoch; True ends that model's training, its best epoch so far stands.

    Raises:
        ValueError: values that do not go together, a stream that is not there, or a task without a labelled frame
            among the rows that train or choose.
    """
    begin = time.perf_counter()
    if problem := problem_of(strategy, config):
        raise ValueError(problem)
    setup = Setup(
        dataset=dataset,
        strategy=strategy,
        split=dataset.split(config.split, strategy.train.fold),
        streams=streams_of(strategy, config),
        watch=watch,
        should_stop=should_stop,
    )
    check_labels(setup)
    models = METHODS[strategy.train.method](setup)
    predictions = {
        "select": merge([model.predictions for model in models]),
        "report": predict_rows(models, dataset, strategy, setup.used, setup.split.report),
    }
    scores = {part: score_predictions(said, dataset, strategy.head.tasks) for part, said in predictions.items()}
    return Trained(
        strategy=strategy,
        models=tuple(models),
        streams=setup.used,
        split=setup.split,
        predictions=predictions,
        metrics={**scores, "tasks": list(strategy.head.tasks), "epoch": {m.spec.name: m.epoch for m in models}},
        seconds=time.perf_counter() - begin,
    )


def predict_rows(
    models: list[TrainedModel], dataset: Dataset, strategy: Strategy, used: tuple[str, ...], part: np.ndarray
) -> Predictions:
    """What `models` together say of the rows `part` [N]; `used` are all streams of the strategy."""
    plan, view = dataset.plan(part, strategy.train, used), strategy.train.view
    return merge(
        [
            predict(model.module, model.spec.tasks, dataset.reader(model.spec.streams, used, view), plan)
            for model in models
        ]
    )


def check_labels(setup: Setup) -> None:
    """Raises `ValueError` unless every task has a labelled frame with an embedding to learn and one to choose on."""
    valid = setup.dataset.resident.all_valid(setup.used, setup.strategy.train.view)
    for part in ("train", "select"):
        rows = getattr(setup.split, part) & valid
        for task in setup.strategy.head.tasks:
            if not (rows & setup.dataset.labels.labelled(task)).any():
                where = setup.split.description[part]["of"]
                role = "learn from" if part == "train" else "choose epochs on"
                raise ValueError(
                    f"task {task}: no labelled frame in {where} to {role}; leave the task out (--tasks), label some, "
                    "or choose another split ([split] in mtl.toml)"
                )
