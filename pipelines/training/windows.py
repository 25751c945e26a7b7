"""Windows over real time: which rows of the frames table make one input of a head. N frames, W windows, T steps.

A window takes rows of one video in the order of time. It never spans a gap longer than `max_gap` real frames, and it
never leaves a row out: the last window of a segment ends where the segment ends, and a short segment is padded.
Rows that are not kept (another split's, say) are never in a window, not even as context.
"""

import numpy as np
import polars as pl

PADDING = -1


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
    if window < 1 or stride < 1:
        raise ValueError(f"[train] window {window} and stride {stride}: each must be at least 1")
    stride = min(stride, window)
    offset %= stride
    kept = np.flatnonzero(keep)
    first, length = segments(videos[kept], times[kept], max_gap)
    room = np.maximum(length - window, 0)
    num = np.where(room > 0, -(-(room + offset) // stride) + 1, 1)
    segment = np.repeat(np.arange(len(first)), num)
    nth = np.arange(len(segment)) - np.repeat(np.cumsum(num) - num, num)
    start = np.clip(nth * stride - offset, 0, room[segment])
    steps = np.arange(min(window, max(int(length.max(initial=1)), 1)))
    position = start[:, None] + steps
    inside = position < length[segment][:, None]
    rows = np.full(position.shape, PADDING, dtype=np.int64)
    rows[inside] = kept[(first[segment][:, None] + position)[inside]]
    return rows


def segments(videos: np.ndarray, times: np.ndarray, max_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """First index and length of each stretch within one video without a gap longer than `max_gap`."""
    if len(videos) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    cut = (np.diff(videos) != 0) | (np.diff(times) > max_gap)
    first = np.concatenate([[0], np.flatnonzero(cut) + 1])
    return first, np.diff(first, append=len(videos))


def context_rows(frames: pl.DataFrame, videos: np.ndarray, part: np.ndarray) -> np.ndarray:
    """[N] bool: the rows of `part`, and the rows of split "none" in the same videos.

    Those carry no part of any score, so they may be seen as context. Rows of other splits may not: where a split cuts
    through a video, the steps beyond the cut are missing, never borrowed.
    """
    same_video = np.isin(videos, np.unique(videos[part]))
    return part | ((frames["split"] == "none").to_numpy() & same_video)


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
