"""Small pieces shared by fusions, temporal encoders and the assembled head.

Letters: B windows, T steps, D width.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Entry = TypeVar("Entry")


class WindowDropout(nn.Module):
    """Dropout of [B, T, D] with one mask a window, shared by its steps (Gal and Ghahramani, NeurIPS 2016).

    A temporal encoder cannot average such noise away over neighbouring steps, and drawing it takes 1/T of the time:
    noise a step was a fifth of a training step on a CPU.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return x * functional.dropout(torch.ones_like(x[:, :1]), self.rate)


class Perceptron(nn.Module):
    """[B, T, D] -> [B, T, D] through a hidden layer of 2 D; each step by itself."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.rise = nn.Linear(width, 2 * width)
        self.fall = nn.Linear(2 * width, width)
        self.dropout = WindowDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(self.dropout(functional.gelu(self.rise(x))))


def mask_steps(x: Tensor, valid: Tensor) -> Tensor:
    """`x` [B, T, D] with zeros at invalid steps of `valid` [B, T], whatever stood there (NaN too).

    A product with the mask would not do: NaN times 0 is NaN, in the gradient as well.
    """
    return x.masked_fill(~valid.unsqueeze(-1), 0.0)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter anew, in the order of `named_parameters`, from `generator` alone.

    Biases become 0, gains (vectors named weight) 1, and matrices uniform within ±1/sqrt(columns), torch's own rule for
    `nn.Linear`. An LSTM's forget gates therefore start half open.
    """
    for name, parameter in module.named_parameters():
        if "bias" in name.rpartition(".")[2]:
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            bound = parameter.shape[-1] ** -0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)


def look_up(registry: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry `name`, or a `ValueError` that lists the known ones."""
    if name not in registry:
        raise ValueError(f"{kind}: unknown name {name!r}; known: {', '.join(registry)}")
    return registry[name]
