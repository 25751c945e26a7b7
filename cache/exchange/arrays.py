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

from cache.exchange.sources import (
    TIMES,
    Source,
    SourceOptions,
    check_matrix,
    check_timed,
    check_width,
    frame_number,
    in_blocks,
    in_files,
    keys_in_order,
    numbered,
)
from cache.parquet import panics_as_errors, parquet_schema, scan_parquet
from cache.regular import PICKLE_BYTES, check_regular

MAX_ENDS = 8  # more than that are other videos' names
HSEMOTION_PARTS = ("features", "scores")
KEYS = ("frame", *TIMES)
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
        with panics_as_errors():
            first = scan_parquet(path).select("embedding").head(1).collect()["embedding"]
    except PolarsError:
        raise ValueError(f"{path}: no column embedding; for keys of a matrix, import the .npy file") from None
    inner = first.dtype.inner if isinstance(first.dtype, pl.Array | pl.List) else None
    if inner is None or not (inner.is_integer() or inner.is_float()):
        raise ValueError(f"{path}: embedding is not a column of lists of numbers but of {first.dtype}")
    if first.is_empty() or first[0] is None or not len(first[0]):
        raise ValueError(f"{path}: embedding has no vector in its first row")
    width = check_matrix((len(keys), len(first[0])), np.dtype(np.float64), str(path))

    def read_range(start: int, stop: int) -> np.ndarray:
        try:
            with panics_as_errors():
                block = scan_parquet(path).select("embedding").slice(start, stop - start).collect()["embedding"]
        except PolarsError as error:
            raise ValueError(f"{path}: damaged ({str(error).partition(chr(10))[0]}); write it again") from None
        if isinstance(block.dtype, pl.List):
            widths = block.list.len().fill_null(0).to_numpy()
            wrong = int((widths != width).argmax())
            check_width(int(widths[wrong]), width, f"{path}: row {start + wrong + 1}")
            block = block.list.to_array(width)
        return block.cast(pl.Array(pl.Float64, width)).to_numpy()

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
    parts = [
        numbered(video, lengths[video], rows[video], options, str(file))
        if video in lengths
        else ONE_VECTOR.select(pl.lit(video).alias("video"), "frame")
        for video, file in files.items()
    ]
    starts, order = np.cumsum([0, *map(len, parts)])[:-1], list(files.values())
    read = in_files(lambda file: load_array(order[file]), starts, width)
    return Source(files=tuple(order), keys=pl.concat(parts), width=width, read=read)


def _ends(names: list[str], videos: set[str]) -> str:
    """What follows the videos' names in the names of the files, for an error; else an example of both."""
    ends = {name[cut:] for name in names for cut in range(1, len(name)) if name[:cut] in videos}
    if ends and len(ends) <= MAX_ENDS:
        return f"after a video's name its files have {', '.join(sorted(ends))}; choose with --suffix"
    return f"there is {names[0]}.npy, and the table has video {min(videos)!r}"


ONE_VECTOR = pl.DataFrame({"frame": [0]}, {"frame": pl.Int64})


