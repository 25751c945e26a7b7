"""Which strategies train as one stack: those whose heads have one shape, in stacks that fit the device's memory.

Seed, fold, rates, dropout and the numbers in the losses may differ inside a stack; what decides the shape of a tensor,
the kind of a loss or the number of steps may not. M stacked heads, B windows, T steps, D width.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from heads import losses, penalties
from heads.config import HeadConfig
from pipelines.config import Config
from pipelines.device import free_bytes
from pipelines.strategy import JOINT, Strategy, streams_of
from pipelines.training.budget import MOST_BATCH
from pipelines.training.inputs import input_width

Item = TypeVar("Item")

# Fields that a stack's heads need not share.
FREE_HEAD = ("dropout", "streams")  # streams count by what they resolve to
TAUGHT = ("class_confidence", "binary_confidence", "agreed_share")
FREE_TRAIN = ("seed", "fold", "lr", "weight_decay", "warmup_steps", "schedule", "grad_clip", "patience", *TAUGHT)
# All of the losses that is not in `losses.kinds_of`.
FREE_LOSS = (*losses.NUMBERS, *penalties.NUMBERS, "class_weights", "positive_weights", "task_weights")
# On a CPU stacks of 8 give 0.98 to 1.07 times the heads per second of one, in bfloat16 1.1 to 1.5.
MOST = {"cpu": 8, "cuda": 256}
CPU_BYTES = 2 * 2**30
SHARE_OF_MEMORY = 0.5
# Numbers kept for the backward pass per step and unit of width, per block and in all: 1.5 times what was counted on
# the encoders, of which most keep 6 to 16 per block.
KEPT_A_BLOCK, KEPT_BESIDES, BYTES = 24, 32, 4
KEPT_BY = {"ssm": 40}
KEPT_OF_LATENT = 10  # per unit of its width


def stack_key(strategy: Strategy, config: Config) -> str:
    """Equal for strategies that can train as one stack."""
    models = [_shape(strategy.model(name)) for name in strategy.models]
    return json.dumps({"streams": streams_of(strategy, config), "models": models}, sort_keys=True)


def _shape(strategy: Strategy) -> dict[str, Any]:
    parts: dict[str, Any] = {"loss": losses.kinds_of(strategy.loss)}
    for name, free in (("head", FREE_HEAD), ("train", FREE_TRAIN)):
        section = getattr(strategy, name)
        parts[name] = {key: getattr(section, key) for key in section.__dataclass_fields__ if key not in free}
    return parts


def in_stacks(
    items: Sequence[tuple[Strategy, Item]],
    config: Config,
    widths: dict[str, int],
    device: torch.device,
    *,
    share: float = 1.0,
) -> list[list[tuple[Strategy, Item]]]:
    """`items` in stacks, in the order in which the first of each comes; heads that share data stand together.

    Args:
        items: strategies and whatever belongs to them.
        config: names the backbones.
        widths: of every stream, D.
        device: what they train on.
        share: of the device's memory that is this process's.
    """
    groups: dict[str, list[tuple[Strategy, Item]]] = {}
    for item in items:
        groups.setdefault(stack_key(item[0], config), []).append(item)
    stacks = []
    for members in groups.values():
        members.sort(key=lambda item: (item[0].train.fold, item[0].train.seed))
        size = stack_size(members[0][0], config, widths, device, share)
        # Of even size: a last stack of one or two would gain nothing.
        num = -(-len(members) // size)
        bounds = [len(members) * index // num for index in range(num + 1)]
        stacks += [members[start:stop] for start, stop in itertools.pairwise(bounds)]
    return stacks


def stack_size(
    strategy: Strategy, config: Config, widths: dict[str, int], device: torch.device, share: float = 1.0
) -> int:
    """Most heads of this shape at once: what fits in the memory at hand, at least 1."""
    free = CPU_BYTES
    if device.type == "cuda":
        free = int(share * SHARE_OF_MEMORY * free_bytes(device))
    return max(1, min(MOST.get(device.type, MOST["cpu"]), free // head_bytes(strategy, config, widths)))


def head_bytes(strategy: Strategy, config: Config, widths: dict[str, int]) -> int:
    """About what one more head of a stack takes in training: its own windows of every stream, and what is kept for the
    backward pass, where it takes most: its models are trained one after the other."""
    streams = {name for names in streams_of(strategy, config).values() for name in names}
    inputs = 3 * sum(
        input_width(widths[name], strategy.head.inputs) for name in streams
    )  # gathered, normalised, and its half-precision copy
    found = []
    for name in strategy.models:
        train = strategy.model(name).train
        steps = (train.batch_windows or MOST_BATCH) * train.window
        trunks = strategy.head.tasks if (name, train.method) == (JOINT, "progressive") else (name,)
        heads = [strategy.model(trunk).head for trunk in trunks]
        kept = sum(_kept(head, len(streams)) for head in heads)
        found.append(BYTES * steps * (inputs + kept))
    return max(found)


def _kept(head: HeadConfig, num_streams: int) -> int:
    """Numbers kept per step for the backward pass."""
    blocks = KEPT_BY.get(head.temporal, KEPT_A_BLOCK) * head.num_blocks
    num_tasks = len(head.tasks)
    coupled = 3 * num_tasks * (num_tasks + 2) // 2 if head.coupling == "gated" else 0
    return head.width * (blocks + KEPT_BESIDES + 4 * num_streams + coupled) + KEPT_OF_LATENT * head.latent
