"""How far to trust a leaderboard's numbers, from the runs' own predictions: nothing is trained or predicted again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from cache.frames import Frames, beside
from cache.labels import ABAW, Schema
from heads.labels import Labels
from pipelines.folds import Fold
from pipelines.labels import labels_of
from pipelines.metrics.intervals import GroupSums, Interval, Runs, group_sums, groups_of_runs, interval, intervals
from pipelines.metrics.nested import Nested, nested
from pipelines.metrics.paired import versus_first
from pipelines.metrics.stability import stability
from pipelines.results.leaderboard import Leaderboard, Ranking, Row
from pipelines.run_files import PREDICTIONS, read_manifest, read_predictions
from pipelines.search.study import Result
from pipelines.splits import groups_of

KEYS = ("video", "frame")
MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Reader:
    """Sums of runs' predictions, each read once; and labels and groups of a fold's rows: all its runs have the same."""

    frames: Frames
    schema: Schema = ABAW
    labels: dict[tuple[Fold, str], tuple[pl.DataFrame, Labels, np.ndarray]] = field(default_factory=dict)
    sums: dict[Path, dict[str, GroupSums]] = field(default_factory=dict)

    def runs(self, results: Sequence[Result], part: str) -> Runs:
        """The sums of `results` on their rows of `part`; a run without predictions or rows is left out."""
        found: dict[Fold, dict[int, GroupSums]] = {}
        for result in results:
            train = result.trial.strategy.train
            if result.folder not in self.sums:
                self.sums[result.folder] = self._read(result.folder, train.fold)
            if part in self.sums[result.folder]:
                found.setdefault(train.fold, {})[train.seed] = self.sums[result.folder][part]
        return found

    def _read(self, folder: Path, fold: Fold) -> dict[str, GroupSums]:
        """The sums of a run of `fold` by part; empty where its predictions were removed."""
        if not (folder / PREDICTIONS).is_file():
            return {}
        table = read_predictions(folder, read_manifest(folder), [*KEYS, "part", *self.schema.columns])
        parts = table.sort(KEYS).partition_by("part", as_dict=True)
        return {
            str(part): group_sums(rows, *self._truth((fold, str(part)), rows.select(KEYS)), self.schema)
            for (part,), rows in parts.items()
        }

    def _truth(self, name: tuple[Fold, str], keys: pl.DataFrame) -> tuple[Labels, np.ndarray]:
        """Labels and groups of the rows `keys`."""
        if name not in self.labels or not self.labels[name][0].equals(keys):
            wanted = [*self.schema.columns, *(column for column in ("subject",) if column in self.frames.columns)]
            table = beside(self.frames, keys, wanted)
            self.labels[name] = keys, labels_of(table, self.schema), groups_of(table)
        return self.labels[name][1:]


def with_intervals(
    board: Leaderboard, frames: Frames, top: int = MOST_ROWS, reader: Reader | None = None
) -> Leaderboard:
    """`board` with intervals, tests against the first, stability of the ranking and the nested estimate.

    Of each ranking the first `top` rows; the nested estimate is over all of them. A `reader` keeps what it has read.
    """
    reader = reader or Reader(frames, board.schema)
    return replace(board, rankings=tuple(_examined(ranking, reader, top) for ranking in board.rankings))


def fold_scores(row: Row, part: str) -> dict[Fold, float]:
    """Fold -> the mean P of `row` over its seeds; a fold without a score is left out."""
    found: dict[Fold, list[float]] = {}
    for result in row.results:
        if (value := result.metrics[part].get("P")) is not None:
            found.setdefault(result.trial.strategy.train.fold, []).append(float(value))
    return {fold: sum(values) / len(values) for fold, values in found.items()}


def chosen_on_held_out(rows: Sequence[Row], reader: Reader) -> bool:
    """Whether subjects or videos that selected the first are also held out, as over folds: each in another one."""
    parts = [groups_of_runs([reader.runs(rows[0].results, part)]).num_videos for part in ("select", "report")]
    return bool(set(parts[0]) & set(parts[1]))


def _examined(ranking: Ranking, reader: Reader, top: int) -> Ranking:
    rows = list(ranking.rows[:top])
    held_out: list[Runs] = [reader.runs(row.results, "report") if "P" in row.report else {} for row in rows]
    rows = [
        replace(row, intervals=intervals(runs, row.tasks) if runs else {})
        for row, runs in zip(rows, held_out, strict=True)
    ]
    rows = _versus(_stable(rows, reader), held_out, chosen_here=chosen_on_held_out(rows, reader))
    return replace(ranking, rows=(*rows, *ranking.rows[top:]), nested=_nested(ranking, reader))


def _stable(rows: Sequence[Row], reader: Reader) -> list[Row]:
    """With the stability of their ranks; a single row has none."""
    rows = list(rows)
    runs = [reader.runs(row.results, "select") for row in rows]
    known = [index for index, one in enumerate(runs) if one]
    if len(known) > 1:
        found = stability([runs[index] for index in known], rows[0].tasks)
        for index, one in zip(known, found, strict=bool(found)):
            rows[index] = replace(rows[index], stability=one)
    return rows


def _versus(rows: Sequence[Row], held_out: Sequence[Runs], *, chosen_here: bool) -> list[Row]:
    """With the tests against the first; none where the first has no held-out score."""
    rows = list(rows)
    known = [index for index, one in enumerate(held_out) if one]
    if len(known) > 1 and known[0] == 0:
        found = versus_first([held_out[index] for index in known], rows[0].tasks, chosen_here=chosen_here)
        for index, one in zip(known[1:], found, strict=True):
            rows[index] = replace(rows[index], versus=one)
    return rows


def _nested(ranking: Ranking, reader: Reader) -> Nested | None:
    scores = {part: [fold_scores(row, part) for row in ranking.rows] for part in ("select", "report")}
    found = nested(scores["select"], scores["report"], [row.rank for row in ranking.rows])
    return None if found is None else replace(found, interval=_nested_interval(ranking, found.chosen, reader))


def _nested_interval(ranking: Ranking, chosen: Mapping[int, int], reader: Reader) -> Interval | None:
    """Of the mean over folds, each fold with the runs of the strategy chosen in it."""
    runs: dict[Fold, Mapping[int, GroupSums]] = {}
    for outer, rank in chosen.items():
        results = [one for one in ranking.rows[rank - 1].results if one.trial.strategy.train.fold.outer == outer]
        runs |= reader.runs(results, "report")
    return interval(runs, ranking.tasks) if {fold.outer for fold in runs} == set(chosen) else None
