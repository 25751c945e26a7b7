"""Temporal encoders: recurrent, state space, convolutional, attentive; `temporal(x, valid, times) -> [M, B, T, D]`.

`x` [M, B, T, D] holds a fused embedding per step, `valid` [M, B, T] is True at real steps, `times` [M, B, T] are real
frame numbers, rising over the valid steps with gaps of 1 to hundreds. Only differences of times count, and what stands
at an invalid step (in `x` or `times`) never matters; the result is 0 there. Where all heads see the same windows,
`valid` and `times` have a leading 1. With `config.causal` no step sees a later one.

All encoders have one shape: `TemporalEncoder`, a chain of residual blocks `x + block(x, steps)`.
Letters: M stacked heads, B windows, T steps, D width.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from heads.blocks import AttentionBlock, ConvolutionBlock, MultiScaleBlock, RecurrentBlock, StepBlock
from heads.config import HeadConfig
from heads.layers import DropoutRng, Linear, Norm, WindowDropout, look_up, mask_steps
from heads.recurrent import gru_states, lstm_states
from heads.state_space import StateSpaceBlock
from heads.steps import log_gaps, steps_of


class TemporalEncoder(nn.Module):
    """Residual blocks over windows; with `knows_time`, each step is first told its gaps to its neighbours, of which a
    causal encoder knows the one before."""

    def __init__(
        self, blocks: Iterable[nn.Module], config: HeadConfig, rng: DropoutRng, *, knows_time: bool = True
    ) -> None:
        super().__init__()
        self.num_gaps = 1 if config.causal else 2
        self.gaps = Linear(rng.num_heads, self.num_gaps, config.width, bias=False) if knows_time else None
        self.blocks = nn.ModuleList(blocks)
        self.dropout = WindowDropout(rng)
        self.norm = Norm(rng.num_heads, config.width)

    def forward(self, x: Tensor, valid: Tensor, times: Tensor) -> Tensor:
        steps = steps_of(valid, times)
        x = mask_steps(x, valid)
        if self.gaps is not None:
            x = x + self.gaps(log_gaps(steps)[..., : self.num_gaps].to(x.dtype))
        for block in self.blocks:
            x = x + self.dropout(block(x, steps))
        return mask_steps(self.norm(x), valid)


def none(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    """Frame-wise: knows neither neighbours nor time."""
    return TemporalEncoder((StepBlock(config, rng) for _ in range(config.num_blocks)), config, rng, knows_time=False)


def gru(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    return TemporalEncoder((RecurrentBlock(gru_states, 3, config, rng) for _ in range(config.num_blocks)), config, rng)


def lstm(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    return TemporalEncoder((RecurrentBlock(lstm_states, 4, config, rng) for _ in range(config.num_blocks)), config, rng)


def ssm(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    return TemporalEncoder((StateSpaceBlock(config, rng) for _ in range(config.num_blocks)), config, rng)


def tcn(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    blocks = (ConvolutionBlock(2**layer, config, rng) for layer in range(config.num_blocks))
    return TemporalEncoder(blocks, config, rng)


def tcn_multi(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    blocks = (MultiScaleBlock(2**layer, config, rng) for layer in range(config.num_blocks))
    return TemporalEncoder(blocks, config, rng)


def transformer(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    blocks = (block(config, rng) for _ in range(config.num_blocks) for block in (AttentionBlock, StepBlock))
    return TemporalEncoder(blocks, config, rng)


def tcn_transformer(config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    """A TCN, then one attention over the window (Zhou et al., arXiv 2303.08356)."""
    blocks = (ConvolutionBlock(2**layer, config, rng) for layer in range(config.num_blocks))
    return TemporalEncoder([*blocks, AttentionBlock(config, rng), StepBlock(config, rng)], config, rng)


def build_temporal(name: str, config: HeadConfig, rng: DropoutRng) -> TemporalEncoder:
    """The temporal encoder `name`.

    Raises:
        ValueError: unknown name.
    """
    return look_up(TEMPORALS, name, "temporal encoder")(config, rng)


TEMPORALS: dict[str, Callable[[HeadConfig, DropoutRng], TemporalEncoder]] = {
    "none": none,
    "gru": gru,
    "lstm": lstm,
    "ssm": ssm,
    "tcn": tcn,
    "tcn-multi": tcn_multi,
    "transformer": transformer,
    "tcn-transformer": tcn_transformer,
}
