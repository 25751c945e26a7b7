"""The part of M about unlabelled faces: self-training against a joint head, where a tenth of the training subjects have
labels. The backbones are those of the other data set, which have seen none of its labels."""

import contextlib
import dataclasses

import numpy as np
import polars as pl

from bench.measure import Row
from bench.method_entries import compared, entry_of
from bench.method_pieces import Side
from bench.quality import Made
from bench.quality_data import SEEDS, demo_folder, fresh_project, read_project, run_command
from cache.frames import write_frames
from cache.labels import ABAW

SHARE = 0.1
TAUGHT = Side(values={"method": "self-training"})


def self_training(made: Made) -> Row:
    """Held-out P of self-training minus that of a joint head."""
    sparse = with_few_labels(made)
    return compared(f"M D{made.seed} method: self-training", entry_of(sparse, TAUGHT), entry_of(sparse, Side()))


def with_few_labels(made: Made) -> Made:
    """The faces of `made`, labelled for a tenth of the subjects that train; made where it is not there."""
    folder = made.project.with_name(f"{made.project.name}-few")
    if not (folder / "cache.zarr").is_dir():
        fresh_project(demo_folder(next(seed for seed in SEEDS if seed != made.seed)), folder)
        for name in ("data", "cache.zarr", "frames.parquet"):
            (folder / name).unlink()
        (folder / "data").symlink_to(made.data / "data")
        write_frames(hidden(made.table, made.seed), folder / "frames.parquet")
        with contextlib.chdir(folder):
            run_command(["extract", "--device", "cpu"])
    _, dataset = read_project(folder)
    return dataclasses.replace(made, project=folder, table=dataset.frames)


def hidden(frames: pl.DataFrame, seed: int) -> pl.DataFrame:
    """`frames` without the labels of nine in ten subjects of split train."""
    trains = pl.col("split") == "train"
    subjects = frames.filter(trains)["subject"].unique().sort().to_list()
    kept = list(np.random.default_rng(seed).permutation(subjects)[: round(SHARE * len(subjects))])
    hide = trains & ~pl.col("subject").is_in(kept)
    return frames.with_columns(pl.when(hide).then(None).otherwise(pl.col(name)).alias(name) for name in ABAW.columns)
