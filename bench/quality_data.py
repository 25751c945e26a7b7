"""What Q1 and Q2 are measured on: the streams of `mtl demo`, of two seeds of the made data set.

They lie in bench/work/quality, or where MTL_BENCH_QUALITY says, a folder each, and are used again: delete a folder to
have it made anew. A finished `mtl demo FOLDER --seed 0` may be copied there as `seed0`.
"""

import contextlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import torch

from bench.made_faces import WORK
from bench.rival_frames import Frames
from cache.names import ACTION_UNITS, VA_COLUMNS
from pipelines.cli import app
from pipelines.cli.demo import commands
from pipelines.config import Config, read_config
from pipelines.folds import NO_FOLD
from pipelines.training.dataset import Dataset, load_dataset

SEEDS = (0, 1)
NEEDED = ("frames.parquet", "mtl.toml", "cache.zarr")


def place() -> Path:
    """Where the data sets lie."""
    return Path(os.environ.get("MTL_BENCH_QUALITY", WORK / "quality")).resolve()


def demo_folder(seed: int) -> Path:
    """The data set of `seed` with its embeddings, made where it is not there: two to three minutes."""
    folder = place() / f"seed{seed}"
    if not all((folder / name).exists() for name in NEEDED):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            for command in commands(seed):
                if command[0] != "search":
                    run_command(command)
    return folder


def run_command(command: list[str]) -> str:
    """What `mtl COMMAND` prints; it runs here, as `mtl demo` runs it.

    Raises:
        RuntimeError: it ends with another code than 0.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = app(command, standalone_mode=False)
    if code:
        raise RuntimeError(f"mtl {' '.join(command)}: ended with {code}")
    return printed.getvalue()


def fresh_project(data: Path, folder: Path) -> Path:
    """A project at `folder` over the embeddings of `data`, its mtl.toml as `mtl init` writes it today: nothing set."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        run_command(["init", "--faces", "data/cropped_aligned"])
    for each in data.iterdir():
        if each.is_dir() or each.name.startswith("frames"):
            target = folder / each.name
            if each.name not in ("grids", "studies", "runs", "ensembles") and not target.exists():
                target.symlink_to(each)
    sections = (data / "mtl.toml").read_text().partition("[backbones.va]")
    own = folder / "mtl.toml"
    own.write_text(own.read_text() + "\n" + sections[1] + sections[2])
    return folder


def read_project(folder: Path) -> tuple[Config, Dataset]:
    """Its configuration, and its frames with all embeddings."""
    config = read_config(folder / "mtl.toml")
    return config, load_dataset(config, [(name, "base") for name in config.backbones], torch.device("cpu"))


def frames_of(config: Config, dataset: Dataset) -> Frames:
    """What a rival gets: the embeddings of all backbones side by side, labels, and the same three parts."""
    names = list(config.backbones)
    valid = dataset.resident.all_valid(names, "base")
    assert valid.all(), "the made data set has an embedding of every face"
    split = dataset.split(config.split, NO_FOLD)
    x = np.concatenate([dataset.resident.streams[name, "base"].float().numpy() for name in names], axis=1)
    labels = {name: dataset.frames[name].cast(pl.Float64).to_numpy() for name in (*VA_COLUMNS, *ACTION_UNITS)}
    return Frames(
        x=x,
        va=np.stack([labels[name] for name in VA_COLUMNS], axis=1),
        expr=dataset.frames["expression"].fill_null(-1).to_numpy().astype(np.int64),
        au=np.stack([labels[name] for name in ACTION_UNITS], axis=1),
        video=dataset.videos,
        frame=dataset.times,
        train=split.train,
        select=split.select,
        report=split.report,
    )
