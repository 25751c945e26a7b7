"""The assembled model: fusion, temporal encoder, one output a task; alone (`Head`) or joined (`ProgressiveHead`).

Both are called `model(streams, valid, times) -> {task: [B, T, K]}` with streams {name: [B, T, Di]}, valid [B, T] bool
and times [B, T] int64 (real frame numbers).

Initialisation: parameters depend on (config, stream_widths, seed) alone, are drawn on the CPU from a generator of their
own, and leave torch's global generator as it was. Dropout noise comes from torch's global generator, which the caller
seeds. Letters: B windows, T steps, D width, K outputs of a task.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from heads.config import HeadConfig, Task
from heads.fusion import build_fusion
from heads.layers import initialise
from heads.tasks import build_output
from heads.temporal import build_temporal


class Head(nn.Module):
    """One trunk (fusion, temporal encoder) and an output for each of `config.tasks`."""

    def __init__(self, config: HeadConfig, stream_widths: Mapping[str, int]) -> None:
        super().__init__()
        check(config, stream_widths)
        self.config = config
        self.fusion = build_fusion(config.fusion, stream_widths, config)
        self.temporal = build_temporal(config.temporal, config)
        self.outputs = nn.ModuleDict({task: build_output(task, config.width) for task in config.tasks})

    def trunk(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
        """[B, T, D]: everything before the outputs; 0 at invalid steps."""
        return self.temporal(self.fusion(streams, valid), valid, times)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> dict[str, Tensor]:
        x = self.trunk(streams, valid, times)
        return {task: output(x) for task, output in self.outputs.items()}


class ProgressiveHead(nn.Module):
    """Heads trained a task each, joined: every trunk stays and lends to the others before the outputs.

    The exchange, a linear map from the other trunks to each, starts at zero: until the first step the joined head
    predicts exactly what the separate heads predict.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        super().__init__()
        widths = {task: head.config.width for task, head in heads.items()}
        self.heads = nn.ModuleDict(dict(heads))
        self.exchange = nn.ModuleDict(
            {task: nn.Linear(sum(widths.values()) - width, width) for task, width in widths.items() if len(widths) > 1}
        )
        for parameter in self.exchange.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def from_separate(cls, heads: Mapping[str, Head]) -> "ProgressiveHead":
        """Joins copies of `heads`, {task: a head with that task}; the heads themselves stay as they are."""
        for task, head in heads.items():
            assert set(head.outputs) == {task}, f"head {task!r} has the outputs {list(head.outputs)}"
        with torch.random.fork_rng(devices=[]):
            return cls({task: copy.deepcopy(head) for task, head in heads.items()})

    def set_trunks_frozen(self, frozen: bool) -> None:
        """Frozen trunks get no gradient; outputs and exchange always learn."""
        for head in self.heads.values():
            for part in (head.fusion, head.temporal):
                part.requires_grad_(not frozen)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> dict[str, Tensor]:
        heads = {task: cast(Head, head) for task, head in self.heads.items()}
        trunks = {task: head.trunk(streams, valid, times) for task, head in heads.items()}
        return {task: head.outputs[task](self._exchanged(task, trunks)) for task, head in heads.items()}

    def _exchanged(self, task: str, trunks: Mapping[str, Tensor]) -> Tensor:
        if task not in self.exchange:
            return trunks[task]
        others = torch.cat([x for other, x in trunks.items() if other != task], dim=-1)
        return trunks[task] + self.exchange[task](others)


def build_head(config: HeadConfig, stream_widths: Mapping[str, int], seed: int | torch.Generator = 0) -> Head:
    """A head on the CPU for streams {name: Di}; the same seed gives the same parameters.

    Raises:
        ValueError: an unknown name, or sizes that do not go together.
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    # Torch's own draws are thrown away. Building on the device "meta" would spare them, but imports torch's compiler:
    # 5 s of CPU time, longer than many a head trains.
    with torch.random.fork_rng(devices=[]):
        head = Head(config, stream_widths)
    initialise(head, generator)
    return head


def build_progressive(
    config: HeadConfig, stream_widths: Mapping[str, Mapping[str, int]], seed: int | torch.Generator = 0
) -> ProgressiveHead:
    """A joined head for {task: {stream: Di}}, to load a state dict into; `config` is that of the separate heads."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    configs = {task: replace(config, tasks=(cast(Task, task),)) for task in stream_widths}
    with torch.random.fork_rng(devices=[]):
        return ProgressiveHead(
            {task: build_head(configs[task], widths, generator) for task, widths in stream_widths.items()}
        )


def check(config: HeadConfig, stream_widths: Mapping[str, int]) -> None:
    """Sizes and choices that go together, or a `ValueError` of one line."""
    width, num_heads = config.width, config.num_heads
    if not stream_widths:
        raise ValueError("head: no stream to read; name at least one")
    if not config.tasks or len(set(config.tasks)) != len(config.tasks):
        raise ValueError(f"head: tasks = {list(config.tasks)}: name at least one task, each once")
    if min(width, config.depth, num_heads) < 1:
        raise ValueError(f"head: width {width}, depth {config.depth} and num_heads {num_heads} must be at least 1")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"head: dropout {config.dropout} must be at least 0 and below 1")
    if config.fusion == "attention" and width % num_heads:
        raise ValueError(f"head: attention fusion: width {width} is not divisible by num_heads {num_heads}")
    if config.temporal == "transformer" and width % (2 * num_heads):
        raise ValueError(f"head: transformer: width {width} is not divisible by 2 x num_heads {num_heads}")
    if config.temporal == "tcn" and (config.kernel < 1 or config.kernel % 2 == 0):
        raise ValueError(f"head: tcn: kernel {config.kernel} must be odd, for as many steps before as after")
