"""The layers of a timm model in order, as timm numbers them for layer-wise learning rates and for freezing."""

from collections.abc import Callable, Iterable

import timm.optim
from timm.models import group_parameters
from torch import nn


def layer_ids(module: nn.Module) -> dict[str, int]:
    """The layer of each parameter of a headless `module`, by name: 0 takes the pixels, and every number is used.

    They are the numbers that `timm.optim.param_groups_layer_decay` gives: a block is a layer, the stem is the first
    one, and what comes after the blocks (a norm, a pooling by attention, a fully connected layer) is the last one or
    belongs to the last block, as the model's own `group_matcher` says. Adapters inside a block are of that block. An
    output put on top of the module is layer `num_layers(module)`.
    """
    matcher = getattr(module, "group_matcher", None)
    if matcher is None:  # every twelve parameters are a layer
        return {name: int(layer) for name, layer in timm.optim.auto_group_layers(module).items()}
    return group_parameters(module, matcher(coarse=False), reverse=True)


def num_layers(module: nn.Module) -> int:
    """How many layers `layer_ids` tells apart."""
    return max(layer_ids(module).values(), default=-1) + 1


def block_names(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The parameters of each block, from the input side; a norm that stands alone belongs to the block before it."""
    parameters = dict(module.named_parameters())
    layers: list[list[str]] = [[] for _ in range(num_layers(module))]
    for name, layer in layer_ids(module).items():
        layers[layer].append(name)
    blocks: list[list[str]] = []
    for names in layers:
        if blocks and all(parameters[name].ndim < 2 for name in names):
            blocks[-1] += names
        else:
            blocks.append(names)
    return tuple(map(tuple, blocks))


def undecayed(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that timm keeps from weight decay beside vectors: positions, class tokens, ..."""
    tell: Callable[[], Iterable[str]] | None = getattr(module, "no_weight_decay", None)
    return frozenset(tell() if tell is not None else ())
