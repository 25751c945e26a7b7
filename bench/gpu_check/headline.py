"""The headline: every strategy of 6 fusions x 4 temporal encoders x 5 sets of tasks x 5 seeds x 5 folds, by a tenth.

Stacks of one shape hold the seeds and folds of a fusion, an encoder and a set of tasks. Every tenth is trained for some
of its evaluations, through all that a search does with it but for writing runs; the rest of its steps is taken to go on
as between two evaluations.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

import pipelines.training.step
from bench.gpu_check.data import made_videos
from bench.gpu_check.sizes import Grid, Sizes
from bench.measure import Row, Target
from pipelines.config import Config
from pipelines.fitting.epochs import Evaluation
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
    _seconds(config, dataset, [_strategy(config, sizes, 0, 0, 0)], grid)  # what only the first training does
    eager = []
    for place in range(len(TEMPORALS) if grid.num_stacks >= len(TEMPORALS) else 1):
        with _by_the_host():
            eager.append(_seconds(config, dataset, [_strategy(config, sizes, place, 0, 0)], grid))
    one = statistics.mean(eager)
    whole = []
    for place in range(grid.num_stacks):
        strategies = [
            _strategy(config, sizes, place, seed, fold) for fold in range(grid.folds) for seed in range(grid.seeds)
        ]
        stacks = in_stacks([(each, None) for each in strategies], config, _widths(config, dataset), device)
        whole.append(sum(_seconds(config, dataset, [each for each, _ in stack], grid) for stack in stacks))
        first = strategies[0].head
        words = f"{first.fusion}, {first.inputs}, {first.temporal}, {'+'.join(first.tasks)}"
        note = f"{words}: {whole[-1]:.1f} s for {per_stack} heads in {len(stacks)} stacks"
        what, values = "a stack's whole training ÷ one eager head's", [whole[-1] / one]
        yield Row(id=f"HL {place}", what=what, values=values, device=device.type, note=note)
    total = statistics.mean(whole) * num_shapes
    note = (
        f"{total:.0f} s for {num_heads:,} heads of {grid.steps} steps on {len(dataset.frames):,} frames, by "
        f"{len(whole)} of {num_shapes} shapes, {grid.evaluations} evaluations of each; one eager head {one:.1f} s "
        f"({min(eager):.1f} to {max(eager):.1f}, of {len(eager)} encoders)"
    )
    what, target = f"{num_heads:,} heads ÷ one single eager head, seconds", Target(60, at_most=True)
    yield Row(id="HL", what=what, values=[total / one], target=target, device=device.type, note=note)


def _strategy(config: Config, sizes: Sizes, place: int, seed: int, fold: int) -> Strategy:
    """Of the shape `place`: neighbours differ in everything, twelve have every pair of fusion and encoder at most
    once."""
    steps = sizes.grid.eval_steps * sizes.grid.evaluations
    values = {
        **sizes.head,
        **FUSIONS[place % len(FUSIONS)],
        "temporal": TEMPORALS[place % len(TEMPORALS)],
        "tasks": TASKS[place % len(TASKS)],
        "steps": steps,
        "eval_steps": sizes.grid.eval_steps,
        "patience": steps,
        "seed": seed,
        "fold": str(fold),
    }
    return strategy_of(config).replace(values, "gpu-check")


def _seconds(config: Config, dataset: Dataset, strategies: Sequence[Strategy], grid: Grid) -> float:
    """Of all steps: those trained here, and the others as between two evaluations."""
    times, begin = [], time.perf_counter()

    def evaluated(evaluation: Evaluation) -> None:
        times.append(time.perf_counter())

    requests = [TrainRequest(strategy=each) for each in strategies]
    requests[0] = replace(requests[0], on_evaluation=evaluated)
    done = train_strategies(config, dataset, requests)
    if failed := [one for one in done if not isinstance(one, Trained)]:
        raise failed[0]
    between = (times[-1] - times[0]) / (len(times) - 1)
    return time.perf_counter() - begin + between * (grid.steps / grid.eval_steps - len(times))


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
