"""Streams and labels to train heads on, made in memory; what is in them changes no timing.

Letters: N frames, D width, B windows, T steps.
"""

import numpy as np
import polars as pl
import torch

from cache.frames import conform, frames_digest
from cache.identity import StreamIdentity
from cache.names import ACTION_UNITS
from extract.config import BackboneConfig
from pipelines.config import Config
from pipelines.training.dataset import Dataset, make_dataset
from pipelines.training.resident import Resident

HELD_OUT = 256  # frames of each of val and test


def num_frames(num_steps: int, batch: int, window: int, stride: int) -> int:
    """Frames of one video whose windows fill exactly `num_steps` batches, whatever offset an epoch draws."""
    return window + stride * (batch * num_steps - 2) + 1


def made_dataset(num_train: int, widths: dict[str, int], device: torch.device) -> tuple[Config, Dataset]:
    """One video to train on and one each to choose and to report, every frame labelled for all tasks."""
    rng = np.random.default_rng(0)
    tables = []
    for split, count in (("train", num_train), ("val", HELD_OUT), ("test", HELD_OUT)):
        columns = {
            "video": [split] * count,
            "frame": np.arange(1, count + 1),
            "split": [split] * count,
            "valence": rng.uniform(-1, 1, count),
            "arousal": rng.uniform(-1, 1, count),
            "expression": rng.integers(0, 8, count),
            **{name: rng.integers(0, 2, count).astype(np.int8) for name in ACTION_UNITS},
        }
        tables.append(pl.DataFrame(columns).with_columns(path=pl.format("{}/{}.jpg", "video", "frame")))
    frames = conform(pl.concat(tables), "made streams")
    keys = [(name, "base") for name in widths]
    resident = Resident(
        streams={key: torch.randn(len(frames), widths[key[0]]).half().to(device) for key in keys},
        valid=dict.fromkeys(keys, np.ones(len(frames), bool)),
        identities={key: made_identity(*key, frames_digest(frames), len(frames), widths[key[0]]) for key in keys},
        device=device,
    )
    return Config(backbones={name: BackboneConfig(model="made") for name in widths}), make_dataset(frames, resident)


def made_identity(name: str, view: str, frames: str, num_frames: int, width: int) -> StreamIdentity:
    """Of a made stream [N, D] of the frames with the digest `frames`."""
    return StreamIdentity(
        backbone=name,
        weights="0" * 32,
        preprocessing={"size_px": 112},
        pooling="avg",
        dtype="float16",
        view=view,
        frames=frames,
        num_frames=num_frames,
        width=width,
    )
