"""How weights move: AdamW over groups of parameters, the learning rate over a training, dropout that can be repeated.

The optimisers over the fused kernel are ours, not torch.optim's: making one of those imports torch's compiler, 5 s of
CPU time, longer than many a head trains.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NamedParameter = tuple[str, nn.Parameter]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters by name that share a `weight_decay` and move at `lr_scale` times the learning rate."""

    parameters: tuple[NamedParameter, ...]
    weight_decay: float
    lr_scale: float = 1.0


class AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) on torch's fused kernel; parameters without a gradient stay still."""

    def __init__(self, groups: Sequence[ParameterGroup], betas: tuple[float, float] = BETAS) -> None:
        self.groups, self.betas = tuple(groups), betas
        named = [pair for group in self.groups for pair in group.parameters]
        assert len({name for name, _ in named}) == len(named), "a parameter is in one group, under one name"
        self.parameters = [parameter for _, parameter in named]
        self._moments = {
            name: (torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device)) for name, p in named
        }

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def clip(self, max_norm: float) -> None:
        """Shortens all gradients together to a length of at most `max_norm`; 0 leaves them as they are."""
        if max_norm:
            nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=True)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.groups:
            moving = [(name, p, p.grad) for name, p in group.parameters if p.grad is not None]
            if not moving:
                continue
            means, squares, steps = (list(part) for part in zip(*(self._moments[n] for n, _, _ in moving), strict=True))
            torch._foreach_add_(steps, 1)
            fused_adamw(
                [p for _, p, _ in moving],
                [gradient for _, _, gradient in moving],
                means,
                squares,
                steps,
                lr * group.lr_scale,
                group.weight_decay,
                self.betas,
            )

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts by parameter name: the tensors themselves, not copies."""
        return {
            f"{kind}.{name}": tensor
            for name, tensors in self._moments.items()
            for kind, tensor in zip(("mean", "square", "steps"), tensors, strict=True)
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave; the parameters must be those of then."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def decay_groups(
    named_parameters: Iterable[NamedParameter], weight_decay: float, undecayed: Container[str] = ()
) -> list[ParameterGroup]:
    """Two groups: matrices, which decay, and biases, norms and other vectors and those named `undecayed`, which do not;
    none is frozen."""
    named = [(name, p) for name, p in named_parameters if p.requires_grad]
    kinds: dict[bool, list[NamedParameter]] = {True: [], False: []}
    for name, p in named:
        kinds[p.ndim > 1 and name not in undecayed].append((name, p))
    return [
        ParameterGroup(parameters=tuple(kinds[True]), weight_decay=weight_decay),
        ParameterGroup(parameters=tuple(kinds[False]), weight_decay=0.0),
    ]


def cosine_lr(progress: float, *, lr: float, total: float, warmup: float, min_lr: float = 0.0) -> float:
    """The learning rate after `progress` of `total` steps or epochs: linear warm-up from 0, then half a cosine down to
    `min_lr`."""
    warmup = min(warmup, total)
    if progress < warmup:
        return lr * progress / warmup
    if total == warmup:
        return lr
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (total - warmup)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from `seed` inside; the caller's random state is restored afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
