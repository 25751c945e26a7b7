"""Smoothing of predictions over real time. R rows, K columns.

Widths are counted in frames of the video, not in rows: rows with gaps between them weigh by how far apart they are,
two rows further apart than the kernel reaches never meet, and neither do rows of two videos.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MEDIAN_VALUES = 4_000_000  # so many numbers at once: 32 MB
GAUSSIAN_REACH = 3.0  # in widths; what lies beyond would weigh 0.3 % of all


@dataclass(frozen=True, slots=True)
class Smoothing:
    """A kernel and its width in frames: sigma of "gaussian", half-width of "box" and "median"; "none" has none."""

    kernel: str = "none"
    width: float = 0.0

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"smoothing: unknown kernel {self.kernel!r}; known: {', '.join(KERNELS)}")
        if not 0 <= self.width < float("inf"):
            raise ValueError(f"smoothing: width {self.width} is no number of frames")

    @property
    def reach(self) -> int:
        """How many frames before and behind a frame it takes in."""
        widths = 0 if self.kernel == "none" else GAUSSIAN_REACH if self.kernel == "gaussian" else 1
        return int(widths * self.width)

    def __str__(self) -> str:
        return self.kernel if self.kernel == "none" else f"{self.kernel} {self.width:g}"


def smooth(values: np.ndarray, videos: np.ndarray, frames: np.ndarray, smoothing: Smoothing) -> np.ndarray:
    """`values` [R, K] smoothed within each video, as [R, K] float64, row for row.

    Args:
        values: what to smooth; every number finite.
        videos: [R] one number per video.
        frames: [R] frame numbers; rows may come in any order.
        smoothing: the kernel; a width of 0 changes nothing.
    """
    if smoothing.width == 0 or len(values) == 0 or smoothing.kernel == "none":
        return values.astype(np.float64)
    order = np.lexsort((frames, videos))
    width = smoothing.width
    line = _line(videos[order], frames[order], GAUSSIAN_REACH * width)
    traces = np.ascontiguousarray(values[order].T, dtype=np.float64)
    result = np.empty(values.shape)
    result[order] = KERNELS[smoothing.kernel](traces, line, width).T
    return result


def _line(videos: np.ndarray, frames: np.ndarray, reach: float) -> np.ndarray:
    """[R] float64: frame numbers on one axis, on which two videos lie further apart than `reach`."""
    step = np.diff(frames).astype(np.float64)
    step[np.diff(videos) != 0] = np.floor(reach) + 1.0
    return np.append(0.0, np.cumsum(step))


def _gaussian(traces: np.ndarray, line: np.ndarray, sigma: float) -> np.ndarray:
    return _weighted(traces, line, GAUSSIAN_REACH * sigma, lambda gap: np.exp(-0.5 * (gap / sigma) ** 2))


def _box(traces: np.ndarray, line: np.ndarray, half: float) -> np.ndarray:
    return _weighted(traces, line, half, np.ones_like)


def _weighted(
    traces: np.ndarray, line: np.ndarray, reach: float, weigh: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Means of `traces` [K, R] with the weights `weigh(gap)` of all rows at most `reach` away.

    The loop is over neighbours (the next row, the one after it, ..), each time for all rows of all videos at once.
    """
    total, weight = traces.copy(), np.ones(len(line))
    for step in range(1, len(line)):
        gap = line[step:] - line[:-step]
        near = gap <= reach
        if not near.any():
            break
        weights = np.where(near, weigh(gap), 0.0)
        total[:, step:] += weights * traces[:, :-step]
        total[:, :-step] += weights * traces[:, step:]
        weight[step:] += weights
        weight[:-step] += weights
    return total / weight


def _median(traces: np.ndarray, line: np.ndarray, half: float) -> np.ndarray:
    """Medians of `traces` [K, R] over the rows at most `half` away; rows with equally many neighbours go together."""
    reach = np.floor(half)  # gaps are whole numbers, and so the sums below are exact
    first = np.searchsorted(line, line - reach, side="left")
    count = np.searchsorted(line, line + reach, side="right") - first
    result = np.empty_like(traces)
    for size in np.unique(count):
        rows = np.flatnonzero(count == size)
        at_once = max(1, MEDIAN_VALUES // (size * len(traces)))
        for begin in range(0, len(rows), at_once):
            part = rows[begin : begin + at_once]
            around = first[part, None] + np.arange(size)
            result[:, part] = np.median(traces[:, around], axis=-1)
    return result


def _none(traces: np.ndarray, line: np.ndarray, width: float) -> np.ndarray:
    return traces


KERNELS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "none": _none,
    "gaussian": _gaussian,
    "box": _box,
    "median": _median,
}
# What is tried: a tenth of a second to three seconds at 30 frames per second. Narrow before wide: ties stay narrow.
GRID: tuple[Smoothing, ...] = (
    Smoothing(),
    *(Smoothing("gaussian", width) for width in (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)),
    *(Smoothing("box", width) for width in (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)),
    *(Smoothing("median", width) for width in (2.0, 5.0, 10.0, 20.0)),
)
