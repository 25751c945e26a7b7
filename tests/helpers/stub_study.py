"""Made frames and a trainer that only pretends, for tests of the search."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.frames import conform, frames_digest, labels_digest
from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from extract.config import BackboneConfig
from pipelines.config import Config
from pipelines.folds import NO_FOLD, Fold
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.metrics.predictions import Decisions
from pipelines.run_files import FORMAT, read_manifest, read_predictions, write_manifest
from pipelines.search.grid import expand, parse_grid
from pipelines.search.study import Result, StudyInputs, make_trials, open_study
from pipelines.splits import resolve_split
from pipelines.strategy import Strategy, strategy_of

QUALITY = {"none": 0.9, "gru": 0.6, "lstm": 0.6, "ssm": 0.5, "tcn": 0.5, "transformer": 0.55}


def make_config(**changes: Any) -> Config:
    backbones = {name: BackboneConfig(model="test_vit2", tasks=(name,)) for name in TASKS}
    return Config(backbones=backbones, **changes)


def read_part(one: Result, frames: pl.DataFrame, part: str) -> pl.DataFrame:
    """A run's predictions of the rows of `part`, each with its labels beside it as columns `true:NAME`."""
    table = read_predictions(one.folder, read_manifest(one.folder)).filter(pl.col("part") == part)
    labels = frames.select(pl.col("video", "frame"), pl.exclude("video", "frame", "path", "split").name.prefix("true:"))
    return table.join(labels, on=["video", "frame"], how="left").sort("video", "frame")


def make_frames(num_videos: int = 12, num_frames: int = 60, seed: int = 0, prefix: str = "video ") -> pl.DataFrame:
    """Videos in thirds of train, val and test; slow valence and arousal, expression and AUs that follow from them."""
    generator = np.random.default_rng(seed)
    tables = []
    for index in range(num_videos):
        number = np.cumsum(generator.integers(1, 6, num_frames))
        steps = generator.normal(0, 0.12, (num_frames, 2)).cumsum(axis=0)
        va = np.tanh(steps + generator.normal(0, 0.4, 2)).astype(np.float32)
        angle = np.floor((np.arctan2(va[:, 1], va[:, 0]) + np.pi) / (2 * np.pi) * 7.999).astype(np.int8)
        units = {name: (np.sin(va[:, 0] * (3 + k) + k) > 0.4).astype(np.int8) for k, name in enumerate(ACTION_UNITS)}
        video = f"{prefix}{index:02d}"
        table = pl.DataFrame(
            {
                "video": [video] * num_frames,
                "frame": number,
                "path": [f"{video}/{n:05d}.jpg" for n in number],
                "split": [("train", "val", "test")[index % 3]] * num_frames,
                "valence": va[:, 0],
                "arousal": va[:, 1],
                "expression": angle,
                **units,
            }
        )
        unlabelled = pl.Series(generator.random(num_frames) < 0.4)
        tables.append(
            table.with_columns(pl.when(unlabelled).then(None).otherwise(pl.col("expression")).alias("expression"))
        )
    return conform(pl.concat(tables), "made frames")


def make_inputs(frames: pl.DataFrame, config: Config, folds: tuple[Fold, ...] = (NO_FOLD,)) -> StudyInputs:
    streams = {name: {"identity": f"identity of {name}", "width": 64, "backbone": "test_vit2"} for name in TASKS}
    return StudyInputs(
        frames=frames_digest(frames),
        labels=labels_digest(frames),
        num_rows=len(frames),
        streams=streams,
        splits={fold: resolve_split(frames, config.split, fold).description for fold in folds},
    )


def make_grid(document: dict[str, Any], path: str = "grids/made.toml") -> Any:
    return parse_grid(document, Path(path), text="# a grid\n")


