"""The matrix products of a training step alone: what no step can do without, timed beside it."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)
SHAPE = (2048, 768, 128)  # of the widest product of a head: a batch of one stream, 32 windows of 64 steps


class _Recorder(TorchDispatchMode):
    """Keeps products with memory of their own in place of what they are given: same shapes, strides and types."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            self.calls.append(functools.partial(func, *map(_alike, args), **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def products_of(step: Callable[[], object], times: int) -> Callable[[], None]:
    """Takes `step` once; what is returned does all of its products so many times again, and nothing else."""
    with _Recorder() as recorder:
        step()

    def again() -> None:
        for call in recorder.calls * times:
            call()

    return again


def product(dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """Ten products of `SHAPE`."""
    rows, inner, columns = SHAPE
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)

    def ten() -> None:
        for _ in range(10):
            torch.nn.functional.linear(x, weight)

    return ten


def _alike(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).normal_()
