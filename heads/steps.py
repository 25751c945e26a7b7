"""Steps of windows in real time: which are real, and how many frames lie between them. Letters: M stacked heads,
B windows, T steps, D width, H attention heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FAR = 2**62  # later than any frame


@dataclass(frozen=True, slots=True)
class Steps:
    """`valid` [M, B, T] bool; `frames` [M, B, T] int64: real frames since the first valid step, 0 where invalid."""

    valid: Tensor
    frames: Tensor


def steps_of(valid: Tensor, times: Tensor) -> Steps:
    """Times [M, B, T] counted from each window's first valid step; int64 throughout, so the origin leaves no trace."""
    first = times.masked_fill(~valid, FAR).amin(dim=2, keepdim=True)
    return Steps(valid, (times - first).masked_fill(~valid, 0))


def gaps(steps: Steps) -> tuple[Tensor, Tensor]:
    """[M, B, T] each: frames to the previous and to the next valid step; 0 where there is none."""
    before, after = (_sorted_neighbours if torch.compiler.is_exporting() else _neighbours)(steps)
    previous = (steps.frames - before).masked_fill(~steps.valid | (before < 0), 0)
    return previous, (after - steps.frames).masked_fill(~steps.valid | (after == FAR), 0)


def log_gaps(steps: Steps) -> Tensor:
    """[M, B, T, 2]: log(1 + frames) to the previous and to the next valid step; 0 where there is none."""
    return torch.stack(gaps(steps), dim=-1).float().log1p()


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


def attention_mask(sees: Tensor, *, causal: bool) -> Tensor:
    """[M, B, T, T] bool from the steps that may be seen, `sees` [M, B, T]: True where row sees column.

    A step always sees itself: without a valid step there would be nothing to see, NaN on some backends.
    """
    itself = torch.eye(sees.shape[2], dtype=torch.bool, device=sees.device)
    mask = sees.unsqueeze(2) | itself
    return mask & torch.ones_like(itself).tril() if causal else mask
