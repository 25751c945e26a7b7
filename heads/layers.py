"""Small pieces shared by fusions, temporal encoders and the assembled head, each for M stacked heads at once.

Every parameter has a leading M: slice m of each is head m, and no slice ever sees another. A tensor that is the same
for all heads, such as the streams, may have a leading 1 instead. Letters: M stacked heads, B windows, T steps, D width.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Entry = TypeVar("Entry")
# Multipliers of a 32-bit integer hash of full avalanche, found by search (C. Wellons, "hash-prospector", 2018).
FIRST, SECOND, LOW = 0x7FEB352D, 0x846CA68B, 0xFFFFFFFF


class Linear(nn.Module):
    """M linear maps: [M, ..., I] or [1, ..., I] -> [M, ..., K]."""

    def __init__(self, num_heads: int, num_inputs: int, num_outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, num_outputs, num_inputs))
        self.bias = nn.Parameter(torch.empty(num_heads, num_outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` [M or 1, ..., I], `weight` [M, K, I], `bias` [M, K] -> [M, ..., K]."""
    if len(weight) == 1:
        return functional.linear(x, weight.squeeze(0), None if bias is None else bias.squeeze(0))
    rows = x.flatten(1, -2).expand(len(weight), -1, -1)
    columns = weight.transpose(1, 2)
    y = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, columns)
    return y.unflatten(1, x.shape[1:-1])


class Norm(nn.Module):
    """M layer norms with gain and bias over the last dimension of [M, ..., D]."""

    def __init__(self, num_heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, width))
        self.bias = nn.Parameter(torch.empty(num_heads, width))

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1:]
        if len(self.weight) == 1:
            return functional.layer_norm(x, width, self.weight.squeeze(0), self.bias.squeeze(0))
        return torch.addcmul(by_head(self.bias, x), functional.layer_norm(x, width), by_head(self.weight, x))


class DropoutRng:
    """Dropout masks of M heads, each drawn from its own seed, step and layer alone: its neighbours never matter.

    A hash instead of a generator: the same numbers on every device, and a CUDA graph draws anew at each replay. It is
    shared by all the layers of a model, each of which takes one `layer_id`.
    """

    def __init__(self, seeds: Sequence[int], rates: Sequence[float]) -> None:
        assert len(seeds) == len(rates), (seeds, rates)
        self.num_heads = len(seeds)
        self.num_layers = 0
        self.first_window = 0  # of what is given to the model, where that is a part of a batch
        self.is_off = not any(rates)
        self._seeds = torch.tensor([seed & LOW for seed in seeds])
        self._rates = torch.tensor(list(rates), dtype=torch.float64)
        self.steps = torch.zeros(len(seeds), dtype=torch.int64)

    def layer_id(self) -> int:
        """A new id, one per layer that draws."""
        self.num_layers += 1
        return self.num_layers

    def advance(self, active: Tensor | None = None) -> None:
        """To be called before each training step, with the heads [M] bool that take part; without it the masks stay."""
        self.steps += 1 if active is None else active.to(self.steps)

    def reseed(self, index: int) -> None:
        """Changes the seeds by `index`, so that models with the same seeds do not drop the same units."""
        self._seeds = _hash(self._seeds + index * FIRST) if index else self._seeds

    def select(self, heads: Tensor) -> "DropoutRng":
        """The generator of some of the heads, in the state of this one."""
        other = DropoutRng([0] * len(heads), [0.0] * len(heads))
        where = heads.to(self._seeds.device)
        other._seeds, other._rates, other.steps = self._seeds[where], self._rates[where], self.steps[where]
        other.num_layers, other.is_off = self.num_layers, self.is_off
        return other

    def to(self, device: torch.device) -> None:
        self._seeds, self._rates, self.steps = (each.to(device) for each in (self._seeds, self._rates, self.steps))

    def mask(self, layer_id: int, num_windows: int, width: int) -> Tensor:
        """[M, B, 1, D]: 0 with the head's rate, else 1 / (1 - rate)."""
        first = self.first_window * width
        index = torch.arange(first, first + num_windows * width, device=self._seeds.device)
        bits = _hash(index + self._key(layer_id).unsqueeze(1))
        kept = (bits.double() >= self._rates.unsqueeze(1) * 2**32) / (1 - self._rates).unsqueeze(1)
        return kept.float().view(self.num_heads, num_windows, 1, width)

    def normal(self, layer_id: int, num_windows: int, num_steps: int, width: int) -> Tensor:
        """[M, B, T, D] standard normal noise; that of a step does not depend on how many steps follow it."""
        device = self._seeds.device
        places = torch.arange(self.first_window, self.first_window + num_windows, device=device)
        windows = _hash(places + self._key(layer_id).unsqueeze(1))
        index = _hash(torch.arange(num_steps * width, device=device))
        share = (_hash(index + windows.unsqueeze(2)).double() + 0.5) / 2**32
        noise = 2**0.5 * torch.erfinv(2 * share - 1)
        return noise.float().view(self.num_heads, num_windows, num_steps, width)

    def _key(self, layer_id: int) -> Tensor:
        """[M]: of a layer at the current step."""
        return _hash(_hash(self._seeds + layer_id * 0x9E3779B9) + self.steps * 0x85EBCA6B)


