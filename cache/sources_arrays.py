"""NumPy and Parquet files as sources: a matrix with or without keys, a folder of arrays, a pickled dictionary.

Letters: V vectors of the source, D width, T rows of a video's array.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from cache.parquet import parquet_schema, scan_parquet
from cache.sources import (
    Source,
    SourceOptions,
    check_matrix,
    check_width,
    frame_number,
    in_blocks,
    in_files,
    keys_in_order,
)

MAX_ENDS = 8  # more than that are other videos' names
PATH_COLUMNS = ("image_path", "path")
# The end of VIDEO/00001.jpg, whatever folder comes before.
PATH_KEY = r"([^/]+)/(\d+)(?:\.\w+)?$"


def open_matrix(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """A .npy matrix; its rows are named by `options.keys`, else by the Parquet file of the same name, else in order."""
    matrix = load_array(path)
    width = check_matrix(matrix.shape, matrix.dtype, str(path))
    read = in_files(lambda file: load_array(path), np.zeros(1, np.int64), width)
    beside = options.keys or path.with_suffix(".parquet")
    if options.keys is None and not beside.is_file():
        hint = "name its rows by --keys FILE.parquet with the columns video and frame"
        keys = keys_in_order(len(matrix), frames, str(path), hint)
        return Source(files=(path,), keys=keys, width=width, read=read, in_order=True)
    keys = read_keys(beside)
    if len(keys) != len(matrix):
        raise ValueError(f"{beside}: names {len(keys)} rows, {path} has {len(matrix)}")
    return Source(files=(path, beside), keys=keys, width=width, read=read)


def open_parquet(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """A Parquet table with keys and the column `embedding`, a list of numbers of one length."""
    keys = read_keys(path)
    try:
        first = scan_parquet(path).select("embedding").head(1).collect()["embedding"]
    except PolarsError:
        raise ValueError(f"{path}: no column embedding; for keys of a matrix, import the .npy file") from None
    if not isinstance(first.dtype, pl.Array | pl.List) or first.is_empty() or first[0] is None or not len(first[0]):
        raise ValueError(f"{path}: embedding is not a column of lists of numbers")
    width = len(first[0])

    def read_range(start: int, stop: int) -> np.ndarray:
        block = scan_parquet(path).select("embedding").slice(start, stop - start).collect()["embedding"]
        if isinstance(block.dtype, pl.List):
            widths = block.list.len().fill_null(0).to_numpy()
            wrong = int((widths != width).argmax())
            check_width(int(widths[wrong]), width, f"{path}: row {start + wrong + 1}")
            block = block.list.to_array(width)
        return block.to_numpy()

    return Source(files=(path,), keys=keys, width=width, read=in_blocks(read_range, len(keys), width))


def open_folder(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """One array [T, D] a video, `VIDEO.npy`; a file that no video of the table is named after counts as one vector."""
    end = f"{options.suffix}.npy"
    there = sorted(each for each in path.rglob("*.npy") if each.name.endswith(end))  # the suffix is no pattern
    files = {each.relative_to(path).as_posix().removesuffix(end): each for each in there}
    if not files:
        raise ValueError(f"{path}: no files *{end}")
    rows = {key[0]: part["frame"] for key, part in frames.group_by("video", maintain_order=True)}
    width, lengths = 0, {}
    for video in sorted(rows.keys() & files.keys()):
        # Mapped and let go: 100,000 videos are more than may be open at once.
        array = load_array(files[video])
        lengths[video] = len(array) if array.ndim else 0
        found = check_matrix(array.shape, array.dtype, str(files[video]))
        width = width or found
        check_width(found, width, str(files[video]))
    if not lengths:
        raise ValueError(
            f"{path}: no video of the frames table has a file; {_ends(list(files), {str(video) for video in rows})}"
        )
    parts = [_numbered(video, lengths.get(video), rows, options, file) for video, file in files.items()]
    starts, order = np.cumsum([0, *map(len, parts)])[:-1], list(files.values())
    read = in_files(lambda file: load_array(order[file]), starts, width)
    return Source(files=tuple(order), keys=pl.concat(parts), width=width, read=read)


def _ends(names: list[str], videos: set[str]) -> str:
    """What follows the videos' names in the names of the files, for an error; else an example of both."""
    ends = {name[cut:] for name in names for cut in range(1, len(name)) if name[:cut] in videos}
    if ends and len(ends) <= MAX_ENDS:
        return f"after a video's name its files have {', '.join(sorted(ends))}; choose with --suffix"
    return f"there is {names[0]}.npy, and the table has video {min(videos)!r}"


