"""The methods of training strategies: separate, joint, progressive; `pipelines.training.teaching` has self-training.
M strategies at once, N frames, D width.

A method turns each of M `Setup`s of one shape (`pipelines.training.packing`) into trained models: one per task, or one
for all tasks. A strategy that fails is a `ValueError` in its place, and does not affect the others.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from heads.linear import LinearHead
from heads.model import Head, ProgressiveHead, build_head, build_progressive, load_single, stack_heads
from pipelines.fitting.epochs import BestEpoch, Evaluation, FitResult
from pipelines.fitting.runs import Spec
from pipelines.labels import tasks_of
from pipelines.strategy import JOINT, Strategy
from pipelines.training.fit import StackMember, fit
from pipelines.training.loss import make_loss
from pipelines.training.setup import Setup
from pipelines.training.window_sampler import WindowSource, make_window_source


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model of one head with the weights of its best evaluation."""

    spec: Spec
    module: nn.Module
    step: int
    history: tuple[Evaluation, ...]
    halted: int = 0


ModelsOrError = list[TrainedModel] | ValueError


def train_joint(setups: Sequence[Setup]) -> list[ModelsOrError]:
    """One trunk with an output for every task."""
    return [_listed(one) for one in train_heads(setups, JOINT)]


def train_separate(setups: Sequence[Setup]) -> list[ModelsOrError]:
    """One model per task, each with its own best weights by its own task's score."""
    by_task = [train_heads(setups, task) for task in setups[0].strategy.head.tasks]
    return [_joined(models) for models in zip(*by_task, strict=True)]


def train_progressive(setups: Sequence[Setup]) -> list[ModelsOrError]:
    """Separate models first; then one model of all their trunks, which starts as exactly those and may exchange.

    The trunks are frozen for `frozen_steps`. The start is scored too, so by the scores that choose weights the result
    is never worse than the separate models.
    """
    separate = train_separate(setups)
    remaining = [place for place, outcome in enumerate(separate) if not isinstance(outcome, ValueError)]
    found: list[ModelsOrError] = list(separate)
    if not remaining:
        return found
    models = [outcome for outcome in separate if not isinstance(outcome, ValueError)]
    for place, outcome in zip(remaining, _train_joined([setups[place] for place in remaining], models), strict=True):
        found[place] = outcome
    return found


def _train_joined(setups: Sequence[Setup], separate: Sequence[list[TrainedModel]]) -> list[ModelsOrError]:
    """The joint part: `separate[m]` are the models of `setups[m]`, one per task."""
    strategy = setups[0].strategy
    tasks = strategy.head.tasks
    parts: dict[str, Mapping[str, int]] = {
        task: model.spec.parts[JOINT] for task, model in zip(tasks, separate[0], strict=True)
    }
    spec = Spec(
        name=JOINT,
        kind="progressive",
        tasks=tasks,
        parts=parts,
        schema=setups[0].dataset.schema,
        targets=strategy.head.targets,
    )
    heads: dict[str, Head] = {
        task: stack_heads([models[place].module for models in separate]) for place, task in enumerate(tasks)
    }
    module = ProgressiveHead.from_separate(heads)
    fitted = _train(setups, spec, module, count_start=True, frozen_steps=strategy.train.frozen_steps)
    found: list[ModelsOrError] = []
    for one, models in zip(fitted, separate, strict=True):
        history = tuple(evaluation for model in models for evaluation in model.history)
        found.append(one if isinstance(one, ValueError) else [dataclasses.replace(one, history=history + one.history)])
    return found


def build_model(spec: Spec, strategies: Sequence[Strategy]) -> nn.Module:
    """The heads of `spec`, one per strategy, as they are before training: the same for the same seed."""
    return KINDS[spec.kind](spec, strategies)


def _listed(one: TrainedModel | ValueError) -> ModelsOrError:
    return one if isinstance(one, ValueError) else [one]


def _joined(models: Sequence[TrainedModel | ValueError]) -> ModelsOrError:
    """All of them, or the first failure."""
    whole = [model for model in models if not isinstance(model, ValueError)]
    return whole if len(whole) == len(models) else next(model for model in models if isinstance(model, ValueError))


