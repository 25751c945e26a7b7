"""A small extraction: noise faces, a tiny backbone.

`made_extraction FOLDER N1 N2 ...` extracts into FOLDER again and again, each time killed at
its N-th opening, renaming, removing, linking or making of a file or folder (faces that are read included), at last not;
prints how many were killed.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import Tensor, nn

from cache.frames import conform
from cache.store import Cache
from extract.backbones.build import Backbone
from extract.backbones.classifier import Scores, WithScores
from extract.backbones.weights import weights_digest
from extract.config import BackboneConfig, Preprocessing
from extract.engine import extract
from extract.jobs import Settings
from extract.report import Hooks, Report
from helpers.kills import kill_before

NUM_FACES, SHARD_ROWS, SIZE_PX = 70, 16, 16


class Tiny(nn.Module):
    """[B, 3, S, S] -> [B, D] by one convolution. `dying` raises in place of a forward pass."""

    def __init__(self, width: int, dying: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, width, 4, stride=4)
        self.dying = dying
        self.num_forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        assert not self.dying, "a forward pass"
        self.num_forwards += 1
        return self.layer(x).mean((2, 3))


def tiny(
    name: str = "expr",
    seed: int = 0,
    size_px: int = SIZE_PX,
    width: int = 6,
    dying: bool = False,
    num_scores: int = 0,
) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Tiny(width, dying).eval()
        classifier = nn.Linear(width, num_scores or 1)
    whole = WithScores(module, classifier).eval()
    scores = Scores(width=num_scores, classes=(), weights_digest=weights_digest(whole))
    return Backbone(
        name=name,
        config=BackboneConfig(
            model="tiny", weights="random", outputs=("embedding", "scores") if num_scores else ("embedding",)
        ),
        module=whole if num_scores else module,
        architecture="tiny",
        preprocessing=Preprocessing(size_px=size_px, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        pooling="avg",
        width=width,
        weights_digest=weights_digest(module),
        scores=scores if num_scores else None,
    )


def make_faces(folder: Path, num_faces: int = NUM_FACES, size_px: int = SIZE_PX, quality: int = 90) -> pl.DataFrame:
    """JPEGs of smoothed noise, no two alike, in three videos; returns their frames table."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(num_faces):
        video, frame = f"v{index % 3}", index * 2
        path = folder / video / f"{frame:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((size_px, size_px), Image.Resampling.BICUBIC).save(path, quality=quality)
        rows.append((video, frame, f"{video}/{path.name}"))
    return conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "made faces")


def run(
    frames: pl.DataFrame,
    folder: Path,
    *backbones: Backbone,
    advance: Callable[[int], None] = lambda count: None,
    place: Path | str = "",
    **options: object,
) -> Report:
    """Extracts from folder/faces into folder/cache.zarr, or into the cache at `place`."""
    cache = Cache.open(place or folder / "cache.zarr", create=True)
    defaults = {"batch_size": 5, "num_threads": 2, "shard_rows": SHARD_ROWS, "device": torch.device("cpu")}
    return extract(
        frames, folder / "faces", cache, backbones, Settings(**{**defaults, **options}), Hooks(advance=advance)
    )


def main() -> None:
    folder, changes = Path(sys.argv[1]), [int(text) for text in sys.argv[2:]]
    num_killed = 0
    for change in (*changes, 10**9):
        # A fresh interpreter each time would take seconds to import. Nothing that starts threads (Polars, torch) may
        # have been used before.
        child = os.fork()
        if child == 0:
            frames = make_faces(folder / "faces")
            kill_before(change, str(folder))
            run(frames, folder, tiny("expr"), tiny("va", seed=1, width=3))
            os._exit(0)
        num_killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(num_killed)
