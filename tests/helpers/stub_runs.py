"""Run folders made without training: slow labels, predictions that are labels and noise."""

from pathlib import Path

import numpy as np
import polars as pl

from cache.frames import conform, frames_digest, labels_digest, write_frames
from cache.labels import ABAW
from cache.names import ACTION_UNITS, EXPRESSIONS
from pipelines.config import Config
from pipelines.labels import labels_of
from pipelines.metrics.predictions import Probabilities, prediction_columns
from pipelines.run_files import FORMAT, write_manifest
from pipelines.splits import resolve_split

RARE = 0.9  # AU probabilities are this far too low in log-odds: 0.5 is the wrong threshold


def make_frames(num_videos: int = 12, num_frames: int = 80, seed: int = 0) -> pl.DataFrame:
    """Videos of val and test in turn, labels that hold for some twenty frames, gaps of 1 to 3 frames."""
    rng = np.random.default_rng(seed)
    tables = []
    for index in range(num_videos):
        held = np.repeat(np.arange(num_frames // 10 + 1), 10)[:num_frames]
        va = np.tanh(rng.normal(size=(held.max() + 1, 2)))[held]
        units = {name: (rng.random(held.max() + 1) < 0.3)[held].astype(np.int8) for name in ACTION_UNITS}
        columns = {
            "video": [f"video{index:02d}"] * num_frames,
            "frame": np.cumsum(rng.integers(1, 4, num_frames)),
            "split": [("val", "test")[index % 2]] * num_frames,
            "valence": va[:, 0],
            "arousal": va[:, 1],
            "expression": rng.integers(0, 8, held.max() + 1)[held],
            **units,
        }
        tables.append(pl.DataFrame(columns))
    table = pl.concat(tables).with_columns(path=pl.format("{}/{}.jpg", "video", "frame"))
    return conform(table, "made")


def predict(
    frames: pl.DataFrame, noise: float, seed: int, tasks: tuple[str, ...] = ("va", "expr", "au")
) -> pl.DataFrame:
    """predictions.parquet of a run over `frames`; more `noise` is a worse run."""
    rng, labels = np.random.default_rng([seed, 7]), labels_of(frames)
    expr = 2.0 * np.eye(len(EXPRESSIONS))[labels.values["expr"][:, 0]] + noise * rng.normal(
        size=(len(labels), len(EXPRESSIONS))
    )
    au, va = labels.values["au"], labels.values["va"]
    units = 2 * au - 1 - RARE + noise * rng.normal(size=au.shape)
    said = {
        "va": va + 0.5 * noise * rng.normal(size=va.shape),
        "expr": np.exp(expr) / np.exp(expr).sum(axis=1, keepdims=True),
        "au": 1 / (1 + np.exp(-units)),
    }
    probabilities = Probabilities(parts={task: said[task] for task in tasks})
    split = resolve_split(frames, Config().split)
    part = pl.Series("part", np.where(split.select, "select", "report"))
    columns = prediction_columns(probabilities, probabilities.decide())
    table = frames.select("video", "frame").with_columns(part, *[pl.Series(name, v) for name, v in columns.items()])
    return table.filter(pl.Series(split.select | split.report))


def write_run(folder: Path, frames: pl.DataFrame, table: pl.DataFrame, **changes: object) -> None:
    """A run folder with `table` as its predictions."""
    folder.mkdir(parents=True)
    table.write_parquet(folder / "predictions.parquet")
    manifest = {
        "format": FORMAT,
        "name": folder.name,
        "digest": f"digest of {folder.name}",
        "frames": frames_digest(frames),
        "labels": labels_digest(frames),
        "split": resolve_split(frames, Config().split).description,
        "strategy": {},
        "schema": ABAW.to_mapping(),
        "streams": {},
        "versions": {},
        "commit": None,
    }
    write_manifest(folder, manifest | changes)


def write_project(
    folder: Path, noises: tuple[float, ...] = (1.0, 1.2, 1.4), frames: pl.DataFrame | None = None
) -> None:
    """mtl.toml, frames table and a study `studies/s` of one run a noise, named run0, run1, .."""
    frames = make_frames() if frames is None else frames
    write_frames(frames, folder / "frames.parquet")
    (folder / "mtl.toml").write_text("")
    (folder / "studies" / "s").mkdir(parents=True)
    (folder / "studies" / "s" / "study.json").write_text("{}")
    for seed, noise in enumerate(noises):
        write_run(folder / "studies" / "s" / "runs" / f"run{seed}", frames, predict(frames, noise, seed))