def train_heads(setups: Sequence[Setup], name: str, title: str = "") -> list[TrainedModel | ValueError]:
    """The model `name` of each strategy, under the name `title` where one is given."""
    setups = [dataclasses.replace(setup, strategy=setup.strategy.model(name)) for setup in setups]
    first, head, views = setups[0], setups[0].strategy.head, setups[0].strategy.train.views[:1]
    reader = first.dataset.reader(first.streams[name], first.used, head, views)
    spec = Spec(
        name=title or name,
        kind="head",
        tasks=head.tasks,
        parts={JOINT: reader.widths},
        schema=first.dataset.schema,
        targets=head.targets,
    )
    return _train(setups, spec, build_model(spec, [setup.strategy for setup in setups]))


def _train(
    setups: Sequence[Setup], spec: Spec, module: nn.Module, *, count_start: bool = False, frozen_steps: int = 0
) -> list[TrainedModel | ValueError]:
    dataset = setups[0].dataset
    device = dataset.resident.device
    fitted = fit(
        module.to(device),
        make_loss(setups, spec.tasks, module).to(device),
        _members(setups, spec),
        count_start=count_start,
        frozen_steps=frozen_steps,
        halving=setups[0].halving,
        checkpoint=setups[0].checkpoint,
        num_steps=None if setups[0].num_steps is None else setups[0].num_steps[spec.name],
    )
    return [
        one if isinstance(one, ValueError) else _trained(spec, setup.strategy, one, device)
        for setup, one in zip(setups, fitted, strict=True)
    ]


def _members(setups: Sequence[Setup], spec: Spec) -> list[StackMember]:
    """Setups with the same split and labels share their source's masks and their plan."""
    sources: dict[tuple[int, int], WindowSource] = {}
    members = []
    for setup in setups:
        config, dataset = setup.strategy.train, setup.dataset
        if setup.rows_and_labels not in sources:
            reader = dataset.reader(spec.streams, setup.used, setup.strategy.head, config.views)
            sources[setup.rows_and_labels] = make_window_source(
                dataset, reader, setup.split.train, spec.tasks, config, spec.predicted, setup.taught
            )
        members.append(
            StackMember(
                source=dataclasses.replace(sources[setup.rows_and_labels], config=config),
                plan=dataset.plan(setup.split.select, config, setup.used, overlapping=False),
                name=spec.name,
                best=BestEpoch(Evaluation, dataset.schema, takes_last=setup.num_steps is not None),
                arm=setup.strategy.arm,
                on_evaluation=setup.on_evaluation,
                should_stop=setup.should_stop,
            )
        )
    return members


def _trained(spec: Spec, strategy: Strategy, fitted: FitResult[Evaluation], device: torch.device) -> TrainedModel:
    """The single head, with the weights of its best evaluation."""
    module = build_model(spec, [strategy]).to(device)
    load_single(module, fitted.state)
    return TrainedModel(
        spec=spec,
        module=module.eval(),
        step=fitted.best.step,
        history=fitted.history,
        halted=fitted.halted,
    )


def _build_head(spec: Spec, strategies: Sequence[Strategy]) -> nn.Module:
    config = dataclasses.replace(strategies[0].model(spec.name).head, tasks=spec.tasks, targets=spec.targets)
    return build_head(config, spec.parts[JOINT], *_seeds_and_rates(strategies), tasks_of(spec.schema))


def _build_progressive(spec: Spec, strategies: Sequence[Strategy]) -> nn.Module:
    parts: dict[str, Mapping[str, int]] = {task: spec.parts[task] for task in spec.tasks}
    configs = {task: strategies[0].model(task).head for task in spec.tasks}
    return build_progressive(configs, parts, *_seeds_and_rates(strategies), tasks_of(spec.schema))


def _build_linear(spec: Spec, strategies: Sequence[Strategy]) -> nn.Module:
    return LinearHead(spec.tasks, *next(iter(spec.parts[JOINT].items())), tasks_of(spec.schema))


def _seeds_and_rates(strategies: Sequence[Strategy]) -> tuple[list[int], list[float]]:
    return [one.train.seed for one in strategies], [one.head.dropout for one in strategies]


KINDS: dict[str, Callable[[Spec, Sequence[Strategy]], nn.Module]] = {
    "head": _build_head,
    "progressive": _build_progressive,
    "linear": _build_linear,  # a fine-tuned backbone's own outputs
}
METHODS: dict[str, Callable[[Sequence[Setup]], list[ModelsOrError]]] = {
    "separate": train_separate,
    "joint": train_joint,
    "progressive": train_progressive,
}
