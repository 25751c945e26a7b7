"""Vectors that others made, found but not yet read: what `mtl cache import` takes in.

A source is opened by `hdf5`, `arrays` or `parts`; `importing` puts its vectors into the frames table's order.
Letters: N frames, V vectors of a source, D width, n vectors asked for.
"""

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cache.regular import MAX_VECTORS, MAX_WIDTH

# Rows read at a time where a format has no quick access to single rows.
BLOCK_ROWS = 8192
BLOCK_VALUES = 1 << 25  # of a block at most, 256 MiB of float64
TIMES = ("start_s", "end_s")  # the keys of a stretch of time, in seconds
FRAME_NAME = re.compile(r"(\d+)(?:\.\w+)?")

Read = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to read a source.

    `dataset` is the matrix of an HDF5 file or of numbered parts, `keys` the Parquet file that names the rows of a .npy
    matrix, `suffix` what follows the video's name in a folder's file names; `first_frame` and `step` number a folder's
    rows. `names` says which comes first in the names of an HDF5 file that has a dataset per frame, "video/frame" or
    "frame/video"; `part` names one of several arrays that a pickle keeps for each frame. `allow_overlaps` and
    `allow_outside` concern vectors of stretches of time (`cache.exchange.segments`).
    """

    dataset: str = ""
    keys: Path | None = None
    suffix: str = ""
    first_frame: int | None = None
    step: int = 1
    allow_pickle: bool = False
    names: str = ""
    part: str = ""
    allow_overlaps: bool = False
    allow_outside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Where V vectors are and what they belong to.

    `files` are all that was read from. `keys` [V rows] has the columns video and frame, or video, start_s and end_s for
    vectors of stretches of time, and may have valid (False: a vector that does not count). `read` maps indices [n] to
    vectors [n, D] float64. `in_order` says that the file names no frames, so its rows were taken to be those of the
    frames table.
    """

    files: tuple[Path, ...]
    keys: pl.DataFrame
    width: int
    read: Read
    in_order: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether its vectors are of stretches of time."""
        return TIMES[0] in self.keys.columns


def keys_in_order(num_vectors: int, frames: pl.DataFrame, where: str, hint: str) -> pl.DataFrame:
    """The keys of V rows that name no frames: those of the frames table, if there are as many.

    Raises:
        ValueError: there are not.
    """
    if num_vectors != len(frames):
        raise ValueError(f"{where}: has {num_vectors} rows and the frames table {len(frames)}; {hint}")
    return frames.select("video", "frame")


def check_matrix(shape: tuple[int, ...], dtype: np.dtype, where: str) -> int:
    """D of an array [V, D] of numbers; raises ValueError where it is none, or claims more than any has."""
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1 or dtype.kind not in "fiu":
        raise ValueError(f"{where}: not a matrix [rows, width] of numbers but {dtype} of shape {list(shape)}")
    if shape[0] > MAX_VECTORS or shape[1] > MAX_WIDTH:
        raise ValueError(
            f"{where}: claims {shape[0]:,} vectors {shape[1]:,} wide; at most {MAX_VECTORS:,} of {MAX_WIDTH:,} are read"
        )
    return shape[1]


def numbered(
    video: str, length: int, rows: pl.Series, options: SourceOptions, where: str, numbers: pl.Series | None = None
) -> pl.DataFrame:
    """The keys of one video's T rows: `numbers` [T] where given, else counted from `first_frame` by `step`, else the
    frames `rows` that the table has of it, if they are as many.

    Raises:
        ValueError: they are not.
    """
    if numbers is not None:
        frame = numbers
    elif options.first_frame is not None:
        frame = pl.Series(options.first_frame + options.step * np.arange(length))
    elif length == len(rows):
        frame = rows
    else:
        raise ValueError(
            f"{where}: has {length} rows and the frames table {len(rows)} frames of video {video!r}; "
            "number the rows by --first-frame and --step"
        )
    return pl.DataFrame(
        {"video": [video] * len(frame), "frame": frame.cast(pl.Int64)}, {"video": pl.String, "frame": pl.Int64}
    )


def check_timed(keys: Container[str], where: str) -> None:
    """Raises ValueError unless `keys` name stretches of time, and nothing besides."""
    lacking = [key for key in ("video", *TIMES) if key not in keys]
    if lacking:
        raise ValueError(f"{where}: has times but no {lacking[0]}; rows of times need video, start_s and end_s")
    if "frame" in keys:
        raise ValueError(f"{where}: has both frame and start_s; a row is of a frame or of a time, take one of them out")


def check_width(found: int, wanted: int, where: str) -> None:
    """Raises ValueError where the vector `where` is not as wide as the first one."""
    if found != wanted:
        raise ValueError(f"{where}: is {found} wide, the first vector {wanted}; a stream has one width")


def frame_number(name: str) -> int | None:
    """7 for "7", "00007" and "00007.jpg"; None for anything else."""
    match = FRAME_NAME.fullmatch(name)
    return int(match[1]) if match else None


def in_blocks(read_range: Callable[[int, int], np.ndarray], num_vectors: int, width: int) -> Read:
    """A `Read` from a function that gives vectors [start, stop); holds one block and what was asked for."""

    def read(indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), width), np.float64)
        block_rows = max(1, min(BLOCK_ROWS, BLOCK_VALUES // width))
        blocks = indices // block_rows
        for block in np.unique(blocks):
            mine, start = blocks == block, int(block) * block_rows
            out[mine] = read_range(start, min(start + block_rows, num_vectors))[indices[mine] - start]
        return out

    return read


def in_files(load: Callable[[int], np.ndarray], starts: np.ndarray, width: int) -> Read:
    """A `Read` from a function that gives a file's whole array, mapped; `starts` [files] is the first vector of each.

    A file is mapped while it is read from and then let go, so that neither its pages nor its handle are held.
    """

    def read(indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), width), np.float64)
        owner = np.searchsorted(starts, indices, side="right") - 1
        for file in np.unique(owner):
            mine = owner == file
            out[mine] = load(int(file))[indices[mine] - starts[file]]
        return out

    return read
