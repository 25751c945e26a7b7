"""What the stacks of a search need in memory beside the streams: computed from their shapes, nothing is trained.

Parameters are counted on a head that is built for it; batches and activations are the estimate by which stacks are cut
(`pipelines.training.packing.head_bytes`). The peaks of six stacks on a CPU were 0.7 to 1.0 of what is said here.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heads.model import build_head, build_progressive
from pipelines.config import Config
from pipelines.labels import tasks_of
from pipelines.search.estimate import encoders
from pipelines.search.study import Trial
from pipelines.strategy import Strategy, streams_of
from pipelines.task_fields import split_field
from pipelines.training.inputs import input_width
from pipelines.training.packing import FREE_HEAD, FREE_LOSS, FREE_TRAIN, head_bytes, stack_key
from pipelines.words import strategy_words

HOW = "weights counted, the rest estimated from the shapes, not measured"
FLOAT32_BYTES = 4
KEPT_TRAINING = 5  # a weight in training, its gradient, AdamW's two moments, and the best evaluation's copy


@dataclass(frozen=True, slots=True, kw_only=True)
class StackMemory:
    """Stacks of one shape: how many, of how many trials the largest is, and what that one needs."""

    strategy: str
    temporal: str
    method: str
    num_stacks: int
    num_trials: int
    weights_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {**dataclasses.asdict(self), "bytes": self.total_bytes}


def stack_memory(
    stacks: Sequence[Sequence[Trial]], config: Config, widths: dict[str, int], fields: Sequence[str]
) -> list[StackMemory]:
    """An entry a shape, the largest need first; `fields` are those in which the trials may differ."""
    shapes: dict[str, list[Sequence[Trial]]] = {}
    for stack in stacks:
        shapes.setdefault(stack_key(stack[0].strategy, config), []).append(stack)
    free = {*FREE_HEAD, *FREE_TRAIN, *FREE_LOSS} - {"streams"}
    told = [name for name in fields if split_field(name)[1] not in free]
    found = []
    for same in shapes.values():
        strategy, most = same[0][0].strategy, max(map(len, same))
        found.append(
            StackMemory(
                strategy=strategy_words(strategy.flat(), told),
                temporal=encoders(strategy),
                method=strategy.train.method,
                num_stacks=len(same),
                num_trials=most,
                weights_bytes=most * weights_bytes(strategy, config, widths),
                activation_bytes=most * head_bytes(strategy, config, widths),
            )
        )
    return sorted(found, key=lambda one: -one.total_bytes)


def weights_bytes(strategy: Strategy, config: Config, widths: dict[str, int]) -> int:
    """What the parameters of one head of a stack take in training: with gradients, moments and the best copy.

    Separate models are trained one after the other: the largest so, the others as weights alone. The joint part of a
    progressive strategy holds all trunks at once.
    """
    streams = {
        name: {used: input_width(widths[used], strategy.head.inputs) for used in names}
        for name, names in streams_of(strategy, config).items()
    }
    tasks, heads = tasks_of(config.schema), {name: strategy.model(name).head for name in streams}
    if strategy.train.method == "progressive":
        counts = [_count(build_progressive(heads, streams, tasks=tasks))]
    else:
        counts = [_count(build_head(heads[name], used, tasks=tasks)) for name, used in streams.items()]
    return FLOAT32_BYTES * (KEPT_TRAINING * max(counts) + sum(counts) - max(counts))


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
