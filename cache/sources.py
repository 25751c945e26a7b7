"""Vectors that others made, found but not yet read: what `mtl cache import` takes in.

A source is opened by `sources_hdf5` or `sources_arrays`; `importing` puts its vectors into the frames table's order.
Letters: N frames, V vectors of a source, D width, n vectors asked for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

# Rows read at a time where a format has no quick access to single rows.
BLOCK_ROWS = 8192
FRAME_NAME = re.compile(r"(\d+)(?:\.\w+)?")

Read = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to read a source.

    `dataset` is the matrix of an HDF5 file or of numbered parts, `keys` the Parquet file that names the rows of a .npy
    matrix, `suffix` what follows the video's name in a folder's file names; `first_frame` and `step` number a folder's
    rows.
    """

    dataset: str = ""
    keys: Path | None = None
    suffix: str = ""
    first_frame: int | None = None
    step: int = 1
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Where V vectors are and what they belong to.

    `files` are all that was read from, `keys` [V rows] has the columns video and frame and may have valid (False: a
    vector that does not count). `read` maps indices [n] to vectors [n, D] float64. `in_order` says that the file names
    no frames, so its rows were taken to be those of the frames table.
    """

    files: tuple[Path, ...]
    keys: pl.DataFrame
    width: int
    read: Read
    in_order: bool = False


def keys_in_order(num_vectors: int, frames: pl.DataFrame, where: str, hint: str) -> pl.DataFrame:
    """The keys of V rows that name no frames: those of the frames table, if there are as many.

    Raises:
        ValueError: there are not.
    """
    if num_vectors != len(frames):
        raise ValueError(f"{where}: has {num_vectors} rows and the frames table {len(frames)}; {hint}")
    return frames.select("video", "frame")


def check_matrix(shape: tuple[int, ...], dtype: np.dtype, where: str) -> int:
    """D of an array [V, D] of numbers; raises ValueError where it is none."""
    if len(shape) != 2 or not shape[1] or dtype.kind not in "fiu":
        raise ValueError(f"{where}: not a matrix [rows, width] of numbers but {dtype} of shape {list(shape)}")
    return shape[1]


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
        blocks = indices // BLOCK_ROWS
        for block in np.unique(blocks):
            mine, start = blocks == block, int(block) * BLOCK_ROWS
            out[mine] = read_range(start, min(start + BLOCK_ROWS, num_vectors))[indices[mine] - start]
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
