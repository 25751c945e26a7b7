"""Which video a row of the frames table is of, and which row is nearest in time. N frames."""

import numpy as np
import polars as pl

NO_ROW = -1
BLOCK = 1 << 22  # rows at once


def video_codes(frames: pl.DataFrame) -> np.ndarray:
    """[N] int32: one number per video. Ids are compared whole: 10 and 100 are two videos."""
    runs = frames["video"].rle().struct.unnest()
    codes = runs["value"].cast(pl.String).rank("dense").cast(pl.Int32).to_numpy()
    return np.repeat(codes, runs["len"].to_numpy())


def in_videos_of(videos: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[N] bool: all rows of the videos that a row under the mask `rows` [N] is of; `videos` as by `video_codes`."""
    seen = np.zeros(int(videos.max(initial=0)) + 1, bool)
    for start in range(0, len(videos), BLOCK):
        part = slice(start, start + BLOCK)
        seen[videos[part][rows[part]]] = True
    return seen[videos]


def nearest_rows(videos: np.ndarray, times: np.ndarray, good: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """For each row in `asked`, the row of `good` (both ascending) nearest in time in its video, or -1.

    Of two equally near the earlier one.
    """
    nearest = np.full(len(asked), NO_ROW, dtype=np.int64)
    distance = np.full(len(asked), np.iinfo(np.int64).max)
    after = np.searchsorted(good, asked)
    for place in (after - 1, after):
        inside = (place >= 0) & (place < len(good))
        row = np.where(inside, good[np.clip(place, 0, max(len(good) - 1, 0))], 0) if len(good) else place * 0
        far = np.abs(times[row] - times[asked])
        better = inside & (videos[row] == videos[asked]) & (far < distance)
        nearest[better], distance[better] = row[better], far[better]
    return nearest
