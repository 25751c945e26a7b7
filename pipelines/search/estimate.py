"""How long a search will take: from the study's own finished trials, or else from a few short trainings."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.search.loop import Trainer
from pipelines.search.stack_queue import Grouping, one_by_one
from pipelines.search.study import Result, Trial
from pipelines.strategy import Strategy

NUM_MEASURED = 4
BUDGET_S = 30.0
SHORT, LONG = 1, 3  # evaluations


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds for the trials left, and in words how they were found."""

    seconds: float
    how: str


def from_results(results: Sequence[Result], left: Sequence[Trial]) -> Estimate:
    """From the seconds finished trials took, by temporal encoder and scaled by work."""
    rates: dict[str, list[float]] = {}
    for result in results:
        strategy = result.trial.strategy
        rates.setdefault(encoders(strategy), []).append(result.seconds / work(strategy))
    means = {name: sum(values) / len(values) for name, values in rates.items()}
    seconds = _total((trial.strategy for trial in left), {name: (0.0, rate) for name, rate in means.items()})
    return Estimate(seconds, f"from the {len(results)} trials finished in this study")


def measure(
    left: Sequence[Trial], trainer: Trainer, grouping: Grouping = one_by_one, budget_s: float = BUDGET_S
) -> Estimate:
    """Trains stacks with the most frequent temporal encoders for one and three evaluations: fixed cost, cost of a step.

    Nothing is kept of these trainings. The estimate is for all steps: early stopping makes it shorter.
    """
    began = time.perf_counter()
    counts = Counter(encoders(trial.strategy) for trial in left)
    stacks = [[trial.strategy for trial in stack] for stack in grouping(left)]
    rates: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="mtl-estimate-") as folder:
        for name, _ in counts.most_common(NUM_MEASURED):
            chosen = min((stack for stack in stacks if encoders(stack[0]) == name), key=lambda one: work(one[0]))
            if not rates:  # the first training also pays for what is made once: warm up
                _seconds(chosen[:1], SHORT, trainer, Path(folder) / "warm")
            short = _seconds(chosen, SHORT, trainer, Path(folder) / f"{name}-1")
            if time.perf_counter() - began > budget_s:
                rates[name] = (0.0, short / work(chosen[0], SHORT))
                break
            long = _seconds(chosen, LONG, trainer, Path(folder) / f"{name}-{LONG}")
            slope = max(long - short, 0.0) / (work(chosen[0], LONG) - work(chosen[0], SHORT))
            rates[name] = (max(short - slope * work(chosen[0], SHORT), 0.0), slope)
    seconds = _total((trial.strategy for trial in left), rates)
    timed = f"from timed trainings of {SHORT} and {LONG} evaluations ({', '.join(rates)})"
    return Estimate(seconds, f"{timed}; early stopping makes it shorter")


def work(strategy: Strategy, evaluations: int | None = None) -> int:
    """Steps of all its models, up to so many evaluations."""
    trains = [strategy.model(name).train for name in strategy.models]
    steps = sum(train.steps if evaluations is None else evaluations * train.eval_steps for train in trains)
    return steps * (1 + strategy.num_teachers)


def encoders(strategy: Strategy) -> str:
    """The temporal encoders of its models: "gru", or "gru+tcn" where those of tasks differ."""
    return "+".join(dict.fromkeys(strategy.model(name).head.temporal for name in strategy.models))


def _seconds(stack: Sequence[Strategy], evaluations: int, trainer: Trainer, folder: Path) -> float:
    """Seconds per trial of the stack."""
    begin = time.perf_counter()
    short = []
    for index, strategy in enumerate(stack):
        changes: dict[str, int] = {}
        for prefix, model in [("", strategy), *((f"task.{task}.", strategy.model(task)) for task in strategy.task)]:
            steps = evaluations * model.train.eval_steps
            changes |= {f"{prefix}steps": steps, f"{prefix}patience": steps + 1}
        short.append((strategy.changed(changes), folder / str(index)))
    for error in trainer(short, lambda count: None):
        if error is not None:
            raise error
    return (time.perf_counter() - begin) / len(stack)


def _total(strategies: Iterable[Strategy], rates: dict[str, tuple[float, float]]) -> float:
    """Sum over strategies of fixed cost + rate x work; an encoder that was not timed costs the mean of the others."""
    fixed = sum(first for first, _ in rates.values()) / len(rates)
    slope = sum(second for _, second in rates.values()) / len(rates)
    costs = ((rates.get(encoders(one), (fixed, slope)), work(one)) for one in strategies)
    return sum(first + second * amount for (first, second), amount in costs)