def make_trainer(
    frames: pl.DataFrame, config: Config, before: Callable[[Strategy], None] = lambda strategy: None
) -> Any:
    """A trainer whose runs have predictions as good as `QUALITY` of the temporal encoder says."""

    def train(strategy: Strategy, folder: Path, advance: Callable[[int], None]) -> None:
        before(strategy)
        advance(1)
        write_run(folder, strategy, frames, config)

    def trainer(stack: Sequence[tuple[Strategy, Path]], advance: Callable[[int], None]) -> list[Exception | None]:
        found: list[Exception | None] = []
        for strategy, folder in stack:
            try:
                train(strategy, folder, advance)
                found.append(None)
            except ValueError as error:
                found.append(error)
        return found

    return trainer


def write_run(folder: Path, strategy: Strategy, frames: pl.DataFrame, config: Config) -> None:
    split = resolve_split(frames, config.split, strategy.train.fold)
    generator = np.random.default_rng([int(strategy.digest, 16) % 2**32, strategy.train.seed])
    tables, metrics = [], {}
    for part in ("select", "report"):
        rows = frames.filter(getattr(split, part))
        decisions = pretend(rows, QUALITY[strategy.head.temporal], generator)
        metrics[part] = score(decisions, labels_of(rows), strategy.head.tasks)
        tables.append(as_table(rows, decisions, part, strategy.head.tasks))
    folder.mkdir(parents=True)
    pl.concat(tables).write_parquet(folder / "predictions.parquet")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_manifest(folder, {"format": FORMAT, "seconds": 1.5, "split": split.description})


def pretend(rows: pl.DataFrame, noise: float, generator: np.random.Generator) -> Decisions:
    labels = labels_of(rows)
    true, au = labels.values, labels.values["au"]
    va = true["va"] + generator.normal(0, noise * 0.5, true["va"].shape)
    wrong = generator.random(len(rows)) < noise * 0.6
    expression = np.where(wrong, generator.integers(0, len(EXPRESSIONS), len(rows)), true["expr"][:, 0])
    flipped = generator.random(au.shape) < noise * 0.35
    return Decisions(parts={"va": va, "expr": expression, "au": np.where(flipped, 1 - au, au).astype(int)})


def as_table(rows: pl.DataFrame, said: Decisions, part: str, tasks: tuple[str, ...]) -> pl.DataFrame:
    columns: dict[str, Any] = {"part": [part] * len(rows)}
    if "va" in tasks:
        columns |= {"valence": said.parts["va"][:, 0], "arousal": said.parts["va"][:, 1]}
    if "expr" in tasks:
        columns["expression"] = said.parts["expr"].astype(np.int8)
        sure = np.where(np.arange(len(EXPRESSIONS)) == said.parts["expr"][:, None], 0.8, 0.2 / 7).astype(np.float32)
        columns |= {f"p_{name}": sure[:, k] for k, name in enumerate(EXPRESSIONS)}
    if "au" in tasks:
        columns |= {name: said.parts["au"][:, k].astype(np.int8) for k, name in enumerate(ACTION_UNITS)}
        columns |= {f"p_{name}": (0.2 + 0.6 * columns[name]).astype(np.float32) for name in ACTION_UNITS}
    return rows.select("video", "frame").with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def main() -> None:
    """`stub_study FOLDER NUM` searches 12 trials in FOLDER; SIGKILL when the NUM-th that it runs has begun."""
    from pipelines.search.loop import one_at_a_time, run_trials
    from pipelines.search.record import Record

    folder, num = Path(sys.argv[1]), int(sys.argv[2])
    frames, config = make_frames(), make_config()
    grid = make_grid({"product": {"seed": list(range(12))}})
    inputs = make_inputs(frames, config)
    trials = make_trials(expand(grid, strategy_of(config)), config, inputs)
    begun: list[Strategy] = []

    def before(strategy: Strategy) -> None:
        begun.append(strategy)
        if len(begun) == num:
            os.kill(os.getpid(), signal.SIGKILL)

    with open_study(folder, grid, inputs, trials) as study:
        engine = one_at_a_time(study, make_trainer(frames, config, before))
        run_trials(study, trials, engine, Record(study, grid.fields))
