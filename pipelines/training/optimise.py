"""How weights move: AdamW, the learning rate over the epochs, and dropout that can be repeated."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipelines.config import TrainConfig

BETAS = (0.9, 0.999)
EPS = 1e-8


class AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) on torch's fused kernel; parameters without a gradient stay still.

    Matrices decay; biases, norms and the losses' own parameters (one dimension or none) do not. It is not that of
    torch.optim: making one of those imports torch's compiler, 5 s of CPU time, longer than many a head trains.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.groups = [
            (weight_decay, [p for p in self.parameters if p.ndim > 1]),
            (0.0, [p for p in self.parameters if p.ndim <= 1]),
        ]
        self.state: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {
            p: (torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device)) for p in self.parameters
        }

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Moves every parameter that has a gradient."""
        for weight_decay, group in self.groups:
            moving: list[Tensor] = [p for p in group if p.grad is not None]
            if not moving:
                continue
            means, squares, steps = (list(part) for part in zip(*(self.state[p] for p in moving), strict=True))
            torch._foreach_add_(steps, 1)
            gradients = [p.grad for p in moving if p.grad is not None]
            fused_adamw(moving, gradients, means, squares, steps, lr, weight_decay)


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
    """The learning rate after `progress` epochs: linear warm-up, then half a cosine down to 0, or constant."""
    warmup = min(config.warmup_epochs, config.epochs)
    if progress < warmup:
        return config.lr * progress / warmup
    if config.schedule == "constant" or config.epochs == warmup:
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (config.epochs - warmup)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from `seed` inside; the caller's random numbers go on afterwards as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
