"""Blocks of the temporal encoders: recurrent, convolutional, attentive; `block(x, steps) -> [M, B, T, D]`.

`x` [M, B, T, D] is what the blocks before gave, with anything at invalid steps; what a block gives there never matters.
With `config.causal` a step sees no later one. Letters: M stacked heads, B windows, T steps, D width, H attention heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import SCALES, HeadConfig
from heads.layers import DropoutRng, Linear, Norm, Perceptron, by_head, linear, mask_steps
from heads.recurrent import Recurrence, gru_states, lstm_states
from heads.steps import Steps, attention_mask, rotate


class RecurrentBlock(nn.Module):
    """A GRU or LSTM over the valid steps, one from each end; invalid steps are skipped as if they were not there.

    Causal, one of twice the hidden width runs from the first step alone.
    """

    def __init__(self, run: Recurrence, num_gates: int, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        hidden = config.width if config.causal else (config.width + 1) // 2
        self.run = run
        self.norm = Norm(rng.num_heads, config.width)
        self.past = RecurrentCell(rng.num_heads, config.width, hidden, num_gates)
        self.future = None if config.causal else RecurrentCell(rng.num_heads, config.width, hidden, num_gates)
        self.output = Linear(rng.num_heads, hidden if config.causal else 2 * hidden, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = self.norm(x)
        position = torch.arange(x.shape[2], device=x.device).expand(x.shape[:3])
        last = x.shape[2] + position
        cells = [self.past] if self.future is None else [self.past, self.future]
        keys = (position, -position)[: len(cells)]
        orders = [key.where(steps.valid, last).argsort(dim=2) for key in keys]
        if torch.compiler.is_exporting():  # to ONNX: of one head
            states = [EXPORTED[self.run](cell, _reorder(x, order)) for cell, order in zip(cells, orders, strict=True)]
            return self._output(states, orders)
        # Both directions at once, as 2 M heads: each step of the loop over time costs as much for two as for one.
        gates = torch.cat([cell.input(_reorder(x, order)) for cell, order in zip(cells, orders, strict=True)])
        joined = self.run(gates, *(torch.cat(pair) for pair in zip(*(cell.hidden for cell in cells), strict=True)))
        return self._output(joined.chunk(len(cells)), orders)

    def _output(self, states: Sequence[Tensor], orders: Sequence[Tensor]) -> Tensor:
        """From the states of each direction, the steps of each in its own order."""
        back = [_reorder(each, order.argsort(dim=2)) for each, order in zip(states, orders, strict=True)]
        return self.output(torch.cat(back, dim=-1))


class RecurrentCell(nn.Module):
    """The parameters of M recurrent cells, named and shaped as torch's own, but for the leading M."""

    def __init__(self, num_heads: int, width: int, hidden: int, num_gates: int) -> None:
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.empty(num_heads, num_gates * hidden, width))
        self.weight_hh_l0 = nn.Parameter(torch.empty(num_heads, num_gates * hidden, hidden))
        self.bias_ih_l0 = nn.Parameter(torch.empty(num_heads, num_gates * hidden))
        self.bias_hh_l0 = nn.Parameter(torch.empty(num_heads, num_gates * hidden))

    def input(self, x: Tensor) -> Tensor:
        """What the inputs [M, B, T, D] add to the gates, for all steps at once."""
        return linear(x, self.weight_ih_l0, self.bias_ih_l0)

    def start(self, x: Tensor) -> Tensor:
        """[1, B, D] zeros: the state before the first step of the windows x [1, B, T, D]."""
        return x.new_zeros(1, x.shape[1], self.weight_hh_l0.shape[2])

    @property
    def hidden(self) -> tuple[Tensor, Tensor]:
        """Weight and bias from the state to the gates."""
        return self.weight_hh_l0, self.bias_hh_l0


def _exported_gru(cell: RecurrentCell, x: Tensor) -> Tensor:
    """States [1, B, T, D] of a GRU of one head by torch's own operator, which ONNX has too."""
    weights = [parameter[0] for parameter in cell.parameters()]
    states, _ = torch.gru(x[0], cell.start(x), weights, True, 1, 0.0, False, False, True)
    return states.unsqueeze(0)


def _exported_lstm(cell: RecurrentCell, x: Tensor) -> Tensor:
    """The same of an LSTM."""
    weights, start = [parameter[0] for parameter in cell.parameters()], cell.start(x)
    states, _, _ = torch.lstm(x[0], (start, start), weights, True, 1, 0.0, False, False, True)
    return states.unsqueeze(0)


