"""Temporal encoders: recurrent, convolutional, attentive; `temporal(x, valid, times) -> [M, B, T, D]`.

`x` [M, B, T, D] holds a fused embedding per step, `valid` [M, B, T] is True at real steps, `times` [M, B, T] are real
frame numbers, rising over the valid steps with gaps of 1 to hundreds. Only differences of times count, and what stands
at an invalid step (in `x` or `times`) never matters; the result is 0 there. Where all heads see the same windows,
`valid` and `times` have a leading 1.

All encoders have one shape: `TemporalEncoder`, a chain of residual blocks `x + block(x, steps)`.
Letters: M stacked heads, B windows, T steps, D width, H attention heads.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import HeadConfig
from heads.layers import DropoutRng, Linear, Norm, Perceptron, WindowDropout, by_head, linear, look_up, mask_steps
from heads.recurrent import Recurrence, gru_states, lstm_states

FAR = 2**62  # later than any frame


@dataclass(frozen=True, slots=True)
class Steps:
    """`valid` [M, B, T] bool; `frames` [M, B, T] int64: real frames since the first valid step, 0 where invalid."""

    valid: Tensor
    frames: Tensor


class TemporalEncoder(nn.Module):
    """Residual blocks over windows; with `knows_time`, each step is first told its gaps to its neighbours."""

    def __init__(
        self, blocks: Iterable[nn.Module], config: HeadConfig, rng: DropoutRng, *, knows_time: bool = True
    ) -> None:
        super().__init__()
        self.gaps = Linear(rng.num_heads, 2, config.width, bias=False) if knows_time else None
        self.blocks = nn.ModuleList(blocks)
        self.dropout = WindowDropout(rng)
        self.norm = Norm(rng.num_heads, config.width)

    def forward(self, x: Tensor, valid: Tensor, times: Tensor) -> Tensor:
        steps = steps_of(valid, times)
        x = mask_steps(x, valid)
        if self.gaps is not None:
            x = x + self.gaps(log_gaps(steps).to(x.dtype))
        for block in self.blocks:
            x = x + self.dropout(block(x, steps))
        return mask_steps(self.norm(x), valid)


class RecurrentBlock(nn.Module):
    """A GRU or LSTM over the valid steps, one from each end; invalid steps are skipped as if they were not there."""

    def __init__(self, run: Recurrence, num_gates: int, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        hidden = (config.width + 1) // 2
        self.run = run
        self.norm = Norm(rng.num_heads, config.width)
        self.past = RecurrentCell(rng.num_heads, config.width, hidden, num_gates)
        self.future = RecurrentCell(rng.num_heads, config.width, hidden, num_gates)
        self.output = Linear(rng.num_heads, 2 * hidden, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = self.norm(x)
        position = torch.arange(x.shape[2], device=x.device).expand(x.shape[:3])
        last = x.shape[2] + position
        orders = [key.where(steps.valid, last).argsort(dim=2) for key in (position, -position)]
        cells = (self.past, self.future)
        if torch.compiler.is_exporting():  # to ONNX: of one head
            both = [EXPORTED[self.run](cell, _reorder(x, order)) for cell, order in zip(cells, orders, strict=True)]
            return self._output(both, orders)
        # Both directions at once, as 2 M heads: each step of the loop over time costs as much for two as for one.
        gates = torch.cat([cell.input(_reorder(x, order)) for cell, order in zip(cells, orders, strict=True)])
        states = self.run(gates, *(torch.cat(pair) for pair in zip(*(cell.hidden for cell in cells), strict=True)))
        return self._output(states.chunk(2), orders)

    def _output(self, states: Sequence[Tensor], orders: Sequence[Tensor]) -> Tensor:
        """From the states of both directions, the steps of each in its own order."""
        past, future = (_reorder(each, order.argsort(dim=2)) for each, order in zip(states, orders, strict=True))
        return self.output(torch.cat([past, future], dim=-1))


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
    partial convolutions (Liu et al., ECCV 2018). The taps stand side by side for one matrix product.
    """

    def __init__(self, dilation: int, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.kernel, self.dilation = config.kernel, dilation
        self.norm = Norm(rng.num_heads, config.width)
        self.taps = Linear(rng.num_heads, config.kernel * config.width, config.width, bias=False)
        self.bias = nn.Parameter(torch.empty(rng.num_heads, config.width))
        self.mix = Linear(rng.num_heads, config.width, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = self._neighbours(mask_steps(self.norm(x), steps.valid))
        present = self._neighbours(steps.valid.unsqueeze(-1).to(x.dtype)).sum(dim=-1, keepdim=True)
        taps = self.taps(x)
        return self.mix(functional.gelu(taps * (self.kernel / present.clamp(min=1)) + by_head(self.bias, taps)))

    def _neighbours(self, x: Tensor) -> Tensor:
        """[M, B, T, D] -> [M, B, T, kernel * D], zeros beyond the window."""
        reach = self.kernel // 2 * self.dilation
        padded = functional.pad(x, (0, 0, reach, reach))
        return torch.cat([padded.narrow(2, tap * self.dilation, x.shape[2]) for tap in range(self.kernel)], dim=-1)


class AttentionBlock(nn.Module):
    """Self-attention over the valid steps; what a step sees of another depends on the real frames between them."""

    def __init__(self, config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = Norm(rng.num_heads, config.width)
        self.query_key_value = Linear(rng.num_heads, config.width, 3 * config.width, bias=False)
        self.output = Linear(rng.num_heads, config.width, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        heads = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        heads = heads.permute(3, 0, 1, 4, 2, 5)  # [3, M, B, H, T, D / H]
        query, key = rotate(heads[:2], steps.frames)
        # A step always sees itself: without a valid step there would be nothing to see, NaN on some backends.
        itself = torch.eye(x.shape[2], dtype=torch.bool, device=x.device)
        sees = (steps.valid[:, :, None, None, :] | itself).expand(len(x), -1, -1, -1, -1)
        # M goes into the batch: attention over five dimensions takes a slower path.
        query, key, value, sees = (each.flatten(0, 1) for each in (query, key, heads[2], sees))
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


def steps_of(valid: Tensor, times: Tensor) -> Steps:
    """Times [M, B, T] counted from each window's first valid step; int64 throughout, so the origin leaves no trace."""
    first = times.masked_fill(~valid, FAR).amin(dim=2, keepdim=True)
    return Steps(valid, (times - first).masked_fill(~valid, 0))


def log_gaps(steps: Steps) -> Tensor:
    """[M, B, T, 2]: log(1 + frames) to the previous and to the next valid step; 0 where there is none."""
    before, after = (_sorted_neighbours if torch.compiler.is_exporting() else _neighbours)(steps)
    previous = (steps.frames - before).masked_fill(~steps.valid | (before < 0), 0)
    following = (after - steps.frames).masked_fill(~steps.valid | (after == FAR), 0)
    return torch.stack([previous, following], dim=-1).float().log1p()


def _neighbours(steps: Steps) -> tuple[Tensor, Tensor]:
    """Frames of the valid step before each valid one, -1 for none, and of the one after it, FAR for none."""
    before = steps.frames.masked_fill(~steps.valid, -1).cummax(dim=2).values
    after = steps.frames.masked_fill(~steps.valid, FAR).flip(2).cummin(dim=2).values.flip(2)
    return functional.pad(before[..., :-1], (1, 0), value=-1), functional.pad(after[..., 1:], (0, 1), value=FAR)


def _sorted_neighbours(steps: Steps) -> tuple[Tensor, Tensor]:
    """The same by sorting: ONNX has no cummax. Frames rise over valid steps, so the valid ones come first, in order."""
    frames = steps.frames.masked_fill(~steps.valid, FAR).sort(dim=2).values
    frames = functional.pad(functional.pad(frames, (1, 0), value=-1), (0, 1), value=FAR)
    place = steps.valid.long().cumsum(dim=2)  # of a valid step among `frames`
    return frames.gather(2, (place - 1).clamp(min=0)), frames.gather(2, place + 1)


def rotate(x: Tensor, frames: Tensor) -> Tensor:
    """Rotary positions (Su et al., arXiv 2104.09864) of `x` [..., M, B, H, T, D / H] at real `frames` [M, B, T].

    Wavelengths run from 6 to 60,000 frames, so a gap of 1 and one of hundreds are both seen.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
    angles = frames[:, :, None, :, None] * rates
    left, right = x.chunk(2, dim=-1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=-1).to(x.dtype)


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """`x` [M, B, T, D] with the steps of each window in `order` [M, B, T]."""
    return x.gather(2, order.unsqueeze(-1).expand(x.shape))


def none(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    """Frame-wise: knows neither neighbours nor time."""
    return TemporalEncoder((StepBlock(config, rng) for _ in range(config.num_blocks)), config, rng, knows_time=False)


def gru(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    return TemporalEncoder((RecurrentBlock(gru_states, 3, config, rng) for _ in range(config.num_blocks)), config, rng)


def lstm(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    return TemporalEncoder((RecurrentBlock(lstm_states, 4, config, rng) for _ in range(config.num_blocks)), config, rng)


def tcn(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    blocks = (ConvolutionBlock(2**layer, config, rng) for layer in range(config.num_blocks))
    return TemporalEncoder(blocks, config, rng)


def transformer(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    blocks = (block(config, rng) for _ in range(config.num_blocks) for block in (AttentionBlock, StepBlock))
    return TemporalEncoder(blocks, config, rng)


def build_temporal(name: str, config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    """The temporal encoder `name`.

    Raises:
        ValueError: unknown name.
    """
    return look_up(TEMPORALS, name, "temporal encoder")(config, rng)


EXPORTED: dict[Recurrence, Callable[[RecurrentCell, Tensor], Tensor]] = {
    gru_states: _exported_gru,
    lstm_states: _exported_lstm,
}
TEMPORALS: dict[str, Callable[[HeadConfig, DropoutRng], TemporalEncoder]] = {
    "none": none,
    "gru": gru,
    "lstm": lstm,
    "tcn": tcn,
    "transformer": transformer,
}
