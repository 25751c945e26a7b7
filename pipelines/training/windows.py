"""Windows over real time: which rows of the frames table make one input of a head. N frames, W windows, T steps.

A window takes rows of one video in the order of time. It never spans a gap longer than `max_gap` real frames, and it
never leaves a row out: the last window of a segment ends where the segment ends, and a short segment is padded.
Rows that are not kept (another split's, say) are never in a window, not even as context.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.nearest import in_videos_of

PADDING = -1
BLOCK = 1 << 22  # rows whose neighbours are compared at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Stretches of the rows `kept` [K], ascending, that no window leaves: each begins at `first` in them and has
    `length` rows."""

    kept: np.ndarray
    first: np.ndarray
    length: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """W windows of T `steps` at most over the rows `kept` [K]: each begins at `start` [W] in them and has `length` [W]
    rows. All of them as row numbers would take 8 T bytes each."""

    kept: np.ndarray
    start: np.ndarray
    length: np.ndarray
    steps: int

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: np.ndarray) -> "Windows":
        """Those of the numbers or under the mask `chosen`."""
        return Windows(kept=self.kept, start=self.start[chosen], length=self.length[chosen], steps=self.steps)

    def any(self, mask: np.ndarray) -> np.ndarray:
        """[W] bool: windows with a row that is True in `mask` [N]."""
        counts = np.zeros(len(self.kept) + 1, np.int32 if len(mask) < 2**31 else np.int64)
        np.cumsum(mask[self.kept], out=counts[1:])
        return np.asarray(counts[self.start + self.length] > counts[self.start])

    def rows(self, chosen: slice = slice(None)) -> np.ndarray:
        """[W, T] int64: the rows of each window, padded at the end with -1."""
        start, length = self.start[chosen, None], self.length[chosen, None]
        steps = np.arange(self.steps)
        if not len(self.kept):
            return np.full((len(start), self.steps), PADDING, dtype=np.int64)
        rows = self.kept[np.minimum(start + steps, len(self.kept) - 1)].astype(np.int64, copy=False)
        return np.where(steps < length, rows, PADDING)


def make_windows(
    videos: np.ndarray,
    times: np.ndarray,
    keep: np.ndarray,
    *,
    window: int,
    stride: int,
    max_gap: int,
    offset: int = 0,
) -> np.ndarray:
    """Rows of each window, padded at the end with -1; every kept row is in at least one window.

    Args:
        videos: [N] codes of `video_codes`; rows are sorted by (video, time).
        times: [N] real frame numbers.
        keep: [N] bool, rows that may be in a window.
        window: most steps in a window.
        stride: steps from one window's start to the next; more than `window` counts as `window`.
        max_gap: a longer step in real frames starts a new segment.
        offset: moves every start this many steps back, first and last windows excepted; below `stride`.

    Returns:
        [W, T] int64; T is `window`, or the longest segment where that is shorter (at least 1).
    """
    return place_windows(make_segments(videos, times, keep, max_gap), window, stride, offset).rows()


def place_windows(segments: Segments, window: int, stride: int, offset: int = 0) -> Windows:
    """The windows of `make_windows`, over segments."""
    if window < 1 or stride < 1:
        raise ValueError(f"[train] window {window} and stride {stride}: each must be at least 1")
    stride = min(stride, window)
    offset %= stride
    length = segments.length
    room = np.maximum(length - window, 0)
    num = np.where(room > 0, -(-(room + offset) // stride) + 1, 1)
    segment = np.repeat(np.arange(len(length)), num)
    nth = np.arange(len(segment)) - np.repeat(np.cumsum(num) - num, num)
    start = np.clip(nth * stride - offset, 0, room[segment])
    steps = min(window, max(int(length.max(initial=1)), 1))
    return Windows(
        kept=segments.kept,
        start=segments.first[segment] + start,
        length=np.minimum(length[segment] - start, steps),
        steps=steps,
    )


def make_segments(videos: np.ndarray, times: np.ndarray, keep: np.ndarray, max_gap: int) -> Segments:
    """The stretches of kept rows within one video without a gap longer than `max_gap`; arguments as `make_windows`."""
    kept: np.ndarray = np.empty(np.count_nonzero(keep), np.int32 if len(keep) < 2**31 else np.int64)
    filled = 0
    for begin in range(0, len(keep), BLOCK):
        rows = np.flatnonzero(keep[begin : begin + BLOCK])
        kept[filled : filled + len(rows)] = rows + begin
        filled += len(rows)
    cuts = [np.zeros(min(len(kept), 1), np.int64)]
    for begin in range(0, len(kept) - 1, BLOCK):
        rows = kept[begin : begin + BLOCK + 1]
        cut = (np.diff(videos[rows]) != 0) | (np.diff(times[rows]) > max_gap)
        cuts.append(begin + np.flatnonzero(cut) + 1)
    first = np.concatenate(cuts)
    return Segments(kept=kept, first=first, length=np.diff(first, append=len(kept)))


def context_rows(frames: pl.DataFrame, videos: np.ndarray, part: np.ndarray) -> np.ndarray:
    """[N] bool: the rows of `part`, and the rows of split "none" in the same videos.

    Those carry no part of any score, so they may be seen as context. Rows of other splits may not: where a split cuts
    through a video, the steps beyond the cut are missing, never borrowed.
    """
    others = (frames["split"] == "none").to_numpy()
    return part | (others & in_videos_of(videos, part)) if others.any() else part.copy()


def overlaps(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each row stands in the windows `rows` [W, T].

    Returns:
        The rows covered [R], ascending, and their places in the flattened windows [R, C] int64; C is the most windows
        a row is in, and a free place is W * T. Reading places in this fixed order makes averages reproducible.
    """
    flat = rows.ravel()
    places = np.flatnonzero(flat != PADDING)
    places = places[np.argsort(flat[places], kind="stable")]
    covered, begin, count = np.unique(flat[places], return_index=True, return_counts=True)
    table = np.full((len(covered), int(count.max(initial=1))), flat.size, dtype=np.int64)
    nth = np.arange(len(places)) - np.repeat(begin, count)
    table[np.repeat(np.arange(len(covered)), count), nth] = places
    return covered, table
