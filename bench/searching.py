"""S3, S4 and S8: searches over the made data set's fixture, against their steps, a process a strategy, and Optuna."""

import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

import pipelines.studies
import pipelines.training.fit
import pipelines.training.run
import pipelines.training.train
from bench.made_faces import WORK
from bench.measure import Row, Target, affordable
from bench.rivals import optuna_search
from bench.training import DATA, make_stack, own_orders, plain_windows, timed
from pipelines.cli.pages.search import SearchPage
from pipelines.config import read_config
from pipelines.search.search_plan import read_strategies
from pipelines.strategy import Strategy, strategy_of
from pipelines.studies import run_search
from pipelines.terminal import make_console
from pipelines.training.budget import batch_windows
from pipelines.training.dataset import load_dataset
from pipelines.training.fit import _Training
from pipelines.training.halving import Halving
from pipelines.training.stack import Stack
from pipelines.training.train import Trained, TrainRequest, train_strategies

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "tests/fixtures/made"
NUM_SEEDS, TRIALS_PER_SEED, NUM_RIVALS, NUM_OPTUNA = 5, 40, 3, 3
SHARE = 0.15  # of the runs of train-head one by one: what a search of as many trials takes, roughly
STEPS_GRID = """
[set]
steps = 60
eval_steps = 20
stride = 32
[product]
temporal = ["none", "gru", "tcn", "transformer"]
seed = {seeds}
"""
STEPS_SEEDS, PROBE_STEPS = 6, 10
SEED_COST = 34  # of the four trials of a seed, in times the probe; leaderboard and report cost less than one more
TRIALS_GRID = """
[set]
steps = 60
eval_steps = 20
width = 32
depth = 1
stride = 64
[product]
fusion = ["sum", "attention"]
temporal = ["gru", "tcn"]
dropout = [0.1, 0.3]
lr = [3e-4, 1e-3, 2e-3, 3e-3, 5e-3]
seed = {seeds}
"""
# What a search does beside its steps.
BESIDES = (
    (Stack, "predict"),
    (_Training, "evaluate"),
    (_Training, "shrink"),
    (pipelines.training.train, "_scored"),
    (pipelines.training.run, "write_run"),
    (pipelines.studies, "write_results"),
    (pipelines.studies, "make_trainer"),
)


def against_steps(device: torch.device) -> list[Row]:
    """S3: a search of 24 trials, fewer where time is short, against its steps: forward, backward and optimiser, without
    the data's part."""
    num_seeds = max(affordable(STEPS_SEEDS + 1, SEED_COST * _probe_s(device), 1) - 1, 1)
    grid = _grid("steps", STEPS_GRID.format(seeds=list(range(num_seeds))))
    study = _fresh("steps")
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # other work on the cores counts not
    with timed(*DATA, *BESIDES, (Stack, "run_until"), device=device, clock=clock) as spent:
        begin, began = clock(), time.perf_counter()
        _search_here(grid, study, device)
        whole, wall = clock() - begin, time.perf_counter() - began
    steps, results = spent["run_until"], spent["write_results"]
    parts = {name.strip("_"): spent[name] / whole for _, name in BESIDES}
    parts["data"] = sum(spent[name] for _, name in DATA) / whole  # those of predicting too
    parts["other"] = 1 - steps / whole - sum(parts.values())
    words = ", ".join(f"{name} {share:.1%}" for name, share in sorted(parts.items(), key=lambda item: -item[1]))
    took = f"{whole:.0f} s of CPU time" if device.type == "cpu" else f"{wall:.0f} s"
    note = (
        f"{4 * num_seeds} trials of 60 steps in {took}, {wall:.0f} s wall, Python being started; of the whole: {words}"
    )
    target, what = Target(1.05, at_most=True), "search ÷ sum of its steps"
    once = "the same without leaderboard and report, which come once"
    return [
        Row(id="S3", what=what, values=[whole / steps], target=target, device=device.type, note=note),
        Row(id="S3t", what=once, values=[(whole - results) / steps], device=device.type),
    ]


