"""Costs of actions taken in turn, and ratios of them as rows of the table.

The machine is shared and noisy, so a ratio is always of two costs of the same round, and a row shows the median over
the rounds with the least and the greatest. Inside `within` there is a time limit, to which the number of rounds or the
work of each shrinks.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

ROUNDS, FEWEST_ROUNDS = 5, 3
ItemT = TypeVar("ItemT")
SHRUNK: list[int] = []  # rounds of the measurements that had no time for more, of this process
_END: ContextVar[float] = ContextVar("end", default=math.inf)  # of `time.monotonic`


class LeftOut(Exception):
    """Raised by a measurement for which something is not there; says what."""


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
            "rounds": len(self.values),
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
    """Costs of each action, one per round, after a round that is not counted; every other round runs backwards.

    There are fewer than `rounds` where the time left does not hold another, but at least `FEWEST_ROUNDS`.
    """
    took_s = cost(lambda: [action() for action in actions.values()]).wall_s
    costs: dict[str, list[Cost]] = {name: [] for name in actions}
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and took_s > seconds_left():
            SHRUNK.append(number)
            break
        for name in list(actions) if number % 2 == 0 else list(reversed(actions)):
            costs[name].append(cost(actions[name]))
        took_s = sum(each[-1].wall_s for each in costs.values())
    return costs


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside, no measurement begins another round after so many seconds, nor after those of a limit around it."""
    token = _END.set(min(_END.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _END.reset(token)


def seconds_left() -> float:
    """Of the innermost limit; infinite without one."""
    return _END.get() - time.monotonic()


def shares(items: Sequence[ItemT]) -> Iterator[ItemT]:
    """The items, each with an equal share of the time that is left when its turn comes."""
    for number, item in enumerate(items):
        with within(seconds_left() / (len(items) - number)):
            yield item


def affordable(most: int, item_s: float, repeats: int, multiple_of: int = 1) -> int:
    """How many items at `item_s` each can be gone through `repeats` times in the time left: a multiple of
    `multiple_of` that is not above `most`, and at least one."""
    fitting = int(min(most, max(seconds_left(), 0.0) / (item_s * repeats)))
    return min(most, max(1, fitting // multiple_of) * multiple_of)


def walls(costs: Sequence[Cost]) -> list[float]:
    return [each.wall_s for each in costs]


def cpus(costs: Sequence[Cost]) -> list[float]:
    return [each.cpu_s for each in costs]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]
