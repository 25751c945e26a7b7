"""Faces to decode: JPEG crops of 112 px of smooth colours with a sensor's noise, about as many bytes as real crops.

They are drawn once under bench/work/faces and reused. What is in them changes no timing but through their size.
"""

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from cache.frames import conform

WORK = Path(__file__).parent / "work"
FACES = WORK / "faces"
NUM_FILES, FILES_A_VIDEO = 2048, 256
SIZE_PX, QUALITY, NOISE = 112, 92, 2.0


def made_faces(num_frames: int) -> pl.DataFrame:
    """The frames table of `num_frames` faces in FACES; where that is more than the files, files are used again."""
    for index in range(NUM_FILES):
        path = FACES / _path(index)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_face(index, path)
    rows = [(f"v{index // FILES_A_VIDEO:05d}", index % FILES_A_VIDEO + 1) for index in range(num_frames)]
    paths = [_path(index % NUM_FILES) for index in range(num_frames)]
    table = pl.DataFrame(rows, schema=["video", "frame"], orient="row").with_columns(pl.Series("path", paths))
    return conform(table, "made faces")


def _path(index: int) -> str:
    return f"v{index // FILES_A_VIDEO:05d}/{index % FILES_A_VIDEO + 1:05d}.jpg"


def draw_face(index: int, path: Path, size_px: int = SIZE_PX) -> None:
    """Whole or not at all: a run may be stopped while drawing."""
    rng = np.random.default_rng(index)
    blobs = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(blobs.resize((size_px, size_px), Image.Resampling.BICUBIC), np.float32)
    pixels = np.clip(smooth + rng.normal(0, NOISE, smooth.shape), 0, 255).astype(np.uint8)
    partial = path.with_suffix(".partial")
    Image.fromarray(pixels).save(partial, format="JPEG", quality=QUALITY)
    partial.rename(path)
