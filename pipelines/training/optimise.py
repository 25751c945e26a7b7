"""How the weights of stacked heads move: AdamW and gradient clipping with a rate, a decay and a pace per head.

M stacked heads. A head that has no batch at a step stands still, as it would alone.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines.config import TrainConfig
from pipelines.fitting.optimise import BETAS, EPS, cosine_lr, fused_adamw

CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


class StackedAdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) over parameters [M, ...], on torch's fused kernel.

    Matrices decay; biases, norms and the losses' own parameters (one dimension or none per head) do not. Parameters
    without a gradient stand still.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decays: Sequence[float]) -> None:
        self.parameters, self.weight_decays = list(parameters), list(weight_decays)
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        # One count per parameter and head: trunks may have been frozen, heads without a batch.
        self.steps = [torch.zeros(len(p), device=p.device) for p in self.parameters]
        self._is_even = True  # the heads have taken equally many steps, so that one count stands for all
        self._decays = torch.tensor(self.weight_decays, device=self.parameters[0].device)

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def select(self, parameters: Sequence[nn.Parameter], heads: Sequence[int]) -> "StackedAdamW":
        """For `parameters`, those of some of the heads: continues exactly as it would have."""
        other = StackedAdamW(parameters, [self.weight_decays[head] for head in heads])
        index = torch.tensor(list(heads))
        for mine, theirs in (
            (self.means, other.means),
            (self.squares, other.squares),
            (self.steps, other.steps),
        ):
            for place, value in enumerate(mine):
                theirs[place] = value[index.to(value.device)].clone()
        other._is_even = self._is_even or len(index) == 1
        return other

    def recount(self) -> None:
        """To be called when `steps` were written from outside."""
        self._is_even = all(bool((count == count[0]).all()) for count in self.steps)

    @torch.no_grad()
    def clip(self, limits: Tensor | None) -> None:
        """Scales each head's gradients to a norm of at most its limit [M] (`limits_of`); None is no limit at all."""
        moving = [p.grad for p in self.parameters if p.grad is not None]
        if not moving or limits is None:
            return
        norms = torch.stack([grad.view(len(grad), -1).square().sum(dim=1) for grad in moving]).sum(dim=0).sqrt()
        scale = (limits / (norms + CLIP_EPS)).clamp(max=1.0)
        for grad in moving:
            grad.mul_(scale.view(-1, *[1] * (grad.ndim - 1)))

    @torch.no_grad()
    def step(self, rates: Sequence[float], active: Sequence[bool]) -> None:
        """Moves the active heads, each at its own rate."""
        moving = [place for place, p in enumerate(self.parameters) if p.grad is not None]
        self._is_even = self._is_even and all(active)
        for heads in self._alike(rates, active):
            self._move(moving, heads, rates[heads.start], self.weight_decays[heads.start])

    @torch.no_grad()
    def step_on_device(self, rates: Tensor, active: Tensor) -> None:
        """`step` for `rates` [M] and `active` [M] bool on the device, without waiting for either: for CUDA graphs.

        Every head moves at its own rate in the same few operations; one that is not active is moved by nothing.
        """
        self._is_even = False  # as far as the host can know
        moves = active.to(rates.dtype)
        for place, p in enumerate(self.parameters):
            if p.grad is None:
                continue
            self.steps[place] += moves
            taken = self.steps[place].clamp(min=1)
            shape = (-1, *[1] * (p.ndim - 1))
            mean, square, grad = self.means[place], self.squares[place], p.grad
            mean.lerp_(grad, (moves * (1 - BETAS[0])).view(shape).expand_as(grad))
            square.lerp_(grad.square(), (moves * (1 - BETAS[1])).view(shape).expand_as(grad))
            if p.ndim > 2:
                p.mul_((1 - moves * rates * self._decays).view(shape))
            size = moves * rates / (1 - BETAS[0] ** taken)
            root = square.sqrt() / (1 - BETAS[1] ** taken).sqrt().view(shape)
            p.sub_(size.view(shape) * mean / (root + EPS))

    def _alike(self, rates: Sequence[float], active: Sequence[bool]) -> list[slice]:
        """The active heads in runs of one rate and decay, which one call moves; singly where their counts differ."""
        if not self._is_even:
            return [slice(head, head + 1) for head, is_active in enumerate(active) if is_active]
        settings = list(zip(rates, self.weight_decays, strict=True))
        runs = [list(run) for _, run in itertools.groupby(range(len(settings)), key=settings.__getitem__)]
        return [slice(run[0], run[-1] + 1) for run in runs]

    def _move(self, places: Sequence[int], heads: slice, rate: float, weight_decay: float) -> None:
        for decay, group in (
            (weight_decay, [i for i in places if self.parameters[i].ndim > 2]),
            (0.0, [i for i in places if self.parameters[i].ndim <= 2]),
        ):
            if not group:
                continue
            for i in group:
                self.steps[i][heads] += 1
            fused_adamw(
                [self.parameters[i][heads] for i in group],
                [_grad(self.parameters[i])[heads] for i in group],
                [self.means[i][heads] for i in group],
                [self.squares[i][heads] for i in group],
                [self.steps[i][heads].reshape(-1)[0] for i in group],
                rate,
                decay,
            )


def _grad(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def limits_of(values: Sequence[float], device: torch.device) -> Tensor | None:
    """Limits of the gradients' norm as `clip` takes them; 0 means none."""
    return torch.tensor([value or float("inf") for value in values], device=device) if any(values) else None


def lr_at(config: TrainConfig, progress: float) -> float:
    """The learning rate after `progress` steps: linear warm-up, then half a cosine down to 0, or constant."""
    min_lr = config.lr if config.schedule == "constant" else 0.0
    return cosine_lr(progress, lr=config.lr, total=config.steps, warmup=config.warmup_steps, min_lr=min_lr)
