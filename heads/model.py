"""The assembled model: fusion, temporal encoder, one output per task; alone (`Head`) or joined (`ProgressiveHead`).

Both are M heads of one shape, trained at once; one head is a stack of one. Both are called
`model(streams, valid, times) -> {task: [M, B, T, K]}` with streams {name: [M, B, T, Di]}, valid [M, B, T] bool and
times [M, B, T] int64 (real frame numbers); what all heads share has a leading 1 in place of M.

A head's parameters depend on (config, stream_widths, seed) alone, are drawn on the CPU from a generator of their own,
and its dropout on the seed and the number of steps (`DropoutRng.advance`): neighbours in a stack never matter, and
torch's global generator is left alone. Letters: M stacked heads, B windows, T steps, D width, K outputs of a task.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from heads.config import HeadConfig, head_problem
from heads.fusion import build_fusion
from heads.latent import Features
from heads.layers import DropoutRng, Linear, initialise, join_dropout_rngs
from heads.outputs import Outputs
from heads.tasks import ABAW_TASKS, Task, find_task
from heads.temporal import build_temporal

JOINT = "joint"  # what the trunk of a `Head` is called among features


class Head(nn.Module):
    """M heads of one shape: a trunk (fusion, temporal encoder), a latent if asked for, an output per task."""

    def __init__(
        self, config: HeadConfig, stream_widths: Mapping[str, int], rng: DropoutRng, tasks: Mapping[str, Task]
    ) -> None:
        super().__init__()
        check(config, stream_widths)
        self.config, self.rng = config, rng
        self.fusion = build_fusion(config.fusion, stream_widths, config, rng)
        self.temporal = build_temporal(config.temporal, config, rng)
        self.outputs = Outputs(config, {name: find_task(tasks, name) for name in config.tasks}, rng)

    def trunk(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
        """[M, B, T, D]: fusion and temporal encoder; 0 at invalid steps."""
        return self.temporal(self.fusion(streams, valid, times), valid, times)

    @property
    def trunk_widths(self) -> dict[str, int]:
        """D of each of its trunks among `features`."""
        return {JOINT: self.config.width}

    def features(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Features:
        """Everything before the outputs; `decode` does the rest."""
        x = self.trunk(streams, valid, times)
        return Features({JOINT: x}, {JOINT: self.outputs.posterior(x)}, valid, times)

    def decode(self, features: Features) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], self.outputs(features.trunks[JOINT], features.posteriors[JOINT]))

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> dict[str, Tensor]:
        return self.decode(self.features(streams, valid, times))


class ProgressiveHead(nn.Module):
    """Heads of one task each, joined: every trunk stays and passes features to the others before the outputs.

    The exchange, a linear map from the other trunks to each, starts at zero: until the first step the joined head
    predicts exactly what the separate heads predict.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        super().__init__()
        widths = {task: head.config.width for task, head in heads.items()}
        num_heads = next(iter(heads.values())).rng.num_heads
        self.heads = nn.ModuleDict(dict(heads))
        self.exchange = nn.ModuleDict(
            {
                task: Linear(num_heads, sum(widths.values()) - width, width)
                for task, width in widths.items()
                if len(widths) > 1
            }
        )
        for parameter in self.exchange.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def from_separate(cls, heads: Mapping[str, Head]) -> "ProgressiveHead":
        """Joins copies of `heads`, {task: a head with that task}; the heads themselves stay as they are."""
        for task, head in heads.items():
            assert head.config.tasks == (task,), f"head {task!r} has the outputs {head.config.tasks}"
        joined = cls({task: copy.deepcopy(head) for task, head in heads.items()})
        for index, rng in enumerate(dropout_rngs(joined)):
            rng.reseed(index)
        return joined

    @property
    def trunk_parameters(self) -> list[nn.Parameter]:
        """Those that stand still while trunks are frozen; outputs and exchange always learn."""
        heads = (cast(Head, head) for head in self.heads.values())
        parts = (part for head in heads for part in (head.fusion, head.temporal))
        return [parameter for part in parts for parameter in part.parameters()]

    def set_trunks_frozen(self, frozen: bool) -> None:
        for parameter in self.trunk_parameters:
            parameter.requires_grad_(not frozen)

    @property
    def trunk_widths(self) -> dict[str, int]:
        """D of each of its trunks among `features`."""
        return {task: head.config.width for task, head in self._heads.items()}

    def features(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Features:
        """Every trunk after the exchange, by task."""
        heads = self._heads
        trunks = {task: head.trunk(streams, valid, times) for task, head in heads.items()}
        exchanged = {task: self._exchanged(task, trunks) for task in heads}
        posteriors = {task: head.outputs.posterior(exchanged[task]) for task, head in heads.items()}
        return Features(exchanged, posteriors, valid, times)

    def decode(self, features: Features) -> dict[str, Tensor]:
        trunks, posteriors = features.trunks, features.posteriors
        return {task: head.outputs(trunks[task], posteriors[task])[task] for task, head in self._heads.items()}

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> dict[str, Tensor]:
        return self.decode(self.features(streams, valid, times))

    @property
    def _heads(self) -> dict[str, Head]:
        return {task: cast(Head, head) for task, head in self.heads.items()}

    def _exchanged(self, task: str, trunks: Mapping[str, Tensor]) -> Tensor:
        if task not in self.exchange:
            return trunks[task]
        others = torch.cat([x for other, x in trunks.items() if other != task], dim=-1)
        return trunks[task] + self.exchange[task](others)


def build_head(
    config: HeadConfig,
    stream_widths: Mapping[str, int],
    seeds: Sequence[int] = (0,),
    rates: Sequence[float] = (),
    tasks: Mapping[str, Task] = ABAW_TASKS,
) -> Head:
    """len(seeds) heads on the CPU for streams {name: Di}; the same seed gives the same parameters in any stack.

    Args:
        config: the shape of all; its `dropout` is that of all where no `rates` are given.
        stream_widths: Di of each stream.
        seeds: one per head, for its parameters and its dropout.
        rates: dropout of each head.
        tasks: what the names in `config.tasks` mean.

    Raises:
        ValueError: an unknown name, or sizes that do not go together.
    """
    head = Head(config, stream_widths, DropoutRng(seeds, rates or [config.dropout] * len(seeds)), tasks)
    initialise(head, [torch.Generator().manual_seed(seed) for seed in seeds])
    return head


def build_progressive(
    configs: Mapping[str, HeadConfig],
    stream_widths: Mapping[str, Mapping[str, int]],
    seeds: Sequence[int] = (0,),
    rates: Sequence[float] = (),
    tasks: Mapping[str, Task] = ABAW_TASKS,
) -> ProgressiveHead:
    """Joined heads for {task: {stream: Di}}, to load a state dict into; `configs` are those of the separate heads."""
    return ProgressiveHead(
        {task: build_head(configs[task], widths, seeds, rates, tasks) for task, widths in stream_widths.items()}
    )


def dropout_rngs(model: nn.Module) -> list[DropoutRng]:
    """The dropout generator of every head in `model`, each once."""
    return list(dict.fromkeys(part.rng for part in model.modules() if isinstance(part, Head)))


def take_heads(model: nn.Module, chosen: Sequence[int]) -> nn.Module:
    """A model of some of the heads of `model`, in this order, that continues exactly as they would have."""
    index = torch.tensor(list(chosen))
    memo: dict[int, Any] = {id(rng): rng.select(index) for rng in dropout_rngs(model)}
    for parameter in model.parameters():
        taken = parameter.detach()[index.to(parameter.device)].clone()
        memo[id(parameter)] = nn.Parameter(taken, requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


def stack_heads(models: Sequence[nn.Module]) -> Head:
    """One model of all the heads of `models`, which have one shape and one head each; copies."""
    first = models[0]
    rngs = [rng for model in models for rng in dropout_rngs(model)]
    memo: dict[int, Any] = {id(dropout_rngs(first)[0]): join_dropout_rngs(rngs)}
    for parameter, *others in zip(*(model.parameters() for model in models), strict=True):
        memo[id(parameter)] = nn.Parameter(torch.cat([parameter.detach(), *(each.detach() for each in others)]))
    stacked = copy.deepcopy(first, memo)
    assert isinstance(stacked, Head)
    return stacked


def single_state(model: nn.Module, head: int) -> dict[str, Tensor]:
    """The state of one head as an ordinary state dict, without the leading M; copied."""
    return {name: value.detach()[head].clone() for name, value in model.state_dict().items()}


def load_single(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads what `single_state` gave into a model of one head.

    Raises:
        RuntimeError: names or shapes are of another head.
    """
    model.load_state_dict({name: value.unsqueeze(0) for name, value in state.items()})


def check(config: HeadConfig, stream_widths: Mapping[str, int]) -> None:
    """Sizes and choices that go together, or a `ValueError` of one line."""
    if not stream_widths:
        raise ValueError("head: no stream to read; name at least one")
    if problem := head_problem(config):
        raise ValueError(f"head: {problem}")
