"""Small made data for training: a frames table, streams with a planted signal, and a working folder with both."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from cache.frames import conform, frames_digest, write_frames
from cache.identity import StreamIdentity
from cache.names import ACTION_UNITS
from cache.store import Cache
from pipelines.training.dataset import Dataset, make_dataset
from pipelines.training.resident import Resident

WIDTHS = {"va": 24, "expr": 20, "au": 16}


@dataclass(frozen=True)
class Made:
    """`frames`, and `streams` [N, D] float16 by name."""

    frames: pl.DataFrame
    streams: dict[str, np.ndarray]

    def identity(self, name: str, weights: str = "w") -> StreamIdentity:
        return StreamIdentity(
            backbone=name,
            weights=weights,
            preprocessing={"size_px": 32},
            pooling="avg",
            dtype="float16",
            view="base",
            frames=frames_digest(self.frames),
            num_frames=len(self.frames),
            width=self.streams[name].shape[1],
        )

    def dataset(self, failed: tuple[int, ...] = ()) -> Dataset:
        """Resident on the CPU; the rows `failed` have no embedding."""
        valid = ~np.isin(np.arange(len(self.frames)), failed)
        resident = Resident(
            streams={(name, "base"): torch.from_numpy(x.copy()) for name, x in self.streams.items()},
            valid={(name, "base"): valid for name in self.streams},
            identities={(name, "base"): self.identity(name) for name in self.streams},
            device=torch.device("cpu"),
        )
        return make_dataset(self.frames, resident)

    def write(self, folder: Path, weights: str = "w") -> None:
        """mtl.toml, frames table and cache, as the commands find them."""
        write_frames(self.frames, folder / "frames.parquet")
        cache = Cache.open(folder / "cache.zarr", create=True)
        for name, x in self.streams.items():
            stream = cache.create(name, self.identity(name, weights), shard_rows=len(x), provenance={})
            stream.write_shard(0, x, np.zeros((len(x), 16), np.uint8), {})
        sections = [f'[backbones.{name}]\nmodel = "test_vit"\n' for name in self.streams]
        (folder / "mtl.toml").write_text("\n".join([TOML, *sections]))


TOML = """
[head]
width = 16
depth = 1
[train]
window = 16
stride = 8
batch_windows = 4
steps = 12
eval_steps = 6
warmup_steps = 6
"""


def make(
    num_videos: int = 6,
    num_frames: int = 60,
    *,
    shift: int = 0,
    seed: int = 0,
    splits: tuple[str, ...] = ("train", "train", "val", "train", "test", "val"),
) -> Made:
    """Labels follow from the embedding `shift` steps before; a frame-wise head cannot see them when `shift` > 0."""
    rng = np.random.default_rng(seed)
    tables, latents = [], []
    for video in range(num_videos):
        latent = rng.normal(size=(num_frames, 22))
        source = np.roll(latent, shift, axis=0)
        columns = {
            "video": [f"{10**video}" if video < 3 else f"clip{video}"] * num_frames,
            "frame": np.cumsum(rng.integers(1, 6, num_frames)),
            "split": [splits[video % len(splits)]] * num_frames,
            "valence": np.tanh(source[:, 0]),
            "arousal": np.tanh(source[:, 1]),
            "expression": source[:, 2:10].argmax(axis=1),
            **{name: (source[:, 10 + index] > 0.3).astype(np.int8) for index, name in enumerate(ACTION_UNITS)},
        }
        table = pl.DataFrame(columns).with_columns(path=pl.format("{}/{}.jpg", "video", "frame"))
        no_label = pl.Series(rng.random(num_frames) < 0.3)
        tables.append(table.with_columns(expression=pl.when(no_label).then(None).otherwise(pl.col("expression"))))
        latents.append(latent)
    table = pl.concat(tables).with_columns(row=pl.int_range(pl.len()))
    order = table.sort("video", "frame")["row"].to_numpy()
    latent = np.concatenate(latents)[order]
    streams = {}
    for name, width in WIDTHS.items():
        mix = rng.normal(size=(22, width)) / np.sqrt(22)
        streams[name] = (latent @ mix + 0.3 * rng.normal(size=(len(latent), width))).astype(np.float16)
    return Made(conform(table.drop("row"), "made"), streams)
