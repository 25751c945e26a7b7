"""What helped: the effect of each value of each field in which strategies differ, and of the tasks trained together.

Strategies are compared with their counterparts, which differ in that field alone. Intervals resample held-out subjects
or videos, the same ones for all strategies, and are of these runs; they are not adjusted for the number of values.
R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.metrics.intervals import Interval, Runs, drawn, groups_of_runs, middle, resampled
from pipelines.results.evidence import MOST_ROWS, Reader
from pipelines.results.leaderboard import Leaderboard, Ranking, Row
from pipelines.words import trained_words, value_words

NUM_RESAMPLES = 500
Score = Callable[[Row], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean held-out score of `num_pairs` strategies minus that of their counterparts with the reference value."""

    value: float
    interval: Interval | None
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One value of a field: the scores of its strategies by part ("select", "report"), the interval of the mean
    held-out score, and the difference from the first value; None for the first itself, and where no two strategies
    pair."""

    label: str
    select: tuple[float, ...]
    report: tuple[float, ...]
    interval: Interval | None = None
    difference: Difference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """By field its values in the order of their best rank, among the strategies for `tasks`; and by label group the
    sets of tasks it was trained in, auxiliary ones included."""

    tasks: tuple[str, ...]
    fields: Mapping[str, tuple[Effect, ...]]
    together: Mapping[str, tuple[Effect, ...]]


def effects_of(board: Leaderboard, reader: Reader | None = None) -> Effects:
    """The effects of a leaderboard, in its largest ranking; without a `reader` of predictions they have no "
    "intervals."""
    ranking = max(board.rankings, key=lambda one: (len(one.tasks), len(one.rows)))
    fields = {name: field_effects(ranking, name, reader) for name in varied_in(ranking, board.varied)}
    together = {name: task_effects(board, name, reader) for name in board.schema.names}
    return Effects(
        tasks=ranking.tasks,
        fields={name: values for name, values in fields.items() if len(values) > 1},
        together={name: values for name, values in together.items() if len(values) > 1},
    )


def field_effects(ranking: Ranking, field: str, reader: Reader | None = None) -> tuple[Effect, ...]:
    """One effect per value of `field`, in the order of their best rank; only strategies with a held-out score.

    Only strategies compare that have a counterpart differing in `field` alone, where there are such: else the number
    of a transformer's attention heads would be credited with the effect of the other encoders.
    """
    rows = [row for row in ranking.rows[:MOST_ROWS] if "P" in row.report]

    def rest(row: Row) -> str:
        return repr([value for name, value in row.values.items() if name != field])

    rows = _matched(rows, rest, lambda row: repr(row.values[field])) or rows
    return _effects(rows, lambda row: value_words(field, row.values[field]), rest, "P", _draws(rows, "P", reader))


def task_effects(board: Leaderboard, task: str, reader: Reader | None = None) -> tuple[Effect, ...]:
    """The score of the group `task` alone by the set of tasks that were trained together: which tasks help each other.

    Only strategies compare that were trained on more than one of the sets.
    """
    key = board.keys[task]
    rows = [row for ranking in board.rankings for row in ranking.rows[:MOST_ROWS] if key in row.report]
    rows = [row for row in rows if task in row.tasks]

    def rest(row: Row) -> str:
        return repr([value for name, value in row.values.items() if name != "auxiliary"])

    def trained(row: Row) -> str:
        return trained_words(row.tasks, row.auxiliary)

    rows = _matched(rows, rest, trained)
    return _effects(rows, trained, rest, key, _draws(rows, task, reader))


def varied_in(ranking: Ranking, varied: Sequence[str]) -> list[str]:
    """The fields of `varied` that differ within `ranking` itself."""
    return [name for name in varied if len({repr(row.values[name]) for row in ranking.rows}) > 1]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


Draws = tuple[Callable[[Row], np.ndarray], Any]


def _draws(rows: Sequence[Row], key: str, reader: Reader | None) -> Draws | None:
    """What gives a row's held-out score `key` over the resamples [R], and the sample; None where nothing can be "
    "drawn."""
    runs: dict[int, Runs] = {} if reader is None else {id(row): reader.runs(row.results, "report") for row in rows}
    groups = groups_of_runs(runs.values())
    if not groups.can_vary or not all(runs.values()):
        return None
    weights = drawn(groups, NUM_RESAMPLES, 0)
    kept: dict[int, np.ndarray] = {}

    def of(row: Row) -> np.ndarray:
        if id(row) not in kept:
            kept[id(row)] = resampled(runs[id(row)], groups, weights, row.tasks)[key]
        return kept[id(row)]

    return of, groups.sample


def _effects(
    rows: Sequence[Row], label: Callable[[Row], str], rest: Callable[[Row], str], key: str, draws: Draws | None
) -> tuple[Effect, ...]:
    """One effect per `label` of `rows`; those of one `rest` are counterparts."""
    by_value: dict[str, list[Row]] = {}
    for row in rows:
        by_value.setdefault(label(row), []).append(row)
    first = {rest(row): row for row in next(iter(by_value.values()), [])}
    found = []
    for place, (name, same) in enumerate(by_value.items()):
        pairs = [(row, first[rest(row)]) for row in same if rest(row) in first] if place else []
        difference = None
        if pairs:
            value = mean([one.report[key].mean - other.report[key].mean for one, other in pairs])
            drawings = draws and [draws[0](one) - draws[0](other) for one, other in pairs]
            difference = Difference(value=value, interval=_interval(drawings, draws), num_pairs=len(pairs))
        found.append(
            Effect(
                label=name,
                select=tuple(row.select[key].mean for row in same),
                report=tuple(row.report[key].mean for row in same),
                interval=_interval(draws and [draws[0](row) for row in same], draws),
                difference=difference,
            )
        )
    return tuple(found)


def _interval(drawings: Sequence[np.ndarray] | None, draws: Draws | None) -> Interval | None:
    """Of the mean of `drawings` [R] each."""
    if not drawings or draws is None:
        return None
    low, high = middle(np.mean(drawings, axis=0))
    return None if np.isnan(low) else Interval(low, high, draws[1])


def _matched(rows: Sequence[Row], rest: Callable[[Row], str], value: Callable[[Row], str]) -> list[Row]:
    """The rows that have a counterpart of the same `rest` and another `value`."""
    values: dict[str, set[str]] = {}
    for row in rows:
        values.setdefault(rest(row), set()).add(value(row))
    return [row for row in rows if len(values[rest(row)]) > 1]