def against_processes(device: torch.device) -> Iterator[Row]:
    """S4: `mtl search` of 200 trials, fewer where time is short, against `mtl train-head`, a process per strategy, and
    against Optuna with the plain loop."""
    grid, runs = _trials_grid(NUM_SEEDS), _fresh("runs")
    config, _, strategies = read_strategies(read_config(MADE / "mtl.toml"), grid)
    alone = [_train_head(one, runs, device) for one in strategies[:: len(strategies) // NUM_RIVALS][:NUM_RIVALS]]
    each_s = statistics.mean(alone)
    num_seeds = affordable(NUM_SEEDS, SHARE * TRIALS_PER_SEED * each_s, 2)
    _trials_grid(num_seeds)
    num_trials = num_seeds * TRIALS_PER_SEED
    study = _fresh("trials")
    search_s = _process("search", "--grid", str(grid), "--study", str(study), "--device", device.type)
    assert len(list(study.glob("runs/*/run.json"))) == num_trials
    values = [search_s / (num_trials * one) for one in alone]
    note = f"search {search_s:.0f} s; train-head {each_s:.1f} s, {len(alone)} of the strategies, scaled"
    target = Target(0.25 if device.type == "cpu" else 1 / 40, at_most=True)
    what = f"{num_trials}-trial search ÷ {num_trials} runs of mtl train-head"
    yield Row(id="S4", what=what, values=values, target=target, device=device.type, note=note)
    dataset = load_dataset(config, [(name, "base") for name in config.backbones], device)
    train = strategies[0].train
    parts = [plain_windows(dataset, strategies[0], part) for part in ("train", "val")]
    batch = batch_windows(train, dataset.frames)
    epochs = max(1, round(train.steps * batch / len(parts[0])))
    options = {"epochs": epochs, "batch": batch, "width": strategies[0].head.width}
    begin = time.perf_counter()
    optuna_search(*parts, num_trials=NUM_OPTUNA, journal=_fresh("optuna"), device=device, **options)
    one = (time.perf_counter() - begin) / NUM_OPTUNA
    note = f"the same sizes, fusion attention; {NUM_OPTUNA} trials in one process, {one:.2f} s each, scaled"
    what = f"{num_trials}-trial search ÷ Optuna with the plain loop"
    yield Row(id="S4o", what=what, values=[search_s / (num_trials * one)], device=device.type, note=note)


def _probe_s(device: torch.device) -> float:
    """Seconds of `PROBE_STEPS` steps of one TCN."""
    config = read_config(MADE / "mtl.toml")
    dataset = load_dataset(config, [(name, "base") for name in config.backbones], device)
    stack = make_stack(config, dataset, own_orders(config, 1, {"temporal": "tcn", "stride": 32}))
    stack.run_until(1)
    begin = time.perf_counter()
    stack.run_until(1 + PROBE_STEPS)
    return time.perf_counter() - begin


def _trials_grid(num_seeds: int) -> Path:
    return _grid("trials", TRIALS_GRID.format(seeds=list(range(num_seeds))))


def _grid(name: str, text: str) -> Path:
    path = WORK / "grids" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _fresh(name: str) -> Path:
    """A folder that is not there."""
    path = WORK / "searching" / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _search_here(grid: Path, study: Path, device: torch.device) -> None:
    """What `mtl search` does, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = run_search(read_config(MADE / "mtl.toml"), grid, study, device.type, SearchPage(make_console()))
    assert not found.outcome.failed, found.outcome.failed


def _train_head(strategy: Strategy, runs: Path, device: torch.device) -> float:
    """Seconds of `mtl train-head`, from starting Python to its end."""
    names = {
        "head": ("fusion", "temporal", "dropout", "width", "depth"),
        "train": ("lr", "seed", "steps", "eval_steps", "stride"),
    }
    chosen = [
        f"{part}.{name}={getattr(getattr(strategy, part), name)}" for part, all_ in names.items() for name in all_
    ]
    return _process("train-head", "--runs", str(runs), "--device", device.type, *(f"--set={one}" for one in chosen))


def _process(*arguments: str) -> float:
    """Seconds of `mtl ARGUMENTS` as a process of its own, with the packages beside this one."""
    entry = "from pipelines.cli import main; main()"
    command = [sys.executable, "-c", entry, *arguments, "--config", str(MADE / "mtl.toml")]
    begin = time.perf_counter()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise RuntimeError(f"mtl {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - begin


def halving(device: torch.device) -> list[Row]:
    """S8: successive halving of 9 learning rates against training them all to their end."""
    config = read_config(MADE / "mtl.toml")
    dataset = load_dataset(config, [(name, "base") for name in config.backbones], device)
    values = {"temporal": "gru", "width": 32, "depth": 1, "steps": 180, "eval_steps": 10, "patience": 999, "stride": 64}
    rates = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    requests = [TrainRequest(strategy=strategy_of(config).replace({**values, "lr": lr}, "bench")) for lr in rates]
    counts, best, seconds = [], [], []
    for each in (None, Halving(factor=3, first=20)):
        begin = time.perf_counter()
        done = [one for one in train_strategies(config, dataset, requests, each) if isinstance(one, Trained)]
        seconds.append(time.perf_counter() - begin)
        counts.append(sum(len(one.history) for one in done))
        best.append(max(done, key=lambda one: one.metrics["select"]["P"]))
    same = best[0].strategy == best[1].strategy
    note = (
        f"9 rates of a GRU, 180 steps; evaluations of heads counted, all equal in work; the winner is "
        f"{'the same' if same else 'ANOTHER'}; wall {seconds[1]:.0f} s against {seconds[0]:.0f} s"
    )
    target = Target(0.35, at_most=True)
    what = "successive halving, FLOPs ÷ full budget"
    return [Row(id="S8", what=what, values=[counts[1] / counts[0]], target=target, device=device.type, note=note)]


ROWS: Mapping[str, Callable[[torch.device], Iterable[Row]]] = {
    "S3": against_steps,
    "S4": against_processes,
    "S8": halving,
}
ON_CUDA = ("S3", "S4", "S8")
