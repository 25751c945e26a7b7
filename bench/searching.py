"""S3, S4 and S8: searches over the made data set's fixture, against their steps, a process a strategy, and Optuna."""

import contextlib
import io
import math
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
from bench.measure import Row, Target, affordable, seconds_left
from bench.rivals import optuna_search
from bench.training import DATA, make_stack, own_orders, plain_windows, timed
from pipelines.cli.pages.search import SearchPage
from pipelines.config import Config, read_config
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
from pipelines.words import counted

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "tests/fixtures/made"
# Default heads but for the encoder, scored as by default.
STEPS_GRID = """
[study]
time_limit_s = {time_limit_s}
[set]
steps = {steps}
stride = {stride}
[product]
temporal = ["none", "gru", "tcn", "transformer"]
"""
STRIDE, PROBE_STEPS, EVALUATIONS = 32, 10, 20  # of a default training: scored every 40 of 800 steps
TRIALS_WANTED = 24  # of the search of default length to which one of shorter trainings is scaled
PERIOD_COST = 20  # of four trials from one score to the next, in times the probe
REPORT_COST = 20  # of leaderboard and report
BEYOND = 1.05  # times its steps and a pass over the selection rows per score, without which there is no search
NUM_RIVALS, NUM_OPTUNA = 3, 3
SHARE = 0.4  # of the time for the runs of train-head, one after the other
LEAST_S = 2.0  # in which the first stack begins
APART = 2.5  # times a run of train-head: starting `mtl search`, its last stack, its report, and Optuna
TRIALS_GRID = """
[study]
time_limit_s = {time_limit_s}
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
seed = [0, 1, 2, 3, 4]
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
    """S3: a search against its steps (forward, backward and optimiser, without the data's part), of trainings as long
    as the time allows, scaled to default length; bounded by the passes over the selection rows."""
    probe_s, first = _probe_s(device), REPORT_COST // PERIOD_COST
    fitting = affordable(first + EVALUATIONS, PERIOD_COST * probe_s, 1) - first
    config = read_config(MADE / "mtl.toml")
    every, default = config.train.eval_steps, config.train.steps
    num_steps = every * max(fitting, 1)
    limit_s = _limit_s(REPORT_COST * probe_s)
    grid, study = (
        _grid("steps", STEPS_GRID.format(steps=num_steps, stride=STRIDE, time_limit_s=limit_s)),
        _fresh("steps"),
    )
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
    num_trials = len(list(study.glob("runs/*/run.json")))
    measured = f"{counted(num_trials, 'trial')} of {num_steps} steps"
    per_step = sum(spent[name] for name in ("predict", "evaluate", "shrink", *(name for _, name in DATA)))
    once = results + spent["make_trainer"]
    per_trial = whole - steps - per_step - once
    scale = num_steps / default  # what comes once per trial or per search is so much less beside longer trainings
    long = 1 + (per_step + scale * (per_trial + once * num_trials / TRIALS_WANTED)) / steps
    bound = 1 + _pass_share(config, device)
    target, what = Target(round(BEYOND * bound, 3), at_most=True), "search ÷ sum of its steps"
    scaled = (
        f"{TRIALS_WANTED} trials of {default} steps, scaled from {measured}, scored every {every}; bound {bound:.3f}"
    )
    note = f"{measured} in {took}, {wall:.0f} s wall, Python being started; of the whole: {words}"
    return [
        Row(id="S3", what=what, values=[long], target=target, device=device.type, note=scaled),
        Row(id="S3s", what=f"{what}, as measured", values=[whole / steps], device=device.type, note=note),
        Row(
            id="S3t",
            what=f"{what}, as measured, without leaderboard and report, which come once",
            values=[(whole - results) / steps],
            device=device.type,
        ),
    ]


def _pass_share(config: Config, device: torch.device) -> float:
    """Of the steps between two scores, what a pass over the selection rows is, in windows side by side, where forward
    is a third of a step."""
    names = list(config.backbones)
    dataset = load_dataset(config, [(name, "base") for name in names], device)
    train = strategy_of(config).replace({"stride": STRIDE}, "bench").train
    plan = dataset.plan(dataset.split(config.split, train.fold).select, train, names, overlapping=False)
    return plan.rows.numel() / (3 * train.eval_steps * batch_windows(train, dataset.frames) * train.window)


def against_processes(device: torch.device) -> Iterator[Row]:
    """S4: `mtl search` of as many of 200 trials as there is time for, against `mtl train-head`, a process per strategy,
    and against Optuna with the plain loop."""
    grid, runs = _trials_grid(0.0), _fresh("runs")
    config, _, strategies = read_strategies(read_config(MADE / "mtl.toml"), grid)
    whole_s, alone = seconds_left(), list[float]()
    for strategy in strategies[:: len(strategies) // NUM_RIVALS][:NUM_RIVALS]:
        if alone and whole_s - seconds_left() + alone[-1] > SHARE * whole_s:
            break
        alone.append(_train_head(strategy, runs, device))
    each_s = statistics.mean(alone)
    limit_s = _limit_s(APART * each_s)
    study = _fresh("trials")
    search_s = _process("search", "--grid", str(_trials_grid(limit_s)), "--study", str(study), "--device", device.type)
    num_trials = len(list(study.glob("runs/*/run.json")))
    values = [search_s / (num_trials * one) for one in alone]
    note = f"search {search_s:.0f} s; train-head {each_s:.1f} s, {len(alone)} of the strategies, scaled"
    target = Target(0.25 if device.type == "cpu" else 1 / 40, at_most=True)
    what = f"{num_trials}-trial search ÷ {num_trials} runs of mtl train-head"
    yield Row(id="S4", what=what, values=values, target=target, device=device.type, note=note)
    if seconds_left() <= 0:  # on a slow or busy machine there is no time for Optuna
        return
    dataset = load_dataset(config, [(name, "base") for name in config.backbones], device)
    train = strategies[0].train
    parts = [plain_windows(dataset, strategies[0], part) for part in ("train", "val")]
    batch = batch_windows(train, dataset.frames)
    epochs = max(1, round(train.steps * batch / len(parts[0])))
    num_optuna = affordable(NUM_OPTUNA, each_s, 1)
    begin = time.perf_counter()
    optuna_search(
        *parts,
        num_trials=num_optuna,
        journal=_fresh("optuna"),
        device=device,
        epochs=epochs,
        batch=batch,
        width=strategies[0].head.width,
    )
    one = (time.perf_counter() - begin) / num_optuna
    note = f"the same sizes, fusion attention; {num_optuna} trials in one process, {one:.2f} s each, scaled"
    what = f"{num_trials}-trial search ÷ Optuna with the plain loop"
    yield Row(id="S4o", what=what, values=[search_s / (num_trials * one)], device=device.type, note=note)


def _probe_s(device: torch.device) -> float:
    """Seconds of `PROBE_STEPS` steps of one TCN."""
    config = read_config(MADE / "mtl.toml")
    dataset = load_dataset(config, [(name, "base") for name in config.backbones], device)
    stack = make_stack(config, dataset, own_orders(config, 1, {"temporal": "tcn", "stride": STRIDE}))
    stack.run_until(1)
    begin = time.perf_counter()
    stack.run_until(1 + PROBE_STEPS)
    return time.perf_counter() - begin


def _limit_s(besides_s: float) -> float:
    """The time limit of a search, as a grid has it, where so many seconds of what is left are for other things."""
    return 0.0 if math.isinf(seconds_left()) else max(seconds_left() - besides_s, LEAST_S)


def _trials_grid(time_limit_s: float) -> Path:
    return _grid("trials", TRIALS_GRID.format(time_limit_s=time_limit_s))


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
