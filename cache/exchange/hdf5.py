"""HDF5 files as sources: one matrix [V, D]; one [T, D] a video; or one dataset [D] a frame.

Datasets of a frame are named /VIDEO/FRAME, or /FRAME/VIDEO as the paper's code has it. Which of the two a file means is
told by its names: a frame's is a number, and a reading that finds every name in the frames table goes before one that
does not. Where both readings may be meant, neither is guessed. Letters: V vectors, D width, T rows of a video.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl

from cache.exchange.hdf5_links import datasets, item, leaves
from cache.exchange.sources import (
    TIMES,
    Read,
    Source,
    SourceOptions,
    check_matrix,
    check_timed,
    check_width,
    frame_number,
    in_blocks,
    keys_in_order,
    numbered,
)
from cache.regular import check_regular

# Names under which a matrix is looked for where there are several.
MATRIX_NAMES = ("embedding", "embeddings", "features")
KEYS = {"video": pl.String, "frame": pl.Int64}
VIDEO_FIRST, FRAME_FIRST = "video/frame", "frame/video"
FORMS = (VIDEO_FIRST, FRAME_FIRST)


def open_hdf5(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """Raises ValueError where the file is not HDF5, leads out of itself, or has none of the three forms."""
    check_regular(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({error})") from None
    with file:
        try:
            return _opened(file, path, frames, options)
        except (OSError, RuntimeError, KeyError, UnicodeError) as error:  # damage inside
            raise ValueError(f"{path}: cannot be read as HDF5 ({str(error).splitlines()[0]})") from None


def _opened(file: Any, path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    if not options.dataset:
        matrices = _video_matrices(file, path, frames)
        if matrices:
            return _open_videos(file, path, matrices, frames, options)
    if options.first_frame is not None:
        raise ValueError(f"{path}: --first-frame goes with one matrix per video, named as the video; there is none")
    name = _matrix_name(file, path, options.dataset, frames)
    if name is None:
        return _open_frames(file, path, frames, options.names)
    if options.names:
        raise ValueError(f"{path}: --names goes with one dataset per frame; this is a matrix, {name}")
    return _open_matrix(file, path, name, frames)


def _matrix_name(file: Any, path: Path, asked: str, frames: pl.DataFrame) -> str | None:
    """The dataset that is the matrix; None where the file has only groups."""
    if asked:
        if not isinstance(item(file, asked, path), h5py.Dataset):
            raise ValueError(f"{path}: no dataset {asked!r}; there: {', '.join(file) or 'nothing'}")
        return asked
    found = dict(datasets(file, path))
    matrices = [name for name, dataset in found.items() if dataset.ndim == 2]
    named = [name for name in MATRIX_NAMES if name in matrices] or matrices
    if len(matrices) > 1 and named is matrices:
        raise ValueError(
            f"{path}: several matrices ({', '.join(matrices[:8])}); choose with --dataset, or name each as a video of "
            f"the table, such as {frames['video'][0] if len(frames) else 'none'!r}"
        )
    if found and not named:
        raise ValueError(f"{path}: no matrix [rows, width] among its datasets {', '.join(list(found)[:8])}")
    return named[0] if named else None


def _open_matrix(file: Any, path: Path, name: str, frames: pl.DataFrame) -> Source:
    """A matrix, its rows named by the datasets video and frame, or video, start_s and end_s, beside it; or those of the
    frames table in order."""
    matrix = item(file, name, path)
    beside = matrix.parent
    width = check_matrix(matrix.shape, matrix.dtype, f"{path}: {name}")
    there = {key: item(beside, key, path) for key in ("video", "frame", *TIMES, "valid")}
    is_timed = any(there[key] is not None for key in TIMES)
    in_order = there["video"] is None and there["frame"] is None and not is_timed
    columns: dict[str, Any] = {}
    if in_order:
        hint = "put datasets video and frame beside it, which name its rows"
        columns = keys_in_order(len(matrix), frames, f"{path}: {name}", hint).to_dict()
    else:
        if is_timed:
            check_timed([key for key, data in there.items() if data is not None], str(path))
        names = ("video", *TIMES) if is_timed else ("video", "frame")
        columns = {key: _companion(there[key], key, len(matrix), path) for key in names}
    if there["valid"] is not None:
        columns["valid"] = _companion(there["valid"], "valid", len(matrix), path)

    def read_range(start: int, stop: int) -> np.ndarray:
        with h5py.File(path, "r") as again:
            return again[name][start:stop]

    read = in_blocks(read_range, len(matrix), width)
    return Source(files=(path,), keys=pl.DataFrame(columns), width=width, read=read, in_order=in_order)


def _companion(data: Any, key: str, num_rows: int, path: Path) -> pl.Series:
    """video as text, frame as whole numbers, times as numbers or valid as truth, one per row of the matrix."""
    if not isinstance(data, h5py.Dataset) or data.shape != (num_rows,):
        raise ValueError(f"{path}: {key} is missing or has not one value for each of the {num_rows} rows")
    text = h5py.check_string_dtype(data.dtype) is not None
    values = (data.asstr()[:] if text else data[:]).tolist()
    if key == "video":
        return pl.Series([str(value) for value in values], dtype=pl.String)
    if key == "valid":
        return pl.Series([bool(value) for value in values], dtype=pl.Boolean)
    if key in TIMES:
        if data.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {key} is {data.dtype}, wanted seconds")
        return pl.Series(values, dtype=pl.Float64)
    numbers = [frame_number(str(value)) for value in values]
    if None in numbers:
        raise ValueError(f"{path}: frame {values[numbers.index(None)]!r} is not a frame's number")
    return pl.Series(numbers, dtype=pl.Int64)


def _video_matrices(file: Any, path: Path, frames: pl.DataFrame) -> dict[str, str]:
    """Video -> the dataset [T, D] of its name, or one of `MATRIX_NAMES` in a group of its name."""
    if any(isinstance(item(file, name, path), h5py.Dataset) for name in MATRIX_NAMES):
        return {}
    found: dict[str, str] = {}
    for video in frames["video"].unique(maintain_order=True):
        there = item(file, video, path)
        for name in (video, *(f"{video}/{each}" for each in MATRIX_NAMES if isinstance(there, h5py.Group))):
            dataset = item(file, name, path)
            if isinstance(dataset, h5py.Dataset) and dataset.ndim == 2:
                found.setdefault(video, name)
    return found


def _open_videos(
    file: Any, path: Path, matrices: dict[str, str], frames: pl.DataFrame, options: SourceOptions
) -> Source:
    """One matrix per video: its rows are the video's frames in order, or numbered by a dataset frame beside it in the
    video's group, or by `first_frame` and `step`. Any other at the file's top counts as one vector."""
    if options.names:
        raise ValueError(f"{path}: --names goes with one dataset per frame; these are matrices, one per video")
    rows = {key[0]: part["frame"] for key, part in frames.group_by("video", maintain_order=True)}
    names, parts, lengths, width = [], [], [], 0
    for video, name in matrices.items():
        dataset = item(file, name, path)
        found = check_matrix(dataset.shape, dataset.dtype, f"{path}: /{name}")
        width = width or found
        check_width(found, width, f"{path}: /{name}")
        index = item(dataset.parent, "frame", path) if name != video else None
        numbers = None if index is None else _companion(index, "frame", len(dataset), path)
        parts.append(numbered(video, len(dataset), rows[video], options, f"{path}: /{name}", numbers))
        names.append(name)
        lengths.append(len(dataset))
    tops = {name.split("/")[0] for name in names}
    others = [name for name, _ in datasets(file, path) if name not in tops]
    extra = pl.DataFrame({"video": others, "frame": [0] * len(others)}, KEYS)
    starts = np.cumsum([0, *lengths])
    return Source(
        files=(path,),
        keys=pl.concat([*parts, extra]),
        width=width,
        read=_video_reader(path, names, starts, width),
    )


def _video_reader(path: Path, names: list[str], starts: np.ndarray, width: int) -> Read:
    def read(indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), width), np.float64)
        owner = np.searchsorted(starts, indices, side="right") - 1
        with h5py.File(path, "r") as file:
            for number in np.unique(owner):
                mine, dataset = owner == number, file[names[number]]
                out[mine] = _rows_of(dataset, indices[mine] - starts[number], width)
        return out

    return read


def _rows_of(dataset: Any, indices: np.ndarray, width: int) -> np.ndarray:
    return in_blocks(lambda start, stop: dataset[start:stop], len(dataset), width)(indices)


def _open_frames(file: Any, path: Path, frames: pl.DataFrame, form: str) -> Source:
    """One dataset [D] a frame; names are indexed, vectors read when they are asked for."""
    names = list(leaves(file, path))
    if not names or len(names[0]) < 2:
        raise ValueError(f"{path}: holds no vectors; wanted a matrix, /VIDEO/FRAME or /FRAME/VIDEO")
    keys = _chosen(names, frames, path, form)
    full = ["/".join(parts) for parts in names]
    width = int(_vector(file, full[0], path).size)
    return Source(files=(path,), keys=keys, width=width, read=_frame_reader(path, pl.Series(full), width))


def _chosen(names: list[tuple[str, ...]], frames: pl.DataFrame, path: Path, asked: str) -> pl.DataFrame:
    """The keys of `names` by the form `asked` for, else by the only one that can be meant.

    Raises:
        ValueError: a name has no frame's number, or both forms may be meant.
    """
    read = {form: keys for form in ((asked,) if asked else FORMS) if (keys := _read_names(names, form)) is not None}
    if not read:
        odd = next(parts for parts in names if frame_number(parts[0]) is None or frame_number(parts[-1]) is None)
        wanted = f"/{asked.upper()}" if asked else "/VIDEO/FRAME or /FRAME/VIDEO"
        raise ValueError(f"{path}: /{'/'.join(odd)} has no frame's number in its place; wanted {wanted}")
    if len(read) == 1:
        return next(iter(read.values()))
    table = frames.select("video", "frame")
    hits = {form: len(keys.join(table, on=["video", "frame"], how="semi")) for form, keys in read.items()}
    likely = [form for form in read if hits[form] == len(names)] or [form for form in read if hits[form]]
    if len(likely) == 1:
        return read[likely[0]]
    first = next((parts for parts in names if parts[0] != parts[-1]), names[0])
    raise ValueError(
        f"{path}: /{'/'.join(first)} may be video {first[0]!r} frame {first[-1]} or video {first[-1]!r} frame "
        f"{first[0]}; say which by --names {VIDEO_FIRST} or --names {FRAME_FIRST}"
    )


def _read_names(names: list[tuple[str, ...]], form: str) -> pl.DataFrame | None:
    """video and frame of each of `names`; None where one has no number in the frame's place."""
    at, rest = (-1, slice(None, -1)) if form == VIDEO_FIRST else (0, slice(1, None))
    numbers = [frame_number(parts[at]) for parts in names]
    if None in numbers:
        return None
    return pl.DataFrame({"video": ["/".join(parts[rest]) for parts in names], "frame": numbers}, KEYS)


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
    found = item(file, name, path)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu" or not found.size:
        raise ValueError(f"{path}: /{name} is not a vector of numbers")
    check_matrix((1, found.size), found.dtype, f"{path}: /{name}")
    return found[()]
