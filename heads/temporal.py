"""Temporal encoders: recurrent, convolutional, attentive; `temporal(x, valid, times) -> [B, T, D]`.

`x` [B, T, D] holds a fused embedding a step, `valid` [B, T] is True at real steps, `times` [B, T] are real frame
numbers, rising over the valid steps with gaps of 1 to hundreds. Only differences of times count, and what stands at an
invalid step (in `x` or `times`) never matters; the result is 0 there.

All encoders have one shape: `TemporalEncoder`, a chain of residual blocks `x + block(x, steps)`.
Letters: B windows, T steps, D width, H attention heads.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import HeadConfig
from heads.layers import Perceptron, WindowDropout, look_up, mask_steps

FAR = 2**62  # later than any frame


@dataclass(frozen=True, slots=True)
class Steps:
    """`valid` [B, T] bool; `frames` [B, T] int64: real frames since the window's first valid step, 0 where invalid."""

    valid: Tensor
    frames: Tensor


class TemporalEncoder(nn.Module):
    """Residual blocks over windows; with `knows_time`, each step is first told its gaps to its neighbours."""

    def __init__(self, blocks: Iterable[nn.Module], config: HeadConfig, *, knows_time: bool = True) -> None:
        super().__init__()
        self.gaps = nn.Linear(2, config.width, bias=False) if knows_time else None
        self.blocks = nn.ModuleList(blocks)
        self.dropout = WindowDropout(config.dropout)
        self.norm = nn.LayerNorm(config.width)

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

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM], config: HeadConfig) -> None:
        super().__init__()
        hidden = (config.width + 1) // 2
        self.norm = nn.LayerNorm(config.width)
        self.past = cell(config.width, hidden, batch_first=True)
        self.future = cell(config.width, hidden, batch_first=True)
        self.output = nn.Linear(2 * hidden, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = self.norm(x)
        position = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        past = _run(self.past, x, position.where(steps.valid, x.shape[1] + position))
        future = _run(self.future, x, (-position).where(steps.valid, x.shape[1] + position))
        return self.output(torch.cat([past, future], dim=-1))


class ConvolutionBlock(nn.Module):
    """A dilated convolution to both sides, then a mix of channels (MS-TCN: Farha and Gall, CVPR 2019).

    Neighbours that are invalid, or beyond the window, count as absent: the rest is scaled up by kernel / present, as in
    partial convolutions (Liu et al., ECCV 2018). The taps stand side by side for one matrix product.
    """

    def __init__(self, dilation: int, config: HeadConfig) -> None:
        super().__init__()
        self.kernel, self.dilation = config.kernel, dilation
        self.norm = nn.LayerNorm(config.width)
        self.taps = nn.Linear(config.kernel * config.width, config.width, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.mix = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        x = self._neighbours(mask_steps(self.norm(x), steps.valid))
        present = self._neighbours(steps.valid.unsqueeze(-1).to(x.dtype)).sum(dim=-1, keepdim=True)
        return self.mix(functional.gelu(self.taps(x) * (self.kernel / present.clamp(min=1)) + self.bias))

    def _neighbours(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, kernel * D], zeros beyond the window."""
        reach = self.kernel // 2 * self.dilation
        padded = functional.pad(x, (0, 0, reach, reach))
        return torch.cat([padded.narrow(1, tap * self.dilation, x.shape[1]) for tap in range(self.kernel)], dim=-1)


class AttentionBlock(nn.Module):
    """Self-attention over the valid steps; what a step sees of another depends on the real frames between them."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        heads = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        heads = heads.permute(2, 0, 3, 1, 4)  # [3, B, H, T, D / H]
        query, key = rotate(heads[:2], steps.frames)
        # A step always sees itself: without a valid step there would be nothing to see, NaN on some backends.
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        sees = steps.valid[:, None, None, :] | itself
        x = functional.scaled_dot_product_attention(query, key, heads[2], attn_mask=sees)
        return self.output(x.transpose(1, 2).flatten(2))


class StepBlock(nn.Module):
    """An MLP at each step by itself."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.mlp = Perceptron(config.width, config.dropout)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        return self.mlp(self.norm(x))


def steps_of(valid: Tensor, times: Tensor) -> Steps:
    """Times [B, T] counted from each window's first valid step; int64 throughout, so the origin leaves no trace."""
    first = times.masked_fill(~valid, FAR).amin(dim=1, keepdim=True)
    return Steps(valid, (times - first).masked_fill(~valid, 0))


def log_gaps(steps: Steps) -> Tensor:
    """[B, T, 2]: log(1 + frames) to the previous and to the next valid step; 0 where there is none."""
    before = steps.frames.masked_fill(~steps.valid, -1).cummax(dim=1).values
    after = steps.frames.masked_fill(~steps.valid, FAR).flip(1).cummin(dim=1).values.flip(1)
    before = functional.pad(before[:, :-1], (1, 0), value=-1)
    after = functional.pad(after[:, 1:], (0, 1), value=FAR)
    previous = (steps.frames - before).masked_fill(~steps.valid | (before < 0), 0)
    following = (after - steps.frames).masked_fill(~steps.valid | (after == FAR), 0)
    return torch.stack([previous, following], dim=-1).float().log1p()


def rotate(x: Tensor, frames: Tensor) -> Tensor:
    """Rotary positions (Su et al., arXiv 2104.09864) of `x` [..., B, H, T, D / H] at real `frames` [B, T].

    Wavelengths run from 6 to 60,000 frames, so a gap of 1 and one of hundreds are both seen.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
    angles = frames[:, None, :, None] * rates
    left, right = x.chunk(2, dim=-1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=-1).to(x.dtype)


def _run(cell: nn.Module, x: Tensor, key: Tensor) -> Tensor:
    """The states of `cell` [B, T, D] when it reads the steps of `x` in rising order of `key` [B, T].

    Keys put invalid steps last, so no state of a valid step has seen them; unlike packing, this needs no lengths on the
    host.
    """
    order = key.argsort(dim=1)
    states, _ = cell(_reorder(x, order))
    return _reorder(states, order.argsort(dim=1))


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """`x` [B, T, D] with the steps of each window in `order` [B, T]."""
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def none(config: HeadConfig) -> TemporalEncoder:
    """Frame-wise: knows neither neighbours nor time."""
    return TemporalEncoder((StepBlock(config) for _ in range(config.depth)), config, knows_time=False)


def gru(config: HeadConfig) -> TemporalEncoder:
    return TemporalEncoder((RecurrentBlock(nn.GRU, config) for _ in range(config.depth)), config)


def lstm(config: HeadConfig) -> TemporalEncoder:
    return TemporalEncoder((RecurrentBlock(nn.LSTM, config) for _ in range(config.depth)), config)


def tcn(config: HeadConfig) -> TemporalEncoder:
    return TemporalEncoder((ConvolutionBlock(2**layer, config) for layer in range(config.depth)), config)


def transformer(config: HeadConfig) -> TemporalEncoder:
    blocks = (block(config) for _ in range(config.depth) for block in (AttentionBlock, StepBlock))
    return TemporalEncoder(blocks, config)


def build_temporal(name: str, config: HeadConfig) -> TemporalEncoder:
    """The temporal encoder `name`.

    Raises:
        ValueError: unknown name.
    """
    return look_up(TEMPORALS, name, "temporal encoder")(config)


TEMPORALS: dict[str, Callable[[HeadConfig], TemporalEncoder]] = {
    "none": none,
    "gru": gru,
    "lstm": lstm,
    "tcn": tcn,
    "transformer": transformer,
}
