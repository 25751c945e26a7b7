"""HDF5 files as sources: a matrix [V, D], or one dataset a frame, `/<frame>/<video>`, as the paper's code has it.

Letters: V vectors of the file, D width.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl

from cache.sources import (
    Read,
    Source,
    SourceOptions,
    check_matrix,
    check_width,
    frame_number,
    in_blocks,
    keys_in_order,
)

# Names under which a matrix is looked for where there are several.
MATRIX_NAMES = ("embedding", "embeddings", "features")


def open_hdf5(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """Raises ValueError where the file is not HDF5, or neither of the two forms."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({error})") from None
    with file:
        name = _matrix_name(file, path, options.dataset)
        return _open_frames(file, path) if name is None else _open_matrix(file, path, name, frames)


def _matrix_name(file: Any, path: Path, asked: str) -> str | None:
    """The dataset that is the matrix; None where the file has only groups."""
    if asked:
        if not isinstance(file.get(asked), h5py.Dataset):
            raise ValueError(f"{path}: no dataset {asked!r}; there: {', '.join(file) or 'nothing'}")
        return asked
    datasets = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
    matrices = [name for name in datasets if file[name].ndim == 2]
    named = [name for name in MATRIX_NAMES if name in matrices] or matrices
    if len(matrices) > 1 and named is matrices:
        raise ValueError(f"{path}: several matrices ({', '.join(matrices)}); choose with --dataset")
    if datasets and not named:
        raise ValueError(f"{path}: no matrix [rows, width] among its datasets {', '.join(datasets)}")
    return named[0] if named else None


def _open_matrix(file: Any, path: Path, name: str, frames: pl.DataFrame) -> Source:
    """A matrix, its rows named by the datasets video and frame beside it, or those of the frames table in order."""
    matrix, beside = file[name], file[name].parent
    width = check_matrix(matrix.shape, matrix.dtype, f"{path}: {name}")
    in_order = "video" not in beside and "frame" not in beside
    columns: dict[str, Any] = {}
    if in_order:
        hint = "put datasets video and frame beside it, which name its rows"
        columns = keys_in_order(len(matrix), frames, f"{path}: {name}", hint).to_dict()
    else:
        columns = {key: _companion(beside, key, len(matrix), path) for key in ("video", "frame")}
    if "valid" in beside:
        columns["valid"] = _companion(beside, "valid", len(matrix), path)

    def read_range(start: int, stop: int) -> np.ndarray:
        with h5py.File(path, "r") as again:
            return again[name][start:stop]

    read = in_blocks(read_range, len(matrix), width)
    return Source(files=(path,), keys=pl.DataFrame(columns), width=width, read=read, in_order=in_order)


def _companion(group: Any, key: str, num_rows: int, path: Path) -> pl.Series:
    """video as text, frame as whole numbers or valid as truth, one a row of the matrix."""
    data = group.get(key)
    if not isinstance(data, h5py.Dataset) or data.shape != (num_rows,):
        raise ValueError(f"{path}: {key} is missing or has not one value for each of the {num_rows} rows")
    text = h5py.check_string_dtype(data.dtype) is not None
    values = (data.asstr()[:] if text else data[:]).tolist()
    if key == "video":
        return pl.Series([str(value) for value in values], dtype=pl.String)
    if key == "valid":
        return pl.Series([bool(value) for value in values], dtype=pl.Boolean)
    numbers = [frame_number(str(value)) for value in values]
    if None in numbers:
        raise ValueError(f"{path}: frame {values[numbers.index(None)]!r} is not a frame's number")
    return pl.Series(numbers, dtype=pl.Int64)


def _open_frames(file: Any, path: Path) -> Source:
    """One dataset [D] a frame; names are indexed, vectors read when they are asked for."""
    names, videos, numbers = [], [], []
    for frame, group in file.items():
        number = frame_number(frame)
        if number is None:
            raise ValueError(f"{path}: group {frame!r} is not a frame's number; wanted /<frame>/<video>")
        for video in group:
            names.append(f"{frame}/{video}")
            videos.append(video)
            numbers.append(number)
    if not names:
        raise ValueError(f"{path}: holds no vectors; wanted a matrix or /<frame>/<video>")
    keys = pl.DataFrame({"video": videos, "frame": numbers}, {"video": pl.String, "frame": pl.Int64})
    width = int(_vector(file, names[0], path).size)
    return Source(files=(path,), keys=keys, width=width, read=_frame_reader(path, pl.Series(names), width))


def _frame_reader(path: Path, names: pl.Series, width: int) -> Read:
    def read(indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), width), np.float64)
        with h5py.File(path, "r") as file:
            for row, name in enumerate(names.gather(indices)):
                vector = _vector(file, name, path)
                check_width(vector.size, width, f"{path}: /{name}")
                out[row] = vector.reshape(-1)
        return out

    return read


def _vector(file: Any, name: str, path: Path) -> np.ndarray:
    """[D] or [1, D]; raises ValueError where `name` is no vector of numbers."""
    item = file[name]
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu" or not item.size:
        raise ValueError(f"{path}: /{name} is not a vector of numbers")
    return item[()]
