"""A folder of small made faces for pretraining: each video has a colour and a moving bar, each face some noise."""

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from cache.frames import conform, write_frames

SIDE = 64
TOML = """# mine
[data]
faces = "faces"
[pretrain]   # small
size_px = 64
epochs = 3
warmup_epochs = 0.5
batch_size = 12
base_lr = 0.03
decoder_width = 32
decoder_depth = 1
held_out_faces = 6
precision = "float32"
"""


def draw(video: int, frame: int, rng: np.random.Generator) -> np.ndarray:
    """[S, S, 3] uint8."""
    ramp = np.linspace(-60, 60, SIDE)[:, None, None] * np.array([1, (-1) ** video, 0.5])
    face = np.full((SIDE, SIDE, 3), 110.0) + ramp + rng.normal(0, 4, (SIDE, SIDE, 3))
    top = 4 + 5 * frame % 48
    face[top : top + 8, 8:56] = 20 * video
    return face.clip(0, 255).astype(np.uint8)


def make_project(folder: Path, num_videos: int = 8, num_frames: int = 6) -> pl.DataFrame:
    """mtl.toml, frames table and faces in `folder`; the last two videos are val and test."""
    rng, rows = np.random.default_rng(0), []
    for video in range(num_videos):
        for frame in range(num_frames):
            path = f"v{video}/{frame:05d}.png"
            (folder / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(video, frame, rng)).save(folder / "faces" / path)
            split = {num_videos - 1: "test", num_videos - 2: "val"}.get(video, "train")
            rows.append({"video": f"v{video}", "frame": frame, "path": path, "split": split, "expression": video % 4})
    frames = conform(pl.DataFrame(rows), "made")
    write_frames(frames, folder / "frames.parquet")
    (folder / "mtl.toml").write_text(TOML)
    return frames
