"""What a search would do: how many trials, how long, how much memory. Nothing is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.folds import NO_FOLD
from pipelines.search.estimate import Estimate, encoders, from_results, measure
from pipelines.search.grid import num_combinations
from pipelines.search.search_plan import (
    SearchPlan,
    make_grouping,
    make_plan,
    make_trainer,
    read_strategies,
    study_name,
    to_run,
)
from pipelines.search.study import Study, Trial, read_study
from pipelines.strategy import strategy_of
from pipelines.training.budget import budget_of, shortfall


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """`facts` as JSON has them, with stable keys; `damaged` says of each finished trial that cannot be used why."""

    facts: Mapping[str, Any]
    damaged: tuple[str, ...] = ()


def preview_search(
    config: Config,
    grid_path: Path,
    folder: Path | None,
    device: str,
    *,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Preview:
    """How many trials there are and are left, how long they may take, and what streams and stacks need.

    Raises:
        ValueError: a key, value or combination of the grid that cannot be trained.
    """
    config, grid, strategies = read_strategies(config, grid_path)
    if folder is None:
        study_name(grid)
    folds = {one.train.fold for one in strategies} - {NO_FOLD}
    found: dict[str, Any] = {
        "grid": str(grid.path),
        "num_trials": len(strategies),
        "num_combinations": num_combinations(grid, strategy_of(config), config.split.inner_folds),
        "num_folds": len({fold.outer for fold in folds}),
        "num_inner": len({fold.inner for fold in folds}),
    }
    try:
        search = make_plan(config, grid, strategies, folder)
    except ValueError as error:
        unknown = {"num_finished": None, "num_left": None, "seconds": None, "how": f"unknown: {error}"}
        return Preview(facts=found | unknown)
    study = read_study(search.folder)
    damaged = tuple(reason for _, reason in study.damaged())
    left = to_run(search, study, retry_failed=retry_failed, limit=limit)
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
    return Preview(facts=found | {"seconds": estimate.seconds, "how": estimate.how}, damaged=damaged)


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
            "temporal": encoders(strategy),
            **budget_of(strategy, search.frames),
            "warning": shortfall(strategy),
        }
        found.setdefault(str(entry), {**entry, "num_trials": 0})["num_trials"] += 1
    return list(found.values())


def _estimate(search: SearchPlan, study: Study, left: Sequence[Trial], device: str) -> Estimate:
    if not left:
        return Estimate(0.0, "nothing is left to run")
    if results := [result for result in study.results() if result.seconds > 0]:
        return from_results(results, left)
    return measure(left, make_trainer(search, device), make_grouping(search, device))
