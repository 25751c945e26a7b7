"""From mtl.toml and a grid to trials that can run: everything that can be wrong is found here, before any training."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cache.frames import frames_digest, labels_digest, read_frames
from cache.store import Cache
from pipelines.config import Config
from pipelines.epochs import Epoch
from pipelines.grid import Grid, check, expand, read_grid
from pipelines.progress import Advance
from pipelines.search import Trainer
from pipelines.splits import resolve_split
from pipelines.strategy import Strategy, strategy_of, streams_of
from pipelines.study import Material, Trial, plan, stream_label

FLOAT16_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """A grid over the data of mtl.toml. `config` has the split that the grid asks for; `keys` are (stream, view)."""

    config: Config
    grid: Grid
    folder: Path
    frames: pl.DataFrame
    material: Material
    trials: tuple[Trial, ...]
    keys: tuple[tuple[str, str], ...]

    @property
    def resident_bytes(self) -> int:
        """Memory of the streams, which are read once and stay."""
        return sum(FLOAT16_BYTES * self.material.num_rows * one["width"] for one in self.material.streams.values())


def read_strategies(config: Config, grid_path: Path) -> tuple[Config, Grid, tuple[Strategy, ...]]:
    """The grid's strategies, each one checked; and `config` with the split the grid asks for. Needs no data.

    Raises:
        ValueError: a key, value or combination that cannot be trained.
    """
    grid = read_grid(grid_path)
    config = dataclasses.replace(config, split=grid.split(config.split))
    strategies = expand(grid, strategy_of(config))
    check(strategies, config, str(grid.path))
    return config, grid, strategies


def make_plan(config: Config, grid: Grid, strategies: Sequence[Strategy], study: Path | None = None) -> SearchPlan:
    """The trials of `strategies` over the frames table and the cache; `study` is the folder, by default the grid's.

    Raises:
        ValueError: no frames table, a stream that is missing or incomplete, or a task without labels.
    """
    frames = read_frames(config.at(config.data.frames))
    keys = {
        (name, one.train.view): None for one in strategies for used in streams_of(one, config).values() for name in used
    }
    material = _material(config, frames, tuple(keys), strategies)
    return SearchPlan(
        config=config,
        grid=grid,
        folder=study or config.at(config.output.studies) / grid.name,
        frames=frames,
        material=material,
        trials=plan(strategies, config, material),
        keys=tuple(keys),
    )


def make_trainer(search: SearchPlan, device: str) -> Trainer:
    """Reads the streams once; the trainer returned trains any number of strategies over them."""
    from pipelines.dataset import load_dataset
    from pipelines.device import resolve_device
    from pipelines.run import train_run

    dataset = load_dataset(search.config, search.keys, resolve_device(device))

    def trainer(strategy: Strategy, run: Path, advance: Advance) -> None:
        def watch(_: Epoch) -> None:
            advance(1)

        train_run(search.config, dataset, strategy, run, watch=watch, force=True)

    return trainer


def _material(
    config: Config, frames: pl.DataFrame, keys: Sequence[tuple[str, str]], strategies: Sequence[Strategy]
) -> Material:
    folds = sorted({strategy.train.fold for strategy in strategies})
    splits = {fold: resolve_split(frames, config.split, fold).description for fold in folds}
    for strategy in strategies:
        _check_labels(splits[strategy.train.fold], strategy.head.tasks)
    digest = frames_digest(frames)
    return Material(
        frames=digest,
        labels=labels_digest(frames),
        num_rows=len(frames),
        streams=_streams(Cache.open(config.at(config.cache.path), read_only=True), keys, digest, len(frames)),
        splits=splits,
    )


def _streams(cache: Cache, keys: Sequence[tuple[str, str]], digest: str, num_rows: int) -> dict[str, dict[str, Any]]:
    """What each stream is; refuses one that is missing, incomplete or of other frames than those of `digest`."""
    found = {}
    for name, view in keys:
        stream = cache.stream(name, view)
        stream.require_complete()
        identity = stream.identity
        if identity.frames != digest:
            raise ValueError(
                f"stream {name} was extracted for another frame list (cached {identity.num_frames} frames, wanted "
                f"{num_rows}); type {stream.remake_hint}"
            )
        about = {"identity": identity.digest, "backbone": identity.backbone, "width": identity.width}
        found[stream_label(name, view)] = about
    return found


def _check_labels(split: Mapping[str, Any], tasks: Sequence[str]) -> None:
    """Raises `ValueError` where a task has no labelled frame to learn from or to choose on, or none is held out."""
    for part in ("train", "select"):
        if missing := [task for task in tasks if not split[part]["labelled"][task]]:
            where = split[part]["of"]
            raise ValueError(f"task {missing[0]}: no labelled frame in {where}; leave the task out of the grid's tasks")
    if not any(split["report"]["labelled"].values()):
        where = split["report"]["of"]
        raise ValueError(f'{where} has no labels to score; write report = "auto" under [study], or prepare its labels')