def open_pickle(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """A pickled dictionary {"video/frame" or (video, frame): vector}; loading it runs code that the file names.

    A value may be several arrays, as HSEmotion keeps (features, scores): `options.part` chooses.

    Raises:
        ValueError: not allowed by the options, or something else.
    """
    if not options.allow_pickle:
        raise ValueError(f"{path}: loading a pickle runs code from the file; if you trust it, add --allow-pickle")
    check_regular(path, PICKLE_BYTES)
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
    vectors = []
    for (video, frame), value in zip(keys, table.values(), strict=True):
        where = f"{path}: video {video!r} frame {frame}"
        vectors.append(_floats(part_of(value, options.part, where), where))
        check_width(vectors[-1].size, vectors[0].size, where)
    schema = {"video": pl.String, "frame": pl.Int64}
    matrix = np.stack(vectors)
    check_matrix(matrix.shape, matrix.dtype, str(path))
    return Source(
        files=(path,), keys=pl.DataFrame(keys, schema, orient="row"), width=matrix.shape[1], read=lambda at: matrix[at]
    )


def part_of(value: Any, part: str, where: str) -> Any:
    """The array `part` of a value that is several; the value itself where it is one vector.

    Raises:
        ValueError: several arrays and no part asked for, or no such part; names those there are.
    """
    if isinstance(value, dict):
        parts = {str(name): each for name, each in value.items()}
    elif isinstance(value, tuple | list) and any(np.ndim(each) for each in value):
        parts = {str(number): each for number, each in enumerate(value)}
        if len(parts) == len(HSEMOTION_PARTS):  # HSEmotion's order
            parts |= dict(zip(HSEMOTION_PARTS, value, strict=True))
    elif part:
        raise ValueError(f"{where}: --part {part}: it is one vector and has no parts; leave out --part")
    else:
        return value
    if part not in parts:
        there = ", ".join(f"{name} ({np.size(each)} numbers)" for name, each in parts.items())
        problem = f"no part {part}" if part else "several arrays"
        raise ValueError(f"{where}: {problem}; choose with --part: {there}")
    return parts[part]


def _pickle_key(key: Any, path: Path) -> tuple[str, int]:
    parts = key.rsplit("/", 1) if isinstance(key, str) else key
    if isinstance(parts, tuple | list) and len(parts) == 2:
        number = frame_number(str(parts[1]))
        if number is not None:
            return str(parts[0]), number
    raise ValueError(f'{path}: key {key!r} is neither "video/frame" nor (video, frame)')


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped, not read; one that would run code is refused."""
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a header is parsed as Python and may claim any shape: OverflowError, RecursionError
        words = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: cannot be read as .npy ({words[0]})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: cannot be read as .npy (it is an archive of several arrays)")
    return array


def _floats(value: Any, where: str) -> np.ndarray:
    """[D] of anything that is numbers; halves, integers and lists too."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError
        return array.astype(np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: not a vector of numbers but {type(value).__name__}") from None


def read_keys(path: Path) -> pl.DataFrame:
    """The columns video and frame, or video, start_s and end_s, of a Parquet file, and valid where it has it; or video
    and frame from a column of paths."""
    check_regular(path)
    try:
        with panics_as_errors():
            columns = parquet_schema(path)
            keys = scan_parquet(path).select(_key_columns(path, columns)).collect()
            numbers = [
                pl.col(key).cast(pl.Int64 if key == "frame" else pl.Float64) for key in keys.columns if key in KEYS
            ]
            return keys.with_columns(pl.col("video").cast(pl.String), *numbers)
    except (PolarsError, OSError) as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: cannot be read as keys ({words[0]})") from None


def _key_columns(path: Path, columns: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    valid = [pl.col("valid").cast(pl.Boolean)] if "valid" in columns else []
    if any(key in columns for key in TIMES):
        check_timed(columns, str(path))
        return [pl.col(key) for key in ("video", *TIMES)] + valid
    if "video" in columns and "frame" in columns:
        for key, is_fit in (("frame", columns["frame"].is_integer()), ("video", columns["video"].is_integer())):
            if not is_fit and columns[key] != pl.String:
                wanted = "whole numbers" if key == "frame" else "names"
                raise ValueError(f"{path}: {key} is a column of {columns[key]}, wanted {wanted}")
        return [pl.col("video"), pl.col("frame"), *valid]
    for name in PATH_COLUMNS:
        if name in columns:
            text = pl.col(name).cast(pl.String).str.replace_all("\\", "/", literal=True)
            return [text.str.extract(PATH_KEY, 1).alias("video"), text.str.extract(PATH_KEY, 2).alias("frame"), *valid]
    raise ValueError(f"{path}: no columns video and frame, nor one of {', '.join(PATH_COLUMNS)}")
