"""Costs of actions taken in turn, and ratios of them as rows of the table.

The machine is shared and noisy, so a ratio is always of two costs of the same round, and a row shows the median over
the rounds with the least and the greatest.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What an action took: wall time, and processor time of all threads of this process (not of its children)."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Target:
    """The least value that is good enough, or the greatest where `at_most`."""

    bound: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: `values` are one ratio a round, `target` is None where the row is only for information.

    `middle` is given where the row's value is not the median of `values`.
    """

    id: str
    what: str
    values: Sequence[float]
    device: str = "cpu"
    target: Target | None = None
    note: str = ""
    middle: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values) if self.middle is None else self.middle

    @property
    def verdict(self) -> str:
        """ "met", "missed", or nothing where there is no target."""
        if self.target is None:
            return ""
        return "met" if self.target.is_met(self.value) else "missed"

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "min": min(self.values),
            "max": max(self.values),
            "target": None if self.target is None else str(self.target),
            "verdict": self.verdict or None,
            "device": self.device,
            "what": self.what,
            "note": self.note,
        }


def cost(action: Callable[[], object]) -> Cost:
    """Takes the action once."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def interleave(actions: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[Cost]]:
    """Costs of each action, one a round, after a round that is not counted; every other round runs backwards."""
    for action in actions.values():
        action()
    costs: dict[str, list[Cost]] = {name: [] for name in actions}
    for number in range(rounds):
        for name in list(actions) if number % 2 == 0 else list(reversed(actions)):
            costs[name].append(cost(actions[name]))
    return costs


def walls(costs: Sequence[Cost]) -> list[float]:
    return [each.wall_s for each in costs]


def cpus(costs: Sequence[Cost]) -> list[float]:
    return [each.cpu_s for each in costs]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]
