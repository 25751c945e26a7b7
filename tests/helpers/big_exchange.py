"""A large import or export. `big_exchange FOLDER import|export KIND` prints as JSON by how many bytes the process grew
at its peak, and the seconds it took.

KIND is a file's ending, or "" for a folder of one .npy a video.
"""

import json
import re
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from cache.exchange.exporting import export_stream
from cache.exchange.importing import import_stream
from cache.frames import conform, read_frames, write_frames
from cache.store import Cache

NUM_ROWS, WIDTH, NUM_VIDEOS, SHARD_ROWS = 102_400, 1024, 100, 2048  # 210 MB of float16
PER_VIDEO = NUM_ROWS // NUM_VIDEOS


def rows_of(start: int, stop: int) -> np.ndarray:
    """[stop - start, D] float16, no two rows alike."""
    first = np.arange(start, stop)[:, None] * np.array([1 / 512, 1 / 1024])
    rows = np.zeros((stop - start, WIDTH), np.float16)
    rows[:, :2], rows[:, 2] = first, np.arange(start, stop) % 2039
    return rows


def make(folder: Path, kind: str) -> None:
    """Frames table and source `in`: a matrix in HDF5, its rows named, or in .npy, in order; or one per video."""
    videos = np.repeat([f"v{each:03d}" for each in range(NUM_VIDEOS)], PER_VIDEO)
    numbers = np.tile(np.arange(PER_VIDEO), NUM_VIDEOS)
    table = pl.DataFrame({"video": videos, "frame": numbers})
    table = table.with_columns(path=pl.format("{}/{}.jpg", "video", "frame"), split=pl.lit("train"))
    write_frames(conform(table, "made"), folder / "frames.parquet")
    if not kind:
        (folder / "in").mkdir()
        for each in range(NUM_VIDEOS):
            np.save(folder / f"in/v{each:03d}.npy", rows_of(each * PER_VIDEO, (each + 1) * PER_VIDEO))
        return
    if kind == ".npy":
        matrix = np.lib.format.open_memmap(folder / "in.npy", "w+", np.float16, (NUM_ROWS, WIDTH))
        for start in range(0, NUM_ROWS, PER_VIDEO):
            matrix[start : start + PER_VIDEO] = rows_of(start, start + PER_VIDEO)
        return
    with h5py.File(folder / "in.h5", "w") as file:
        file.create_dataset("video", data=videos.tolist(), dtype=h5py.string_dtype())
        file["frame"] = numbers
        features = file.create_dataset("features", (NUM_ROWS, WIDTH), np.float16)
        for start in range(0, NUM_ROWS, PER_VIDEO):
            features[start : start + PER_VIDEO] = rows_of(start, start + PER_VIDEO)


def run(folder: Path, verb: str, kind: str) -> None:
    frames, cache = read_frames(folder / "frames.parquet"), Cache.open(folder / "cache.zarr", create=True)
    before, start = peak_bytes(), time.monotonic()
    if verb == "import":
        report = import_stream(cache, "big", folder / f"in{kind}", frames, shard_rows=SHARD_ROWS)
        assert report.num_valid == NUM_ROWS, report
    else:
        export_stream(cache.stream("big"), frames, folder / f"out{kind}", per_video=not kind)
    print(json.dumps({"grown_bytes": peak_bytes() - before, "seconds": time.monotonic() - start}))


def peak_bytes() -> int:
    """The most memory this process has had resident, mapped files included."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    run(Path(sys.argv[1]), *sys.argv[2:])
