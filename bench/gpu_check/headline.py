"""The headline: every strategy of 6 fusions x 4 temporal encoders x 5 sets of tasks x 5 seeds x 5 folds, by a tenth.

Stacks of one shape hold the seeds and folds of a fusion, an encoder and a set of tasks. Every tenth is trained for a
share of its steps, through all that a search does with it but for writing runs, and the time is scaled to all.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

import pipelines.training.step
from bench.gpu_check.data import made_videos
from bench.gpu_check.sizes import Sizes
from bench.measure import Row, Target
from pipelines.config import Config
from pipelines.strategy import Strategy, strategy_of
from pipelines.training.dataset import Dataset
from pipelines.training.packing import in_stacks
from pipelines.training.train import Trained, TrainRequest, train_strategies

FUSIONS = (
    {"fusion": "concat"},
    {"fusion": "sum"},
    {"fusion": "gated"},
    {"fusion": "attention"},
    {"fusion": "cross-attention"},
    {"fusion": "concat", "inputs": "both"},  # there are five; the sixth reads deviations from the video's mean too
)
TEMPORALS = ("none", "gru", "tcn", "transformer")
TASKS = (("va", "expr", "au"), ("expr", "au"), ("va", "expr"), ("va",), ("expr",))


def headline(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """HL: seconds of all stacks ÷ those of one eager head; a row per stack beside it."""
    grid = sizes.grid
    config, dataset = made_videos(sizes, device)
    config = replace(config, split=replace(config.split, num_folds=max(grid.folds, 3)))
    num_shapes = len(FUSIONS) * len(TEMPORALS) * len(TASKS)
    num_heads, per_stack = num_shapes * grid.seeds * grid.folds, grid.seeds * grid.folds
    _train(config, dataset, [_strategy(config, sizes, 0, 0, 0).replace({"steps": 2, "eval_steps": 2}, "gpu-check")])
    eager = []
    for place in range(len(TEMPORALS) if grid.num_stacks >= len(TEMPORALS) else 1):
        with _by_the_host():
            eager.append(_train(config, dataset, [_strategy(config, sizes, place, 0, 0)]) / grid.share)
    one = statistics.mean(eager)
    whole = []
    for place in range(grid.num_stacks):
        strategies = [
            _strategy(config, sizes, place, seed, fold) for fold in range(grid.folds) for seed in range(grid.seeds)
        ]
        stacks = in_stacks([(each, None) for each in strategies], config, _widths(config, dataset), device)
        seconds = sum(_train(config, dataset, [each for each, _ in stack]) for stack in stacks)
        whole.append(seconds / grid.share)
        first = strategies[0].head
        note = (
            f"{first.fusion}, {first.temporal}, {'+'.join(first.tasks)}: {seconds:.1f} s for {grid.share:.0%} of the "
            f"steps of {per_stack} heads in {len(stacks)} stacks"
        )
        what, values = "a stack's whole training ÷ one eager head's", [whole[-1] / one]
        yield Row(id=f"HL {place}", what=what, values=values, device=device.type, note=note)
    total = statistics.mean(whole) * num_shapes
    note = (
        f"{total:.0f} s for {num_heads:,} heads of {grid.steps} steps on {len(dataset.frames):,} frames, by "
        f"{len(whole)} of {num_shapes} shapes at {grid.share:.0%} of their steps; one eager head {one:.1f} s "
        f"({min(eager):.1f} to {max(eager):.1f}, of {len(eager)} encoders)"
    )
    what, target = f"{num_heads:,} heads ÷ one single eager head, seconds", Target(60, at_most=True)
    yield Row(id="HL", what=what, values=[total / one], target=target, device=device.type, note=note)


def _strategy(config: Config, sizes: Sizes, place: int, seed: int, fold: int) -> Strategy:
    """Of the shape `place`: neighbours differ in everything, twelve have every pair of fusion and encoder at most
    once."""
    grid = sizes.grid
    steps = max(grid.eval_steps, round(grid.steps * grid.share))
    values = {
        **sizes.head,
        **FUSIONS[place % len(FUSIONS)],
        "temporal": TEMPORALS[place % len(TEMPORALS)],
        "tasks": TASKS[place % len(TASKS)],
        "steps": steps,
        "eval_steps": grid.eval_steps,
        "patience": steps,
        "seed": seed,
        "fold": str(fold),
    }
    return strategy_of(config).replace(values, "gpu-check")


def _train(config: Config, dataset: Dataset, strategies: Sequence[Strategy]) -> float:
    begin = time.perf_counter()
    done = train_strategies(config, dataset, [TrainRequest(strategy=each) for each in strategies])
    failed = [one for one in done if not isinstance(one, Trained)]
    if failed:
        raise failed[0]
    return time.perf_counter() - begin


def _widths(config: Config, dataset: Dataset) -> dict[str, int]:
    return dataset.resident.widths(list(config.backbones), "base")


@contextmanager
def _by_the_host() -> Iterator[None]:
    """Inside, no step is captured."""
    before = pipelines.training.step.Graphs
    pipelines.training.step.Graphs = lambda: None  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        pipelines.training.step.Graphs = before  # type: ignore[misc]
