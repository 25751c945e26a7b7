"""Videos of made streams and labels, in memory, and made faces on disk. N frames, D width."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch

from bench.gpu_check.sizes import Sizes
from bench.made_faces import draw_face
from bench.made_streams import made_identity
from cache.cores import num_cores
from cache.frames import conform
from cache.names import ACTION_UNITS
from extract.config import BackboneConfig
from pipelines.config import Config
from pipelines.training.dataset import Dataset, make_dataset
from pipelines.training.resident import Resident

UNLABELLED, MISSING = 0.2, 0.02  # of the labels of each group, and of the embeddings
GAP = 0.03  # of the frames have a gap before them
FILES_PER_VIDEO = 256


def made_videos(sizes: Sizes, device: torch.device, views: tuple[str, ...] = ("base",)) -> tuple[Config, Dataset]:
    """Videos as of s-Aff-Wild2: gaps, labels of some groups only, embeddings that are missing; three splits."""
    rng = np.random.default_rng(0)
    frames = _frames(sizes.videos, sizes.video_frames, rng)
    names = [f"stream{number}" for number in range(sizes.streams)]
    keys = [(name, view) for name in names for view in views]
    made = torch.Generator().manual_seed(0)
    streams = {key: torch.randn(len(frames), sizes.stream_width, generator=made).half().to(device) for key in keys}
    resident = Resident(
        streams=streams,
        valid={key: rng.random(len(frames)) >= MISSING for key in keys},
        identities={key: made_identity(*key, "0" * 32, len(frames), sizes.stream_width) for key in keys},
        device=device,
    )
    config = Config(backbones={name: BackboneConfig(model="made") for name in names})
    return config, make_dataset(frames, resident)


def _frames(num_videos: int, num_frames: int, rng: np.random.Generator) -> pl.DataFrame:
    count = num_videos * num_frames
    steps = np.where(rng.random(count) < GAP, rng.integers(2, 40, count), 1).reshape(num_videos, num_frames)
    split = np.array(["train", "train", "train", "val", "val"])
    shown = {name: rng.random(count) >= UNLABELLED for name in ("va", "expr", "au")}

    def given(group: str, values: np.ndarray) -> pl.Series:
        return pl.Series(values).set(pl.Series(~shown[group]), None)

    columns = {
        "video": np.repeat([f"v{number:05d}" for number in range(num_videos)], num_frames),
        "frame": steps.cumsum(axis=1).ravel(),
        "split": np.repeat(split[np.arange(num_videos) % len(split)], num_frames),
        "valence": given("va", rng.uniform(-1, 1, count)),
        "arousal": given("va", rng.uniform(-1, 1, count)),
        "expression": given("expr", rng.integers(0, 8, count)),
        **{name: given("au", rng.integers(0, 2, count).astype(np.int8)) for name in ACTION_UNITS},
    }
    table = pl.DataFrame(columns).with_columns(path=pl.format("{}/{}.jpg", "video", "frame"))
    return conform(table, "made videos")


@contextmanager
def made_faces(sizes: Sizes, size_px: int) -> Iterator[Path]:
    """A temporary folder with `sizes.face_files` JPEG faces of `size_px`."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-faces-") as name:
        folder = Path(name)
        paths = [folder / face_path(index) for index in range(sizes.face_files)]
        for parent in {path.parent for path in paths}:
            parent.mkdir()
        with ThreadPoolExecutor(num_cores()) as threads:
            list(threads.map(lambda index: draw_face(index, paths[index], size_px), range(len(paths))))
        yield folder


def faces_table(sizes: Sizes, num_faces: int) -> pl.DataFrame:
    """The frames table of `num_faces` of them; where that is more than the files, files are used again."""
    numbers = np.arange(num_faces)
    table = pl.DataFrame(
        {
            "video": [f"v{number // FILES_PER_VIDEO:05d}" for number in numbers],
            "frame": numbers % FILES_PER_VIDEO + 1,
            "path": [face_path(number % sizes.face_files) for number in numbers],
        }
    )
    return conform(table, "made faces")


def face_path(index: int) -> str:
    return f"v{index // FILES_PER_VIDEO:05d}/{index % FILES_PER_VIDEO + 1:05d}.jpg"
