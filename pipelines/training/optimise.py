"""How weights move: the kernel of AdamW, the learning rate over the steps, and dropout that can be repeated.

The optimisers over it are ours, not torch.optim's: making one of those imports torch's compiler, 5 s of CPU time,
longer than many a head trains.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipelines.config import TrainConfig

BETAS = (0.9, 0.999)
EPS = 1e-8


def fused_adamw(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = BETAS,
) -> None:
    """One step of AdamW in place: `parameters`, and the running `means` and `squares` of their gradients; `steps` are
    those taken, this one included."""
    torch._fused_adamw_(
        parameters,
        gradients,
        means,
        squares,
        [],
        steps,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=EPS,
        amsgrad=False,
        maximize=False,
    )


def lr_at(config: TrainConfig, progress: float) -> float:
    """The learning rate after `progress` steps: linear warm-up, then half a cosine down to 0, or constant."""
    warmup = min(config.warmup_steps, config.steps)
    if progress < warmup:
        return config.lr * progress / warmup
    if config.schedule == "constant" or config.steps == warmup:
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (config.steps - warmup)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from `seed` inside; the caller's random numbers go on afterwards as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
