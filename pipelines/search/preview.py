"""What `mtl search --dry-run` does and prints: how many trials, how long, how much memory; nothing is kept of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.config import Config
from pipelines.search.estimate import Estimate, from_results, measure
from pipelines.search.plan import SearchPlan, make_grouping, make_plan, make_trainer, read_strategies, to_run
from pipelines.search.study import Study, Trial, read_study
from pipelines.splits import inner_part, outer_fold
from pipelines.terminal import make_console, say, say_json
from pipelines.training.budget import budget_of, budget_words, shortfall
from pipelines.words import counted, duration_words, value_words

SHOWN_KINDS = 8
PIPE_WIDTH = 120


def dry_run(
    config: Config,
    grid_path: Path,
    folder: Path | None,
    device: str,
    *,
    retry_failed: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Prints how many trials there are and are left, how long they may take, and what streams and stacks need."""
    config, grid, strategies = read_strategies(config, grid_path)
    folds = sorted({one.train.fold for one in strategies} - {-1})
    found: dict[str, Any] = {
        "grid": str(grid.path),
        "num_trials": len(strategies),
        "num_folds": len({outer_fold(fold) for fold in folds}),
        "num_inner": len({inner_part(fold) for fold in folds}),
    }
    try:
        search = make_plan(config, grid, strategies, folder)
    except ValueError as error:
        found |= {"num_finished": None, "num_left": None, "seconds": None, "how": f"unknown: {error}"}
        _print_preview(found, as_json)
        return
    study = read_study(search.folder)
    for _, reason in study.damaged():
        say(reason, err=True)
    left = to_run(search, study, retry_failed=retry_failed)[:limit]
    found |= {
        "study": str(search.folder),
        "num_finished": sum(study.is_finished(trial) for trial in search.trials),
        "num_left": len(left),
        "resident_bytes": search.resident_bytes,
    }
    if left:
        found["budgets"] = _budgets(search, left)
        stacks = make_grouping(search, device)(left)
        found |= {"num_stacks": len(stacks), "largest_stack": max(map(len, stacks)), **_memory(search, stacks)}
    estimate = _estimate(search, study, left, device)
    _print_preview(found | {"seconds": estimate.seconds, "how": estimate.how}, as_json)


def _memory(search: SearchPlan, stacks: Sequence[Sequence[Trial]]) -> dict[str, Any]:
    """What the stacks need beside the streams, by shape, the largest first; and how that was found."""
    from pipelines.search.memory import HOW, stack_memory

    shapes = stack_memory(stacks, search.config, search.widths, search.grid.fields)
    return {
        "stack_bytes": shapes[0].total_bytes,
        "stack_shapes": [shape.to_json() for shape in shapes],
        "memory_how": HOW,
    }


def _budgets(search: SearchPlan, left: Sequence[Trial]) -> list[dict[str, Any]]:
    """What a model gets, and what that is too little for: an entry per kind of budget and temporal encoder."""
    found: dict[str, dict[str, Any]] = {}
    for trial in left:
        strategy = trial.strategy
        entry = {
            "temporal": strategy.head.temporal,
            **budget_of(strategy, search.frames),
            "warning": shortfall(strategy),
        }
        found.setdefault(str(entry), {**entry, "num_trials": 0})["num_trials"] += 1
    return list(found.values())


def budget_lines(budgets: Sequence[dict[str, Any]]) -> list[str]:
    """One line per budget, and one per warning."""
    trials: dict[str, int] = {}
    for one in budgets:
        words = budget_words(one)
        trials[words] = trials.get(words, 0) + one["num_trials"]
    lines = [f"each model: at most {words}" for words in trials]
    if len(lines) > 1:
        lines = [f"{line} ({counted(count, 'trial')})" for line, count in zip(lines, trials.values(), strict=True)]
    return [*lines, *(f"warning: {text}" for text in dict.fromkeys(one["warning"] for one in budgets) if text)]


def _estimate(search: SearchPlan, study: Study, left: Sequence[Trial], device: str) -> Estimate:
    if not left:
        return Estimate(0.0, "nothing is left to run")
    if results := [result for result in study.results() if result.seconds > 0]:
        return from_results(results, left)
    return measure(left, make_trainer(search, device), make_grouping(search, device))


def _print_preview(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(found)
        return
    console = wide_console()
    counts = "" if found["num_left"] is None else f", {found['num_finished']} finished, {found['num_left']} to run"
    console.print(f"{found['grid']}: {counted(found['num_trials'], 'trial')}{counts}", soft_wrap=True)
    if found["num_folds"]:
        inner = counted(found["num_inner"], "inner part")
        console.print(f"{counted(found['num_folds'], 'outer fold')}, in each {inner} to choose on")
    seconds = found["seconds"]
    shown = "time: " if seconds is None else f"time: {duration_words(seconds)}, "
    console.print(f"{shown}{found['how']}", soft_wrap=True)
    for words in budget_lines(found.get("budgets", [])):
        console.print(words, soft_wrap=True)
    if "num_stacks" in found:
        stacks = f"{counted(found['num_stacks'], 'stack')} of up to {counted(found['largest_stack'], 'trial')} at once"
        console.print(stacks)
    if "resident_bytes" in found:
        console.print(f"memory of the streams: {_mib(found['resident_bytes'])}")
    if "stack_bytes" in found:
        _print_memory(found, console)


def _print_memory(found: dict[str, Any], console: Console) -> None:
    """What a stack needs beside the streams: a line for each temporal encoder and method, the largest first."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in found["stack_shapes"]:
        kinds.setdefault(f"{value_words('temporal', one['temporal'])}, {one['method']}", []).append(one)
    words = f"memory of a stack beside them: up to {_mib(found['stack_bytes'])} ({found['memory_how']})"
    console.print(words, soft_wrap=True)
    for name, (largest, *_) in list(kinds.items())[:SHOWN_KINDS]:
        weights, batches = _mib(largest["weights_bytes"]), _mib(largest["activation_bytes"])
        words = f"  {name}: {_mib(largest['bytes'])} (weights and AdamW {weights}, batches and activations {batches})"
        console.print(words, soft_wrap=True)
    if len(kinds) > SHOWN_KINDS:
        console.print(f"  and {len(kinds) - SHOWN_KINDS} smaller; every shape is in --json")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def wide_console(stderr: bool = False) -> Console:
    """As wide as the terminal; written to a file or a pipe, wide enough for the leaderboard."""
    console = make_console(stderr=stderr)
    return console if console.is_terminal else make_console(stderr=stderr, width=PIPE_WIDTH)
