"""A diagonal state space model over real time. M stacked heads, B windows, T steps, D width, P complex states.

The states follow h' = A h + B x with A = -rate + i frequency, shared by all channels (S5: Smith et al., arXiv
2208.04933) and spread at the start as in S4D-Lin (Gu et al., arXiv 2206.11893). Each embedding holds until the next
valid step (zero-order hold), so a gap of any length is one exact step:

    h(next) = a h + (1 - a) B x,   a = exp(A gap)

scaled so that a constant embedding comes through as it is. A kernel by FFT would need equal gaps, and a parallel scan
took 3.5 times the CPU time of the loop.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import HeadConfig
from heads.layers import DropoutRng, Linear, Norm, by_head, mask_steps
from heads.steps import Steps, gaps

SLOWEST = 256.0  # frames: the longest time constant before training; the shortest is 1
FREQUENCIES = 4  # of each time constant: 0 to 3 half turns within it


class StateSpaceBlock(nn.Module):
    """States from the steps before and, unless causal, from those after; then a gated mix of channels (GLU)."""

    def __init__(self, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        num_heads, width, num_sides = rng.num_heads, config.width, 1 if config.causal else 2
        self.norm = Norm(num_heads, width)
        self.sides = nn.ModuleList(StateSpace(num_heads, width) for _ in range(num_sides))  # past, future
        self.output = Linear(num_heads, num_sides * 2 * num_states(width) + width, width)
        self.mix = Linear(num_heads, width, 2 * width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = mask_steps(self.norm(x), steps.valid)
        previous, following = gaps(steps)
        inputs = ((x, following), (x.flip(2), previous.flip(2)))
        terms = [side(*each) for side, each in zip(self.sides, inputs, strict=False)]
        # Both sides at once, as 2 M heads: each step of the loop over time costs as much for two as for one.
        states = states_before(torch.cat(terms, dim=2)).permute(2, 3, 1, 0, 4).flatten(3)
        past, *future = states.chunk(len(terms))
        y = functional.gelu(self.output(torch.cat([past, *(each.flip(2) for each in future), x], dim=-1)))
        return functional.glu(self.mix(y), dim=-1)


class StateSpace(nn.Module):
    """What moves the P states of M heads over each step: gaps and embeddings, for all steps at once."""

    def __init__(self, num_heads: int, width: int) -> None:
        super().__init__()
        # Logarithms of what training multiplies the rates and frequencies by, so that those stay above 0.
        self.rate_bias = nn.Parameter(torch.empty(num_heads, num_states(width)))
        self.frequency_bias = nn.Parameter(torch.empty(num_heads, num_states(width)))
        self.input = Linear(num_heads, width, 2 * num_states(width), bias=False)

    def forward(self, x: Tensor, gaps: Tensor) -> Tensor:
        """[4, T, M, B, P]: a and (1 - a) B x, real and imaginary, from `x` [M, B, T, D] and the frames `gaps` [M, B, T]
        until the next step; a = 1 and nothing comes in where there is none."""
        frames = gaps.unsqueeze(-1).float()
        rates, frequencies = spectrum(self.rate_bias.shape[1], x.device)
        size = (-by_head(rates * self.rate_bias.exp(), frames) * frames).exp()
        angle = by_head(frequencies * self.frequency_bias.exp(), frames) * frames
        real, imaginary = self.input(x).float().chunk(2, dim=-1)
        cosine, sine = size * angle.cos(), size * angle.sin()
        into = ((1 - cosine) * real + sine * imaginary, (1 - cosine) * imaginary - sine * real)
        return torch.stack([each.expand(into[0].shape) for each in (cosine, sine, *into)]).permute(0, 3, 1, 2, 4)


def num_states(width: int) -> int:
    """P: as many real numbers as channels, at least one of each frequency."""
    return max(FREQUENCIES, width // 2)


def spectrum(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rates and frequencies [P] before training: time constants from 1 to `SLOWEST` frames, several turns in each."""
    number = torch.arange(count, device=device)
    num_rates = -(-count // FREQUENCIES)
    rates = SLOWEST ** -((number // FREQUENCIES) / max(num_rates - 1, 1))
    return rates, torch.pi * rates * (number % FREQUENCIES)


def states_before(terms: Tensor) -> Tensor:
    """[2, T, M, B, P] float32: the states h that each step finds, h = 0 at the first, where `terms` [4, T, M, B, P] are
    the real and imaginary parts of a and b in h(next) = a h + b."""
    if torch.compiler.is_exporting():
        return _exported_scan(terms)
    cosine, sine, *into = terms.unbind()  # the gradient of an index would be written over zeros of all four
    states: Tensor = _Scan.apply(torch.complex(cosine, sine), torch.complex(*into))
    return torch.view_as_real(states).movedim(-1, 0)


class _Scan(torch.autograd.Function):
    """The loop over time with its backward pass written out: two operations per step each."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, inputs: Tensor) -> Tensor:
        states, state = torch.empty_like(inputs), torch.zeros_like(inputs[0])
        for step in range(len(inputs)):
            states[step] = state
            state = torch.addcmul(inputs[step], factors[step], state)
        ctx.save_for_backward(factors, states)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        factors, states = ctx.saved_tensors
        outer, conjugate = grads[0], factors.conj().resolve_conj()
        into, grad = torch.empty_like(states), torch.zeros_like(states[0])
        for step in range(len(states) - 1, -1, -1):
            into[step] = grad
            grad = torch.addcmul(outer[step], conjugate[step], grad)
        return into * states.conj(), into


def _exported_scan(terms: Tensor) -> Tensor:
    """The same as ONNX's operator Scan, in real numbers: it has no complex ones."""
    from torch._higher_order_ops.scan import scan

    def step(state: tuple[Tensor, Tensor], terms: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        (real, imaginary), (cosine, sine, *into) = state, terms
        after = cosine * real - sine * imaginary + into[0], cosine * imaginary + sine * real + into[1]
        return after, torch.stack([real, imaginary])

    start = torch.zeros_like(terms[0, 0])
    _, states = scan(step, (start, start.clone()), tuple(terms.unbind()), dim=0)
    return states.movedim(1, 0)
