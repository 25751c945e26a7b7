"""A matrix in numbered parts as a source: NAME_0.npy, NAME_1.npy, .., each with the Parquet file of its number.

clip-retrieval writes img_emb/img_emb_0.npy, text_emb/text_emb_0.npy and metadata/metadata_0.parquet. Letters: V vectors
of all parts, D width.
"""

import re
from pathlib import Path

import numpy as np
import polars as pl

from cache.exchange.arrays import load_array, read_keys
from cache.exchange.sources import Source, SourceOptions, check_matrix, check_width, in_files

NUMBERED = re.compile(r"(.+)_(\d+)")


def has_parts(folder: Path) -> bool:
    """Whether there are numbered Parquet files in `folder`: one of an array per video has none."""
    return any(NUMBERED.fullmatch(path.stem) for path in folder.rglob("*.parquet"))


def open_parts(path: Path, frames: pl.DataFrame, options: SourceOptions) -> Source:
    """The arrays called `options.dataset`, or those of the only name there is, in the order of their numbers.

    Raises:
        ValueError: several names and none chosen, a part without its other half, or with another number of rows.
    """
    name, arrays = _chosen(_numbered(path, ".npy"), options.dataset, f"{path}: arrays", "choose with --dataset")
    keys_name, tables = _chosen(_numbered(path, ".parquet"), "", f"{path}: Parquet files", "keep those that name rows")
    lone = sorted(arrays.keys() ^ tables.keys())
    if lone:
        there, lacking = (f"{name}_*.npy", f"{keys_name}_*.parquet")[:: 1 if lone[0] in arrays else -1]
        raise ValueError(f"{path}: part {lone[0]} is among {there} and not among {lacking}; each needs the other")
    numbers = sorted(arrays)
    files, keys, width = [arrays[number] for number in numbers], [], 0
    for number, file in zip(numbers, files, strict=True):
        array = load_array(file)
        found = check_matrix(array.shape, array.dtype, str(file))
        width = width or found
        check_width(found, width, str(file))
        keys.append(_keys(tables[number], file, len(array)))
    starts = np.cumsum([0, *map(len, keys)])[:-1]
    return Source(
        files=(*files, *(tables[number] for number in numbers)),
        keys=pl.concat(keys),
        width=width,
        read=in_files(lambda file: load_array(files[file]), starts, width),
    )


def _numbered(folder: Path, suffix: str) -> dict[str, dict[int, Path]]:
    """Name -> number -> file, of all files NAME_NUMBER with that suffix.

    Raises:
        ValueError: one name and number twice.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.rglob(f"*{suffix}")):
        match = NUMBERED.fullmatch(path.stem)
        if match:
            parts = found.setdefault(match[1], {})
            if int(match[2]) in parts:
                raise ValueError(f"{path}: {parts[int(match[2])]} is part {int(match[2])} already; keep one of them")
            parts[int(match[2])] = path
    return found


def _chosen(found: dict[str, dict[int, Path]], asked: str, what: str, hint: str) -> tuple[str, dict[int, Path]]:
    """The parts of the name asked for, or of the only name there is."""
    there = ", ".join(found) or "none"
    if asked and asked not in found:
        raise ValueError(f"{what} {asked}_NUMBER: not there; names there: {there}")
    if not asked and len(found) != 1:
        raise ValueError(f"{what} NAME_NUMBER of one name wanted; names there: {there}; {hint}")
    name = asked or next(iter(found))
    return name, found[name]


def _keys(table: Path, file: Path, num_rows: int) -> pl.DataFrame:
    """video and frame of each row of a part."""
    keys = read_keys(table).select("video", "frame")
    if len(keys) != num_rows:
        raise ValueError(f"{table}: names {len(keys)} rows, {file} has {num_rows}")
    return keys
