"""`killed_sound FOLDER N1 N2 ...` extracts the sound of FOLDER/videos into FOLDER/cache.zarr again and again.

Each time the process is killed before its N-th change of the disk, at last not. Prints how many were killed.
"""

import os
import sys
from pathlib import Path

import polars as pl

from cache.frames import conform
from cache.store import Cache
from extract.audio.backbones import load_audio
from extract.audio.engine import SoundSettings, extract_sound
from extract.config import BackboneConfig
from extract.report import Report
from helpers.kills import kill_before

FPS = 10.0


def frames_of(**videos: int) -> pl.DataFrame:
    """The frames table of videos of so many frames, from 0."""
    rows = [(video, number) for video, count in sorted(videos.items()) for number in range(count)]
    table = pl.DataFrame(rows, {"video": pl.String, "frame": pl.Int64}, orient="row")
    return conform(table.with_columns(path=pl.format("{}/{}.jpg", "video", "frame")), "made")


def run(folder: Path, frames: pl.DataFrame, **options: object) -> Report:
    """Extracts log-mel features by shards of 16 rows."""
    values = {"videos": folder / "videos", "fps": FPS, "shard_rows": 16, "dtype": "float16", **options}
    backbone = load_audio("sound", BackboneConfig(model="audio:log-mel"), folder, lambda: "cpu")
    cache = Cache.open(folder / "cache.zarr", create=True)
    return extract_sound(frames, cache, backbone, SoundSettings(**values))


def main() -> None:
    folder, changes = Path(sys.argv[1]), [int(text) for text in sys.argv[2:]]
    num_killed = 0
    for change in (*changes, 10**9):
        child = os.fork()  # a fresh interpreter each time would take a second to import
        if child == 0:
            frames = frames_of(a=40, b=25)
            kill_before(change, f"{folder}/cache.zarr")
            run(folder, frames)
            os._exit(0)
        num_killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(num_killed)