class ConvolutionBlock(nn.Module):
    """A dilated convolution to both sides, then a mix of channels (MS-TCN: Farha and Gall, CVPR 2019).

    Neighbours that are invalid, or beyond the window, count as absent: the rest is scaled up by kernel / present, as in
    partial convolutions (Liu et al., ECCV 2018). The taps stand side by side for one matrix product. Causal, the step
    itself is the last of the taps, not the middle one.
    """

    def __init__(self, dilation: int, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.reach = Reach(config.kernel, dilation, config.causal)
        self.norm = Norm(rng.num_heads, config.width)
        self.taps = Linear(rng.num_heads, config.kernel * config.width, config.width, bias=False)
        self.bias = nn.Parameter(torch.empty(rng.num_heads, config.width))
        self.mix = Linear(rng.num_heads, config.width, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = mask_steps(self.norm(x), steps.valid)
        taps = self.taps(self.reach.neighbours(x))
        return self.mix(functional.gelu(taps * self.reach.scale(steps, x) + by_head(self.bias, taps)))


class MultiScaleBlock(nn.Module):
    """Convolutions of short, middle and long reach side by side, then a mix of all their channels.

    Dilations of 1, 4 and 16 times the block's own, as in parallel atrous convolutions (Chen et al., arXiv 1606.00915);
    each as in `ConvolutionBlock`, of half the width.
    """

    def __init__(self, dilation: int, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        hidden = (config.width + 1) // 2
        self.reaches = [Reach(config.kernel, times * dilation, config.causal) for times in SCALES["tcn-multi"]]
        self.norm = Norm(rng.num_heads, config.width)
        self.taps = nn.ModuleList(
            Linear(rng.num_heads, config.kernel * config.width, hidden, bias=False) for _ in self.reaches
        )
        self.bias = nn.Parameter(torch.empty(rng.num_heads, len(self.reaches) * hidden))
        self.mix = Linear(rng.num_heads, len(self.reaches) * hidden, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = mask_steps(self.norm(x), steps.valid)
        branches = [
            taps(reach.neighbours(x)) * reach.scale(steps, x)
            for taps, reach in zip(self.taps, self.reaches, strict=True)
        ]
        joined = torch.cat(branches, dim=-1)
        return self.mix(functional.gelu(joined + by_head(self.bias, joined)))


@dataclass(frozen=True, slots=True)
class Reach:
    """Which steps a convolution sees: `kernel` of them, `dilation` apart, around a step or up to it."""

    kernel: int
    dilation: int
    causal: bool

    def neighbours(self, x: Tensor) -> Tensor:
        """[M, B, T, D] -> [M, B, T, kernel * D], zeros beyond the window."""
        if torch.compiler.is_exporting():
            return self.side_by_side(x)
        taps: Tensor = _Taps.apply(x, self)
        return taps

    @property
    def before(self) -> int:
        """Steps from the first tap to the step itself."""
        span = (self.kernel - 1) * self.dilation
        return span if self.causal else span // 2

    def side_by_side(self, x: Tensor) -> Tensor:
        """The taps of each step, read from a padded copy of `x`."""
        span = (self.kernel - 1) * self.dilation
        padded = functional.pad(x, (0, 0, self.before, span - self.before))
        return torch.cat([padded.narrow(2, tap * self.dilation, x.shape[2]) for tap in range(self.kernel)], dim=-1)

    def scale(self, steps: Steps, x: Tensor) -> Tensor:
        """[M, B, T, 1]: kernel / valid neighbours, in the type of `x`."""
        present = self.neighbours(steps.valid.unsqueeze(-1).to(x.dtype)).sum(dim=-1, keepdim=True)
        return self.kernel / present.clamp(min=1)


class _Taps(torch.autograd.Function):
    """`Reach.side_by_side`, whose gradient is added up in one place: autograd's own makes a padded copy per tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: Reach) -> Tensor:
        ctx.reach = reach
        return reach.side_by_side(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        reach, num_steps = ctx.reach, grads[0].shape[2]
        by_tap = grads[0].unflatten(-1, (reach.kernel, -1)).unbind(3)
        total = torch.zeros_like(by_tap[0], memory_format=torch.contiguous_format)
        for tap in range(reach.kernel - 1, -1, -1):  # as autograd adds them
            shift = tap * reach.dilation - reach.before
            length = num_steps - abs(shift)
            if length > 0:
                total.narrow(2, max(shift, 0), length).add_(by_tap[tap].narrow(2, max(-shift, 0), length))
        return total, None


class AttentionBlock(nn.Module):
    """Self-attention over the valid steps; what a step sees of another depends on the real frames between them."""

    def __init__(self, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.num_heads, self.causal = config.num_heads, config.causal
        self.norm = Norm(rng.num_heads, config.width)
        self.query_key_value = Linear(rng.num_heads, config.width, 3 * config.width, bias=False)
        self.output = Linear(rng.num_heads, config.width, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        heads = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        heads = heads.permute(3, 0, 1, 4, 2, 5)  # [3, M, B, H, T, D / H]
        both, value = heads.split((2, 1))  # the gradient of an index would be written over zeros of all three
        query, key = rotate(both, steps.frames)
        sees = attention_mask(steps.valid, causal=self.causal).unsqueeze(2).expand(len(x), -1, -1, -1, -1)
        # M goes into the batch: attention over five dimensions takes a slower path.
        query, key, value, sees = (each.flatten(0, 1) for each in (query, key, value.squeeze(0), sees))
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        return self.output(seen.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2]))


class StepBlock(nn.Module):
    """An MLP at each step by itself."""

    def __init__(self, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.norm = Norm(rng.num_heads, config.width)
        self.mlp = Perceptron(config.width, rng)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        return self.mlp(self.norm(x))


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """`x` [M, B, T, D] with the steps of each window in `order` [M, B, T]."""
    return x.gather(2, order.unsqueeze(-1).expand(x.shape))


EXPORTED: dict[Recurrence, Callable[[RecurrentCell, Tensor], Tensor]] = {
    gru_states: _exported_gru,
    lstm_states: _exported_lstm,
}
