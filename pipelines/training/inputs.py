"""What a head is given of a stream: its embeddings, their deviation from a mean over time, or both. N frames, D width.

The means are made once from the resident embeddings and belong to no cache. No label is in them, but frames of the
whole video are, those of another split in the same video too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cache.identity import NO_ROW
from heads.config import AGE
from heads.fusion import DOOR_EPS
from pipelines.training.stored import StoredRows

Rows = Tensor | StoredRows  # a stream [N, D], in memory or in the cache
InputChoice = Literal["embedding", "deviation", "both"]
BLOCK = 65536  # rows at once: a float32 copy of a whole stream would take twice its memory
MOMENTS_BLOCK = 4096  # of which two float32 copies are made
MOMENTS_BYTES = 8  # per row
NORMAL_BLOCK = 512  # what is gathered of them stays in the caches, and few calls are made
LEAST_SHARE = 8  # times the moments that a row must take: narrow streams would grow by as much as they have


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Row i of a stream has the mean `table`[`which`[i]]: table [V, D] float32, which [N] int64."""

    table: Tensor
    which: Tensor


class RowMoments:
    """Mean and 1 / standard deviation [N, 1] of each row of what a head is given, made when they are first asked for.

    A head normalises the same rows in every epoch: with their moments that is one pass over a batch, to the same bits.
    """

    def __init__(self) -> None:
        self._made: tuple[Tensor, Tensor] | None = None

    def of(self, source: "StreamInput") -> tuple[Tensor, Tensor]:
        """Those of `source`."""
        if self._made is None:
            found = []
            for rows in torch.arange(len(source.stream)).split(MOMENTS_BLOCK):
                inputs = source.rows(rows)
                found.append(torch.native_layer_norm(inputs, inputs.shape[-1:], None, None, DOOR_EPS)[1:])
            mean, scale = (torch.cat(part) for part in zip(*found, strict=True))
            self._made = mean, scale
        return self._made


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInput:
    """One stream as a head reads it: its embeddings [N, D], and the `means` of its rows where `choice` needs them.

    `moments` belong to these rows; None where they are not to be kept.
    """

    stream: Rows
    choice: InputChoice = "embedding"
    means: Means | None = None
    moments: RowMoments | None = None
    _memory: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def width(self) -> int:
        """Of what a head is given."""
        return input_width(int(self.stream.shape[1]), self.choice)

    def to(self, device: torch.device) -> "StreamInput":
        """The same on another device."""
        means = self.means
        if means is not None:
            means = Means(table=means.table.to(device), which=means.which.to(device))
        return StreamInput(stream=self.stream.to(device), choice=self.choice, means=means)

    def rows(self, rows: Tensor) -> Tensor:
        """The inputs of `rows` [R] as [R, width] float32.

        On a CPU they hold until the next call, which uses the memory again: fresh memory takes nine times as long to
        fill (3.8 ms against 0.4 ms for 2,048 rows of 768).
        """
        if self.stream.device.type != "cpu":
            return self._fresh(rows)
        size, stored = (len(rows), self.stream.shape[1]), self._stored(rows)
        inputs = self._of("inputs", len(rows), self.width, torch.float32)
        if self.means is None:
            return inputs.copy_(stored)
        which = self.means.which.index_select(0, rows)
        means = torch.index_select(self.means.table, 0, which, out=self._of("means", *size, torch.float32))
        if self.choice == "both":
            inputs[:, : size[1]] = stored
        torch.sub(stored, means, out=inputs[:, -size[1] :])
        return inputs

    @property
    def can_normalise(self) -> bool:
        """Whether `normal_rows` may be called: of streams in the memory of a CPU that are wide enough."""
        return (
            self.moments is not None
            and isinstance(self.stream, Tensor)
            and self.stream.device.type == "cpu"
            and (self.stream.shape[1] * self.stream.dtype.itemsize >= LEAST_SHARE * MOMENTS_BYTES)
        )

    def normal_rows(self, rows: Tensor, out: Tensor) -> Tensor:
        """`rows` as `heads.fusion.normalised` makes them of valid ones, written to `out` [R, width]."""
        assert self.moments is not None
        assert isinstance(self.stream, Tensor)
        table = self.moments.of(self)
        # In place, for a temporary is fresh memory; in blocks, which stay in the processor's cache.
        for place, part in zip(rows.split(NORMAL_BLOCK), out.split(NORMAL_BLOCK), strict=True):
            mean, scale = (each.index_select(0, place) for each in table)
            part.copy_(self._stored(place) if self.means is None else self.rows(place)).sub_(mean).mul_(scale)
        return out

    @property
    def is_stored(self) -> bool:
        """Whether the stream stays in the cache."""
        return isinstance(self.stream, StoredRows)

    def prefetch(self, rows: Tensor) -> None:
        """Begins to read `rows` [R] where the stream stays in the cache; a later `rows` finds them read."""
        if isinstance(self.stream, StoredRows):
            self.stream.prefetch(rows)

    def _fresh(self, rows: Tensor) -> Tensor:
        embeddings = taken(self.stream, rows).float()
        if self.means is None:
            return embeddings
        means = self.means.table.index_select(0, self.means.which.index_select(0, rows))
        deviations = embeddings - means
        return torch.cat([embeddings, deviations], dim=-1) if self.choice == "both" else deviations

    def _stored(self, rows: Tensor) -> Tensor:
        """The embeddings of `rows` [R] as they are stored, on a CPU; they hold until the next call."""
        if isinstance(self.stream, StoredRows):
            return self.stream.take(rows)
        memory = self._of("stored", len(rows), self.stream.shape[1], self.stream.dtype)
        return torch.index_select(self.stream, 0, rows, out=memory)

    def _of(self, name: str, num_rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Memory [num_rows, width], that of the call before where it is large enough."""
        if name not in self._memory or len(self._memory[name]) < num_rows:
            self._memory[name] = torch.empty(num_rows, width, dtype=dtype, device=self.stream.device)
        return self._memory[name][:num_rows]


def input_width(width: int, choice: InputChoice) -> int:
    """Width of what a head is given of a stream of `width`: D, or 2 D for both."""
    return 2 * width if choice == "both" else width


def taken(stream: Rows, rows: Tensor) -> Tensor:
    """The embeddings [R, D] of `rows` [R], as stored."""
    return stream.take(rows) if isinstance(stream, StoredRows) else stream.index_select(0, rows)


def without_ages(names: Iterable[str]) -> list[str]:
    """Of the inputs of a head those that are streams."""
    return [name for name in names if not name.endswith(AGE)]


def seen_rows(stream: Rows, valid: np.ndarray) -> np.ndarray:
    """[N] bool: where a stream [N, D + 1] with ages is valid and a row of it is seen."""
    return valid & (stream[:, -1] != NO_ROW).cpu().numpy()


def video_means(stream: Rows, valid: np.ndarray, videos: np.ndarray) -> Means:
    """The mean of each video's valid embeddings; 0 where it has none.

    Args:
        stream: [N, D].
        valid: [N] bool.
        videos: [N] int, the same for the rows of a video.
    """
    _, codes = np.unique(videos, return_inverse=True)
    which = torch.from_numpy(codes.astype(np.int64)).to(stream.device)
    mask = torch.from_numpy(valid).to(stream.device)
    num_videos = int(which.max()) + 1 if len(which) else 1
    table = torch.zeros(num_videos, stream.shape[1], dtype=torch.float64, device=stream.device)
    for start in range(0, len(stream), BLOCK):
        part = slice(start, start + BLOCK)
        table.index_add_(0, which[part], _masked(stream[part], mask[part]).double())
    counts = torch.bincount(which[mask], minlength=len(table)).clamp(min=1)
    return Means(table=(table / counts.unsqueeze(1)).float(), which=which)


def running_means(stream: Tensor, valid: np.ndarray, videos: np.ndarray, times: np.ndarray, num_frames: int) -> Means:
    """The mean of the valid embeddings of the same video in the `num_frames` real frames up to and with each row.

    Args:
        stream: [N, D], rows sorted by (video, time).
        valid: [N] bool.
        videos: [N] int.
        times: [N] real frame numbers.
        num_frames: how far back, at least 1.
    """
    first = np.searchsorted(videos, videos, side="left")
    span = num_frames + int(times.max(initial=0)) + 1
    keys = videos.astype(np.int64) * span + times
    first = np.maximum(first, np.searchsorted(keys, keys - num_frames + 1, side="left"))
    mask = torch.from_numpy(valid).to(stream.device)
    sums = torch.zeros(len(stream) + 1, stream.shape[1], dtype=torch.float64, device=stream.device)
    torch.cumsum(_masked(stream, mask).double(), dim=0, out=sums[1:])
    counts = np.concatenate([[0], np.cumsum(valid)])
    ends, starts = np.arange(1, len(stream) + 1), first
    total = sums[torch.from_numpy(ends)] - sums[torch.from_numpy(starts)]
    number = torch.from_numpy(np.maximum(counts[ends] - counts[starts], 1)).to(stream.device)
    return Means(table=(total / number.unsqueeze(1)).float(), which=torch.arange(len(stream), device=stream.device))


def _masked(stream: Tensor, mask: Tensor) -> Tensor:
    """Float32 embeddings, 0 where they are not valid."""
    return stream.float().masked_fill(~mask.unsqueeze(1), 0.0)
