"""`scaled_stream FOLDER NUM_VIDEOS FRAMES_PER_VIDEO` takes a cache of that size through its life.

Prints as JSON the seconds of CPU that each step took and `peak_bytes`, the most memory above what the imports took.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from cache.frames import conform, frames_digest, read_frames, write_frames
from cache.identity import FACE_DIGEST_BYTES, StreamIdentity
from cache.store import Cache
from cache.summary import describe, summarise
from cache.verify import verify

WIDTH, SHARD_ROWS = 64, 4096
SECONDS: dict[str, float] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    SECONDS[name] = round(time.process_time() - start, 2)


def memory(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the peak."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name)]
    return int(line.split()[1]) * 1024


def make_table(num_videos: int, frames_per_video: int) -> pl.DataFrame:
    row = pl.int_range(num_videos * frames_per_video, eager=True)
    video = "video_" + (row // frames_per_video).cast(pl.String)
    table = pl.DataFrame({"video": video, "frame": row % frames_per_video, "split": ["train"] * len(row)})
    return table.with_columns(path=pl.format("{}/{}.jpg", "video", "frame")).sort("path")


def main() -> None:
    folder, num_videos, frames_per_video = Path(sys.argv[1]), *map(int, sys.argv[2:])
    before = memory("VmRSS")
    with step("frames table"):
        write_frames(conform(make_table(num_videos, frames_per_video), "made"), folder / "frames.parquet")
        frames = read_frames(folder / "frames.parquet")
    with step("digest"):
        digest = frames_digest(frames)
    identity = StreamIdentity(
        backbone="made",
        weights="0" * 32,
        preprocessing={},
        pooling="avg",
        dtype="float16",
        view="base",
        frames=digest,
        num_frames=len(frames),
        width=WIDTH,
    )
    cache = Cache.open(folder / "cache.zarr", create=True)
    with step("create"):
        stream = cache.create("made", identity, SHARD_ROWS, {})
    rows = np.random.default_rng(0).standard_normal((len(frames), WIDTH), np.float32).astype(np.float16)
    with step("write"), stream.writer_lock():
        for shard in range(stream.num_shards):
            start, stop = stream.rows(shard)
            digests = np.ones((stop - start, FACE_DIGEST_BYTES), np.uint8)
            stream.write_shard(shard, rows[start:stop], digests, {})
    with step("read"):
        assert np.array_equal(cache.stream("made").read(), rows)
    with step("summary"):
        (summary,) = summarise(cache, frames)
        assert summary.coverage == {"train": (len(frames), len(frames))}
        assert describe(stream)["num_done"] == len(frames)
    with step("verify"):
        assert verify(stream, frames, None, lambda count: None) == []
    print(json.dumps({"seconds": SECONDS, "peak_bytes": memory("VmHWM") - before}))
