"""The leaderboard: one row per strategy, over its seeds and folds, ranked by the selection score.

The held-out score plays no part in the ranking. Only strategies with the same tasks compare: P is the
sum of the tasks' scores, so each set of tasks has a ranking of its own, the largest first.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from cache.labels import ABAW, Schema
from pipelines.folds import NO_FOLD
from pipelines.metrics.challenge import main_key
from pipelines.metrics.intervals import Interval
from pipelines.metrics.nested import Nested
from pipelines.metrics.paired import Versus
from pipelines.metrics.stability import Stability
from pipelines.search.study import Result
from pipelines.strategy import REPEATS, field_names


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds (of the mean over a seed's folds) and their standard deviation; None for a single one."""

    mean: float
    sd: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"mean": self.mean, "sd": self.sd}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A strategy. `tasks` are what is scored of it, one per label group, and `values` its fields but seed, fold, tasks
    and targets, with "auxiliary", the tasks that are trained beside; `select` and `report` are its scores by flat key.

    `intervals` are of the held-out scores, by task and under "P", `stability` of its rank by the selection score,
    `versus` its held-out P against that of the first; `pipelines.results.evidence` fills the three in.
    """

    rank: int
    tasks: tuple[str, ...]
    values: Mapping[str, Any]
    streams: tuple[str, ...]
    results: tuple[Result, ...]
    select: Mapping[str, Spread]
    report: Mapping[str, Spread]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    stability: Stability | None = None
    versus: Versus | None = None

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Tasks that are trained beside `tasks`, and not scored."""
        return tuple(self.values.get("auxiliary", ()))

    @property
    def interval(self) -> Interval | None:
        """Of the held-out P."""
        return self.intervals.get("P")

    @property
    def optimism(self) -> float | None:
        """Selection score minus held-out score; None without a held-out score."""
        return self.select["P"].mean - self.report["P"].mean if "P" in self.report else None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({result.trial.strategy.train.seed for result in self.results}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The outer folds that were scored; none where the splits of the frames table were."""
        folds = {result.trial.strategy.train.fold for result in self.results} - {NO_FOLD}
        return tuple(sorted({fold.outer for fold in folds}))

    @property
    def num_inner(self) -> int:
        """The number of inner parts per outer fold."""
        return len({result.trial.strategy.train.fold.inner for result in self.results})

    @property
    def seconds(self) -> float:
        """All its runs together."""
        return sum(result.seconds for result in self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The rows of one set of tasks, best first; `nested` where they have folds."""

    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    nested: Nested | None = None
    schema: Schema = ABAW

    @property
    def keys(self) -> list[str]:
        """The flat key of the score of each of its tasks."""
        return [main_key(task.group) for task in self.schema.scored(self.tasks)]

    @property
    def is_complete(self) -> bool:
        """Whether its tasks are all that the schema has: else the sum of their scores is no official P."""
        return self.schema.is_complete(self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """Rankings, the largest set of tasks first; `varied` names the fields in which the strategies differ.

    `backbones` are fine-tuned backbones by themselves, one row each, with the name for `streams` and without a rank:
    the search chose nothing about them. `left_out` names those whose runs are no longer theirs, with the reason.
    """

    rankings: tuple[Ranking, ...]
    varied: tuple[str, ...]
    schema: Schema = ABAW
    backbones: tuple[Row, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def keys(self) -> dict[str, str]:
        """By label group the flat key of its score."""
        return {group.name: main_key(group) for group in self.schema}

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for ranking in self.rankings for row in ranking.rows)


def make_leaderboard(results: Sequence[Result], schema: Schema = ABAW) -> Leaderboard:
    """The leaderboard of finished trials, without intervals."""
    fields = field_names(result.trial.strategy for result in results)
    names = [name for name in fields if name not in (*REPEATS, "tasks", "targets")]
    rows = [_row(same, names, schema) for same in _by_strategy(results)]
    order = list(schema.tasks)
    rows.sort(key=lambda row: (-len(row.tasks), [order.index(name.split("+")[0]) for name in row.tasks], _order(row)))
    rankings = []
    for tasks, members in groupby(rows, key=lambda row: row.tasks):
        ranked = tuple(replace(row, rank=rank) for rank, row in enumerate(members, start=1))
        rankings.append(Ranking(tasks=tasks, rows=ranked, schema=schema))
    return Leaderboard(rankings=tuple(rankings), varied=_varied(rows), schema=schema)


def backbone_row(result: Result, name: str, schema: Schema = ABAW) -> Row:
    """The row of a backbone by itself, from its run."""
    return Row(
        rank=0,
        tasks=scored_names(result, schema),
        values={},
        streams=(name,),
        results=(result,),
        select=_spreads([result], "select"),
        report=_spreads([result], "report"),
    )


def scored_names(result: Result, schema: Schema) -> tuple[str, ...]:
    """What its models predict together, one task per label group."""
    return tuple(task.name for task in schema.scored(result.trial.strategy.head.predicted))


def rank_among(row: Row, board: Leaderboard) -> tuple[int, int] | None:
    """The rank a backbone's `row` would have by its selection score among the strategies of the same tasks, and the
    number of rows with itself; None where there are no others, or P is not known."""
    ranking = next((ranking for ranking in board.rankings if ranking.tasks == row.tasks), None)
    if ranking is None or "P" not in row.select:
        return None
    return 1 + sum(other.select["P"].mean > row.select["P"].mean for other in ranking.rows), len(ranking.rows) + 1


def _by_strategy(results: Iterable[Result]) -> list[list[Result]]:
    """Results that differ in seed and fold only, in the order in which they come."""
    found: dict[str, list[Result]] = {}
    for result in results:
        trial = result.trial
        found.setdefault(repr((trial.strategy.arm, sorted(trial.streams.items()))), []).append(result)
    return list(found.values())


def _row(results: Sequence[Result], names: Sequence[str], schema: Schema) -> Row:
    first = results[0].trial
    return Row(
        rank=0,
        tasks=scored_names(results[0], schema),
        values={"auxiliary": list(first.strategy.head.auxiliary), **first.strategy.values(names)},
        streams=tuple(dict.fromkeys(name for used in first.streams.values() for name in used)),
        results=tuple(sorted(results, key=lambda one: (one.trial.strategy.train.seed, one.trial.strategy.train.fold))),
        select=_spreads(results, "select"),
        report=_spreads(results, "report"),
    )


def _spreads(results: Sequence[Result], part: str) -> dict[str, Spread]:
    """Of every number that all runs have; the score of a task without a held-out label is None and has no spread."""
    keys = [key for key, value in results[0].metrics[part].items() if isinstance(value, int | float)]
    shared = [key for key in keys if all(result.metrics[part].get(key) is not None for result in results)]
    return {key: _spread(results, part, key) for key in shared}


def _spread(results: Sequence[Result], part: str, key: str) -> Spread:
    """Each seed's mean over its folds first; with one seed and several folds, the spread is over the folds.

    A fold's score is the mean over its inner parts.
    """
    by_seed: dict[int, dict[int, list[float]]] = {}
    for result in results:
        train = result.trial.strategy.train
        parts = by_seed.setdefault(train.seed, {}).setdefault(train.fold.outer, [])
        parts.append(float(result.metrics[part][key]))
    folds = [[sum(parts) / len(parts) for parts in seed.values()] for seed in by_seed.values()]
    values = [sum(one) / len(one) for one in folds] if len(folds) > 1 else folds[0]
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None)
    return Spread(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)))


def _order(row: Row) -> tuple[float, str]:
    """Highest selection score first; ties in a fixed order, so that the table is the same every time."""
    return -row.select["P"].mean, min(result.trial.digest for result in row.results)


def _varied(rows: Sequence[Row]) -> tuple[str, ...]:
    names = rows[0].values if rows else ()
    return tuple(name for name in names if len({repr(row.values[name]) for row in rows}) > 1)