def _numbered(
    video: str, length: int | None, rows: dict[Any, pl.Series], options: SourceOptions, path: Path
) -> pl.DataFrame:
    """The keys of one video's T rows: the frames the table has of it, or counted from `first_frame` by `step`."""
    if length is None:
        frame = pl.Series([0])
    elif options.first_frame is not None:
        frame = pl.Series(options.first_frame + options.step * np.arange(length))
    elif length == len(rows[video]):
        frame = rows[video]
    else:
        raise ValueError(
            f"{path}: has {length} rows and the frames table {len(rows[video])} frames of video {video!r}; "
            "number the rows by --first-frame and --step"
        )
    return pl.DataFrame(
        {"video": [video] * len(frame), "frame": frame.cast(pl.Int64)}, {"video": pl.String, "frame": pl.Int64}
    )


def open_pickle(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """A pickled dictionary {"video/frame" or (video, frame): vector}; loading it runs code that the file names.

    Raises:
        ValueError: not allowed by the options, or something else.
    """
    if not options.allow_pickle:
        raise ValueError(f"{path}: loading a pickle runs code from the file; if you trust it, add --allow-pickle")
    try:
        with open(path, "rb") as file:
            table = pickle.load(file)
    except OSError:
        raise
    except Exception as error:  # a pickle can raise anything
        raise ValueError(f"{path}: cannot be unpickled ({error})") from None
    if not isinstance(table, dict) or not table:
        raise ValueError(f'{path}: not a dictionary {{"video/frame": vector}}')
    keys = [_pickle_key(key, path) for key in table]
    vectors = [_floats(np.asarray(value)).reshape(-1) for value in table.values()]
    for key, vector in zip(keys, vectors, strict=True):
        check_width(vector.size, vectors[0].size, f"{path}: video {key[0]!r} frame {key[1]}")
    schema = {"video": pl.String, "frame": pl.Int64}
    matrix = np.stack(vectors)
    return Source(
        files=(path,), keys=pl.DataFrame(keys, schema, orient="row"), width=matrix.shape[1], read=lambda at: matrix[at]
    )


def _pickle_key(key: Any, path: Path) -> tuple[str, int]:
    parts = key.rsplit("/", 1) if isinstance(key, str) else key
    if isinstance(parts, tuple | list) and len(parts) == 2:
        number = frame_number(str(parts[1]))
        if number is not None:
            return str(parts[0]), number
    raise ValueError(f'{path}: key {key!r} is neither "video/frame" nor (video, frame)')


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped, not read; one that would run code is refused."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as .npy ({error})") from None


def _floats(vectors: np.ndarray) -> np.ndarray:
    try:
        return vectors.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"a vector is not made of numbers but of {vectors.dtype}") from None


def read_keys(path: Path) -> pl.DataFrame:
    """video and frame of a Parquet file, and valid where it has it; or both from a column of paths."""
    try:
        columns = parquet_schema(path)
        keys = scan_parquet(path).select(_key_columns(path, columns)).collect()
        return keys.with_columns(pl.col("video").cast(pl.String), pl.col("frame").cast(pl.Int64))
    except (PolarsError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as keys ({str(error).splitlines()[0]})") from None


def _key_columns(path: Path, columns: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    valid = [pl.col("valid").cast(pl.Boolean)] if "valid" in columns else []
    if "video" in columns and "frame" in columns:
        if columns["frame"].is_float():
            raise ValueError(f"{path}: frame is a column of {columns['frame']}, wanted whole numbers")
        return [pl.col("video"), pl.col("frame"), *valid]
    for name in PATH_COLUMNS:
        if name in columns:
            text = pl.col(name).cast(pl.String).str.replace_all("\\", "/", literal=True)
            return [text.str.extract(PATH_KEY, 1).alias("video"), text.str.extract(PATH_KEY, 2).alias("frame"), *valid]
    raise ValueError(f"{path}: no columns video and frame, nor one of {', '.join(PATH_COLUMNS)}")
