"""The methods of training a strategy: separate, joint, progressive. N frames, D width.

A method turns a `Setup` into trained models: one a task, or one for all tasks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from heads.config import Task
from heads.losses import MultiTaskLoss, class_weights, positive_weights
from heads.model import Head, ProgressiveHead, build_head, build_progressive
from pipelines.dataset import Dataset, restrict
from pipelines.epochs import Epoch, ShouldStop, Watch
from pipelines.fit import fit, make_feed
from pipelines.optimise import seeded
from pipelines.predict import Predictions
from pipelines.splits import Split
from pipelines.strategy import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a method needs. `streams` names the streams of each model, as `strategy.streams_of` gives them."""

    dataset: Dataset
    strategy: Strategy
    split: Split
    streams: Mapping[str, tuple[str, ...]]
    watch: Watch | None = None
    should_stop: ShouldStop | None = None

    @property
    def used(self) -> tuple[str, ...]:
        """Every stream of every model: a step is valid where all of them have an embedding, whatever the method."""
        return tuple(dict.fromkeys(name for names in self.streams.values() for name in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a model is made of, enough to build it again before its weights are loaded.

    `parts` maps each trunk's task to its streams and their widths D; a joint head has one trunk, called "joint".
    """

    name: str
    kind: str
    tasks: tuple[Task, ...]
    parts: Mapping[str, Mapping[str, int]]

    @property
    def streams(self) -> tuple[str, ...]:
        """Every stream the model reads."""
        return tuple(dict.fromkeys(name for widths in self.parts.values() for name in widths))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model with the weights of its best epoch, and what that epoch predicted of the rows that choose."""

    spec: Spec
    module: nn.Module
    epoch: int
    predictions: Predictions
    history: tuple[Epoch, ...]


def train_joint(setup: Setup) -> list[TrainedModel]:
    """One trunk with an output for every task."""
    return [_train_head(setup, "joint", setup.strategy.head.tasks, setup.streams["joint"])]


def train_separate(setup: Setup) -> list[TrainedModel]:
    """A model a task, each with its own best epoch by its own task's score."""
    return [_train_head(setup, task, (task,), setup.streams[task]) for task in setup.strategy.head.tasks]


def train_progressive(setup: Setup) -> list[TrainedModel]:
    """Separate models first; then one model of all their trunks, which starts as exactly those and may exchange.

    The trunks are frozen for `frozen_epochs`. The start counts as an epoch, so on the rows that choose the result is
    never worse than the separate models.
    """
    separate = train_separate(setup)
    tasks = setup.strategy.head.tasks
    parts: dict[str, Mapping[str, int]] = {
        task: model.spec.parts["joint"] for task, model in zip(tasks, separate, strict=True)
    }
    spec = Spec(name="joint", kind="progressive", tasks=tasks, parts=parts)
    heads: dict[str, Head] = {
        task: model.module for task, model in zip(tasks, separate, strict=True) if isinstance(model.module, Head)
    }
    with seeded(setup.strategy.train.seed, torch.device("cpu")):
        module = ProgressiveHead.from_separate(heads)
    joint = _train(setup, spec, module, count_start=True, frozen_epochs=setup.strategy.train.frozen_epochs)
    history = tuple(epoch for model in separate for epoch in model.history)
    return [dataclasses.replace(joint, history=history + joint.history)]


def build_model(spec: Spec, strategy: Strategy) -> nn.Module:
    """The model of `spec`, as it is before training: the same for the same seed."""
    return KINDS[spec.kind](spec, strategy)


def _train_head(setup: Setup, name: str, tasks: tuple[Task, ...], streams: tuple[str, ...]) -> TrainedModel:
    widths = setup.dataset.resident.widths(streams, setup.strategy.train.view)
    spec = Spec(name=name, kind="head", tasks=tasks, parts={"joint": widths})
    return _train(setup, spec, build_model(spec, setup.strategy))


def _train(
    setup: Setup, spec: Spec, module: nn.Module, *, count_start: bool = False, frozen_epochs: int = 0
) -> TrainedModel:
    dataset, config = setup.dataset, setup.strategy.train
    device = dataset.resident.device
    reader = dataset.reader(spec.streams, setup.used, config.view)
    feed = make_feed(dataset, reader, setup.split.train, spec.tasks, config)
    fitted = fit(
        module.to(device),
        make_loss(setup, spec.tasks).to(device),
        feed,
        dataset.plan(setup.split.select, config, setup.used),
        name=spec.name,
        watch=setup.watch,
        should_stop=setup.should_stop,
        count_start=count_start,
        frozen_epochs=frozen_epochs,
    )
    return TrainedModel(
        spec=spec, module=module, epoch=fitted.epoch, predictions=fitted.predictions, history=fitted.history
    )


def make_loss(setup: Setup, tasks: tuple[str, ...]) -> MultiTaskLoss:
    """The loss of `tasks`, weighted by how often classes and AUs occur among the training rows."""
    targets = restrict(setup.dataset.targets, setup.split.train).to("cpu")
    return MultiTaskLoss(tasks, setup.strategy.loss, class_weights(targets), positive_weights(targets))


def _build_head(spec: Spec, strategy: Strategy) -> nn.Module:
    config = dataclasses.replace(strategy.head, tasks=spec.tasks)
    return build_head(config, spec.parts["joint"], seed=strategy.train.seed)


def _build_progressive(spec: Spec, strategy: Strategy) -> nn.Module:
    return build_progressive(strategy.head, {task: spec.parts[task] for task in spec.tasks}, seed=strategy.train.seed)


KINDS: dict[str, Callable[[Spec, Strategy], nn.Module]] = {"head": _build_head, "progressive": _build_progressive}
METHODS: dict[str, Callable[[Setup], list[TrainedModel]]] = {
    "separate": train_separate,
    "joint": train_joint,
    "progressive": train_progressive,
}
