"""A stream as a file that other programs read: HDF5, .npy with keys, Parquet, or a folder of one .npy per video.

Rows of failed faces are zeros with valid False; in a folder, which has no place for that, they are NaN. Everything is
written under a temporary name, shard by shard, then renamed. Letters: N frames, D width, R rows of a shard.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from cache.durable import naming, recover_folder, replace_folder, sync, sync_tree, temporary_beside
from cache.frames import OUTSIDE, frames_digest
from cache.parquet import parquet_bytes, scan_parquet
from cache.stream import Stream

ROW_GROUP_ROWS = 4096  # of Parquet: where Polars chose, an export of 400 MB held twice that


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Export:
    """What is written: `keys` [N rows] has video, frame and valid; `advance` is told of rows."""

    stream: Stream
    keys: pl.DataFrame
    advance: Callable[[int], None]

    def shards(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(start, stop, rows [R, D]) of every shard, checked, in order."""
        for shard in range(self.stream.num_shards):
            start, stop = self.stream.rows(shard)
            yield start, stop, self.stream.read_shard(shard)
            self.advance(stop - start)

    @property
    def shape(self) -> tuple[int, int]:
        return self.stream.num_rows, self.stream.width


def export_stream(
    stream: Stream,
    frames: pl.DataFrame,
    target: Path,
    *,
    per_video: bool = False,
    force: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Writes `stream`, whose rows are those of `frames`, to `target`; what was there stays until the new is whole.

    Returns:
        The files or the folder written.

    Raises:
        ValueError: the stream is incomplete, damaged or of another frames table, the format is unknown, or something
            is there and `force` is False.
    """
    kind = "" if per_video else target.suffix.lower()
    if kind not in WRITERS or not (kind or per_video):
        known = ", ".join(filter(None, WRITERS))
        raise ValueError(f"{target}: unknown format; known: {known}, and a folder with --per-video")
    targets = [target, target.with_suffix(".parquet")] if kind == ".npy" else [target]
    if per_video:
        recover_folder(target)
    _check_targets(targets, per_video, force)
    stream.require_complete()
    if frames_digest(frames) != stream.identity.frames:
        raise ValueError(f"{stream.where} was made for another frames table; type {stream.remake_hint}")
    keys = frames.select("video", "frame").with_columns(pl.Series("valid", stream.valid()))
    temporaries = [temporary_beside(path) for path in targets]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(target):
            WRITERS[kind](Export(stream=stream, keys=keys, advance=advance), *temporaries)
        for temporary, path in zip(reversed(temporaries), reversed(targets), strict=True):
            _put(temporary, path)
    finally:
        for temporary in temporaries:
            _remove(temporary)
    return targets


def _check_targets(targets: list[Path], per_video: bool, force: bool) -> None:
    """Raises ValueError where something is in the way that may not, or must not, be replaced."""
    for path in targets:
        if (path.exists() or path.is_symlink()) and not force:
            raise ValueError(f"{path}: is there already; add --force to replace it")
        if path.is_dir() != per_video and path.exists():
            raise ValueError(f"{path}: is a {'folder' if path.is_dir() else 'file'}; name another target")
        others = [each for each in path.rglob("*") if each.is_symlink() or not (each.is_dir() or each.suffix == ".npy")]
        if per_video and others:
            raise ValueError(f"{path}: holds more than .npy files, such as {others[0].name}; name another folder")


def _put(temporary: Path, path: Path) -> None:
    """Renames what is whole to its name."""
    if temporary.is_dir():
        sync_tree(temporary)
        replace_folder(temporary, path)
    else:
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_hdf5(export: Export, path: Path) -> None:
    """embedding [N, D], valid [N] bool, video and frame [N]; the identity as JSON in an attribute."""
    # Through a file of Python's: on a full disk HDF5's own writing fails while it closes, which ends the process.
    with open(path, "xb+") as disk, h5py.File(disk, "w") as file:
        file.attrs["identity"] = json.dumps(export.stream.identity.to_json())
        file.create_dataset("video", data=export.keys["video"].to_list(), dtype=h5py.string_dtype())
        file["frame"] = export.keys["frame"].to_numpy()
        file["valid"] = export.keys["valid"].to_numpy()
        embedding = file.create_dataset("embedding", export.shape, export.stream.dtype)
        for start, stop, rows in export.shards():
            embedding[start:stop] = rows


def _write_npy(export: Export, path: Path, keys: Path) -> None:
    """The matrix [N, D], and its keys as Parquet."""
    keys.write_bytes(parquet_bytes(export.keys))
    with open(path, "wb") as file:
        header = {"descr": export.stream.dtype.str, "fortran_order": False, "shape": export.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, _, rows in export.shards():
            file.write(rows.tobytes())


def _write_parquet(export: Export, path: Path) -> None:
    """video, frame, valid and embedding, a list of D float32 (Parquet readers know float16 poorly; nothing is lost).

    Parts of a shard each are joined by Polars' streaming writer, which holds as much as it puts into a row group.
    """
    parts = temporary_beside(path)
    parts.mkdir()
    try:
        files = []
        for start, stop, rows in export.shards():
            embedding = pl.Series("embedding", rows.astype(np.float32), pl.Array(pl.Float32, rows.shape[1]))
            files.append(parts / f"{start:012d}.parquet")
            files[-1].write_bytes(parquet_bytes(export.keys[start:stop].with_columns(embedding)))
        scan_parquet(files).sink_parquet(path, row_group_size=ROW_GROUP_ROWS)
    finally:
        shutil.rmtree(parts)


def _write_folder(export: Export, path: Path) -> None:
    """VIDEO.npy [T, D] for each video, its frames in order, NaN where there is no embedding."""
    outside = export.keys.filter(pl.col("video").str.contains(OUTSIDE))
    if len(outside):
        raise ValueError(f"video {outside['video'][0]!r}: cannot be a file's name; export to .h5 or .parquet")
    path.mkdir()
    videos, valid = export.keys["video"], export.keys["valid"].to_numpy()
    lengths = dict(videos.value_counts().iter_rows())
    for start, stop, rows in export.shards():
        rows[~valid[start:stop]] = np.nan
        for part in export.keys[start:stop].with_row_index().partition_by("video", maintain_order=True):
            video, low = part["video"][0], int(part["index"][0])
            _append(path / f"{video}.npy", rows[low : low + len(part)], lengths[video])


def _append(path: Path, rows: np.ndarray, length: int) -> None:
    """Adds `rows` to the array [length, D] at `path`, whose header comes with its first rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        if not file.tell():
            header = {"descr": rows.dtype.str, "fortran_order": False, "shape": (length, rows.shape[1])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(rows.tobytes())


WRITERS: dict[str, Callable[..., None]] = {
    "": _write_folder,
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
    ".npy": _write_npy,
    ".parquet": _write_parquet,
}
