"""Averaged weights: a running mean of those that training passes through, scored and saved in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """The exponential mean of the `moving` tensors of a model, by name, batch normalisation's means included.

    After step t the old mean keeps min(decay, (1 + t) / (10 + t)) of its weight, so that it is not the start's for
    long.
    """

    def __init__(self, moving: Mapping[str, Tensor], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"finetune.ema {decay}: a decay lies between 0 and 1, 0.9998 say; 0 averages nothing")
        self.decay, self._live = decay, dict(moving)
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step`, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        floats = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self._mean[name] for name in floats], [self._live[name] for name in floats], share)
        for name in self._live.keys() - set(floats):
            self._mean[name].copy_(self._live[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """The means by name: the tensors themselves, not copies."""
        return self._mean

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            held = live.clone()
            live.copy_(self._mean[name])
            self._mean[name].copy_(held)
