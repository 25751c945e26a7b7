"""What helped: the mean score of the strategies that share a value, for each field in which strategies differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.results.leaderboard import Leaderboard, Ranking, Row
from pipelines.words import task_words, value_words


@dataclass(frozen=True, slots=True)
class Effect:
    """One value of a field: the scores of its strategies, by part ("select", "report")."""

    label: str
    select: tuple[float, ...]
    report: tuple[float, ...]


def field_effects(ranking: Ranking, field: str) -> list[Effect]:
    """One effect per value of `field`, in the order of their best rank; only strategies with a held-out score.

    Only strategies compare that have a counterpart differing in `field` alone, where there are such: else the number
    of a transformer's attention heads would be credited with the effect of the other encoders.
    """
    rows = [row for row in ranking.rows if "P" in row.report]
    by_value: dict[str, list[Row]] = {}
    for row in _matched(rows, field) or rows:
        by_value.setdefault(value_words(field, row.values[field]), []).append(row)
    return [Effect(label, _means(same, "select", "P"), _means(same, "report", "P")) for label, same in by_value.items()]


def varied_in(ranking: Ranking, varied: Sequence[str]) -> list[str]:
    """The fields of `varied` that differ within `ranking` itself."""
    return [name for name in varied if len({repr(row.values[name]) for row in ranking.rows}) > 1]


def task_effects(board: Leaderboard, task: str) -> list[Effect]:
    """The score of `task` alone by the set of tasks that were trained together: which tasks help each other.

    Only strategies compare that were trained on more than one of the sets.
    """
    key = board.keys[task]
    rows = [row for ranking in board.rankings for row in ranking.rows if task in row.tasks and key in row.report]
    sets: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        sets.setdefault(repr(row.values), set()).add(row.tasks)
    by_tasks: dict[str, list[Row]] = {}
    for row in rows:
        if len(sets[repr(row.values)]) > 1:
            by_tasks.setdefault(task_words(row.tasks), []).append(row)
    return [Effect(label, _means(same, "select", key), _means(same, "report", key)) for label, same in by_tasks.items()]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _matched(rows: Sequence[Row], field: str) -> list[Row]:
    """The rows that have a counterpart with another value of `field` and all else the same."""
    rest = [repr([value for name, value in row.values.items() if name != field]) for row in rows]
    values: dict[str, set[str]] = {}
    for row, others in zip(rows, rest, strict=True):
        values.setdefault(others, set()).add(repr(row.values[field]))
    return [row for row, others in zip(rows, rest, strict=True) if len(values[others]) > 1]


def _means(rows: Sequence[Row], part: str, key: str) -> tuple[float, ...]:
    scores: list[dict[str, Any]] = [dict(getattr(row, part)) for row in rows]
    return tuple(score[key].mean for score in scores)