def join_dropout_rngs(rngs: Sequence[DropoutRng]) -> DropoutRng:
    """One generator for all their heads, concatenated."""
    joined = copy.copy(rngs[0])
    joined.num_heads = sum(rng.num_heads for rng in rngs)
    joined.is_off = all(rng.is_off for rng in rngs)
    for name in ("_seeds", "_rates", "steps"):
        setattr(joined, name, torch.cat([getattr(rng, name) for rng in rngs]))
    return joined


def _hash(x: Tensor) -> Tensor:
    """Of int64, whose lower 32 bits count, to int64 in [0, 2^32)."""
    x = x & LOW
    x = ((x ^ (x >> 16)) * FIRST) & LOW
    x = ((x ^ (x >> 15)) * SECOND) & LOW
    return x ^ (x >> 16)


class WindowDropout(nn.Module):
    """Dropout of [M, B, T, D] with one mask per window, shared by its steps (Gal and Ghahramani, NeurIPS 2016).

    A temporal encoder cannot average such noise away over neighbouring steps, and drawing it takes 1/T of the time:
    one mask per step took a fifth of a training step on a CPU.
    """

    def __init__(self, rng: DropoutRng) -> None:
        super().__init__()
        self.rng, self.layer_id = rng, rng.layer_id()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rng.is_off:
            return x
        return x * self.rng.mask(self.layer_id, x.shape[1], x.shape[-1])


class Perceptron(nn.Module):
    """[M, B, T, D] -> [M, B, T, D] through a hidden layer of 2 D; each step by itself."""

    def __init__(self, width: int, rng: DropoutRng) -> None:
        super().__init__()
        self.rise = Linear(rng.num_heads, width, 2 * width)
        self.fall = Linear(rng.num_heads, 2 * width, width)
        self.dropout = WindowDropout(rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(self.dropout(functional.gelu(self.rise(x))))


def by_head(values: Tensor, x: Tensor) -> Tensor:
    """`values` [M, D] shaped to go with `x` [M, ..., D]."""
    return values.view(len(values), *[1] * (x.ndim - 2), -1)


def mask_steps(x: Tensor, valid: Tensor) -> Tensor:
    """`x` [M, B, T, D] with zeros at invalid steps of `valid` [M, B, T], whatever stood there (NaN too).

    A product with the mask would not do: NaN times 0 is NaN, in the gradient as well.
    """
    return x.masked_fill(~valid.unsqueeze(-1), 0.0)


@torch.no_grad()
def initialise(module: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Draws every parameter anew, in the order of `named_parameters`: slice m from generator m alone.

    Biases and gates become 0, gains (vectors named weight) 1, and matrices uniform within ±1/sqrt(columns), torch's own
    rule for `nn.Linear`. An LSTM's forget gates therefore start half open.
    """
    for name, parameter in module.named_parameters():
        last = name.rpartition(".")[2]
        if "bias" in last or last.startswith("gate_"):
            parameter.zero_()
        elif parameter.ndim == 2:
            parameter.fill_(1.0)
        else:
            bound = parameter.shape[-1] ** -0.5
            for head, generator in zip(parameter, generators, strict=True):
                head.uniform_(-bound, bound, generator=generator)


def look_up(registry: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry `name`, or a `ValueError` that lists the known ones."""
    if name not in registry:
        raise ValueError(f"{kind}: unknown name {name!r}; known: {', '.join(registry)}")
    return registry[name]
