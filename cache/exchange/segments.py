"""Vectors of stretches of time: which of them each frame sees, and how old it is there.

A frame stands at its number divided by the frames per second. It sees the vector whose time, [start_s, end_s), covers
it; its age there is the number of frames since that began. A frame that none covers has the age NO_ROW.
Letters: N frames, V vectors of the source.
"""

import numpy as np
import polars as pl

from cache.exchange.sources import SourceOptions
from cache.identity import NO_ROW

NO_VECTOR = -1
SLACK_S = 1.0  # how long after the last frame a vector may begin: steps of a whole second overrun the end
DIGITS = 6  # to which times in frames are rounded: 0.1 s at 30 frames per second is frame 3


def match_segments(
    keys: pl.DataFrame, frames: pl.DataFrame, fps: float, options: SourceOptions, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """For each frame the index of its vector, NO_VECTOR where none covers it, [N] int64, and its age [N] in frames.

    Where vectors overlap and may, the one that begins last counts.

    Raises:
        ValueError: times that are none, run backwards, overlap or lie outside the video, or cover no frame at all.
    """
    last = frames.group_by("video").agg((pl.col("frame").max() / fps).alias("last_s"))
    table = keys.with_row_index("vector").join(last, on="video", how="left", maintain_order="left")
    _check(table, fps, options, where)
    if "valid" in table.columns:
        table = table.filter(pl.col("valid").fill_null(False))
    rows, ages = np.full(len(frames), NO_VECTOR, np.int64), np.full(len(frames), NO_ROW)
    of_video = {video: part for (video,), part in table.group_by("video", maintain_order=True)}
    first = 0
    for (video,), part in frames.group_by("video", maintain_order=True):
        if video in of_video:
            place, numbers = slice(first, first + len(part)), part["frame"].to_numpy()
            rows[place], ages[place] = _covering(of_video[video], numbers, fps)
        first += len(part)
    if not (rows >= 0).any():
        raise ValueError(f"{where}: its times cover no frame of the frames table; {_examples(table, frames, fps)}")
    return rows, ages


def _covering(segments: pl.DataFrame, numbers: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """`match_segments` of one video: its segments by their start, and the `numbers` of its frames, ascending."""
    rows, ages = np.full(len(numbers), NO_VECTOR, np.int64), np.full(len(numbers), NO_ROW)
    begin, end = (np.round(segments[key].to_numpy() * fps, DIGITS) for key in ("start_s", "end_s"))
    firsts, lasts = np.searchsorted(numbers, begin), np.searchsorted(numbers, end)
    for vector, start, first, stop in zip(segments["vector"].to_list(), begin, firsts, lasts, strict=True):
        rows[first:stop], ages[first:stop] = vector, numbers[first:stop] - start
    return rows, ages


def _check(table: pl.DataFrame, fps: float, options: SourceOptions, where: str) -> None:
    """Raises ValueError for the first row of the first fault that there is."""
    start, end = pl.col("start_s"), pl.col("end_s")
    start_above, end_above = (each.shift(1).over("video") for each in (start, end))
    faults = [
        (~(start.is_finite() & end.is_finite()).fill_null(False), "is no time; times are seconds"),
        (end <= start, "ends before it begins"),
        (start < start_above, "runs backwards: it begins before the row above it of its video; sort the rows"),
        (start < 0, "lies outside the video, which begins at 0"),
    ]
    if not options.allow_outside:
        outside = "lies outside the video, whose last frame is at {last_s:g} s ({fps:g} frames per second, [data] fps)"
        faults.append((start > pl.col("last_s") + SLACK_S, f"{outside}; --allow-outside leaves such rows out"))
    if not options.allow_overlaps:
        overlap = "overlaps the row above it of its video, which ends at {end_above:g} s"
        faults.append((start < end_above, f"{overlap}; with --allow-overlaps the one that begins last counts"))
    for condition, words in faults:
        found = table.with_columns(end_above=end_above).filter(condition)
        if len(found):
            row = found.row(0, named=True)
            times = f"{row['start_s']} to {row['end_s']} s"
            raise ValueError(
                f"{where}: row {row['vector'] + 1} (video {row['video']!r}, {times}) {words.format(fps=fps, **row)}"
            )


def _examples(table: pl.DataFrame, frames: pl.DataFrame, fps: float) -> str:
    if not len(table) or not len(frames):
        return "one of the two has no rows"
    ours, theirs = frames.row(0, named=True), table.row(0, named=True)
    return (
        f"the file has video {theirs['video']!r} from {theirs['start_s']:g} to {theirs['end_s']:g} s, the table video "
        f"{ours['video']!r} at {ours['frame'] / fps:g} s"
    )
