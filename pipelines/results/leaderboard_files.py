"""The leaderboard for scripts: leaderboard.csv and leaderboard.json. The keys are stable."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.json_files import write_json, write_text
from pipelines.metrics.intervals import LEVEL, NUM_RESAMPLES, Interval
from pipelines.metrics.nested import Nested
from pipelines.metrics.paired import LIMIT, NUM_SWAPS, Versus
from pipelines.results.leaderboard import Leaderboard, Ranking, Row, rank_among
from pipelines.results.verdict import num_not_significant, unit_of, verdict_words
from pipelines.search.study import choice_of
from pipelines.words import units_words


def write_leaderboard(board: Leaderboard, folder: Path, head: Mapping[str, Any]) -> None:
    """leaderboard.csv and leaderboard.json in `folder`; `head` (the study's name, its split) opens the JSON."""
    records = [to_record(row, board) for row in (*board.rows, *board.backbones)]
    write_text(folder / "leaderboard.csv", pl.DataFrame(records, infer_schema_length=None).write_csv())
    write_json(folder / "leaderboard.json", to_json(board, head))


def to_json(board: Leaderboard, head: Mapping[str, Any]) -> dict[str, Any]:
    """The leaderboard for scripts; the keys are stable."""
    unit = unit_of(board.rows)
    return {
        **head,
        "schema": board.schema.to_mapping(),
        "varied": list(board.varied),
        "interval": {"level": LEVEL, "resamples": NUM_RESAMPLES, "unit": unit},
        "test": {
            "method": f"{units_words(unit)} swapped, step-down largest statistic",
            "swaps": NUM_SWAPS,
            "limit": LIMIT,
        },
        "rankings": [_ranking_json(ranking) for ranking in board.rankings],
        "backbones": [_backbone_json(row, board) for row in board.backbones],
        "backbones_left_out": [{"backbone": name, "reason": reason} for name, reason in board.left_out],
    }


def to_record(row: Row, board: Leaderboard) -> dict[str, Any]:
    """A row of leaderboard.csv; a backbone by itself has no rank and none of a strategy's choices."""
    is_backbone = not row.values
    record: dict[str, Any] = {"rank": None if is_backbone else row.rank, "tasks": ",".join(row.tasks)}
    record |= {"kind": "backbone" if is_backbone else "strategy"}
    record |= {name: choice_of(row.values.get(name)) for name in board.varied} | {"streams_used": ",".join(row.streams)}
    record |= {"num_seeds": len(row.seeds), "num_folds": len(row.folds), "num_inner": row.num_inner}
    for part, values in (("select", row.select), ("report", row.report)):
        for key in ("P", *board.keys.values()):
            record[f"{part}.{key}"] = values[key].mean if key in values else None
            record[f"{part}.{key}.sd"] = values[key].sd if key in values else None
    for name, ends in (("report.P", row.interval), ("rank", row.stability)):
        record |= {f"{name}.low": ends.low if ends else None, f"{name}.high": ends.high if ends else None}
    record["first_share"] = row.stability.first if row.stability else None
    record |= {f"versus_first.{key}": value for key, value in _versus_json(row.versus).items()}
    return record | {"optimism": row.optimism, "seconds": row.seconds, "runs": " ".join(_runs(row))}


def _ranking_json(ranking: Ranking) -> dict[str, Any]:
    return {
        "tasks": list(ranking.tasks),
        "num_strategies": len(ranking.rows),
        "num_not_significant": num_not_significant(ranking),
        "verdict": verdict_words(ranking),
        "nested": _nested_json(ranking.nested),
        "rows": [_row_json(row) for row in ranking.rows],
    }


def _backbone_json(row: Row, board: Leaderboard) -> dict[str, Any]:
    rank = rank_among(row, board)
    return {
        "backbone": row.streams[0],
        "tasks": list(row.tasks),
        "select": {key: spread.mean for key, spread in row.select.items()},
        "report": {key: spread.mean for key, spread in row.report.items()},
        "interval": _interval_json(row.interval),
        "rank_among_strategies": None if rank is None else {"rank": rank[0], "of": rank[1]},
        "seconds": row.seconds,
        "run": str(row.results[0].folder),
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "strategy": dict(row.values),
        "streams_used": list(row.streams),
        "seeds": list(row.seeds),
        "folds": list(row.folds),
        "num_inner": row.num_inner,
        "select": {key: spread.to_json() for key, spread in row.select.items()},
        "report": {key: spread.to_json() for key, spread in row.report.items()},
        "interval": _interval_json(row.interval),
        "optimism": row.optimism,
        "stability": row.stability.to_json() if row.stability else None,
        "versus_first": _versus_json(row.versus) if row.versus else None,
        "seconds": row.seconds,
        "runs": _runs(row),
    }


def _interval_json(between: Interval | None) -> dict[str, Any] | None:
    return between.to_json() if between else None


def _versus_json(versus: Versus | None) -> dict[str, Any]:
    """First minus this one, in held-out P."""
    if versus is None:
        return dict.fromkeys(("P", "low", "high", "p", "p_adjusted", "significant"))
    found = versus.difference
    numbers = {"P": found.value, "low": found.low, "high": found.high, "p": found.p}
    return {**numbers, "p_adjusted": versus.p_adjusted, "significant": versus.significant}


def _nested_json(nested: Nested | None) -> dict[str, Any] | None:
    if nested is None:
        return None
    return {
        "P": nested.score,
        "interval": _interval_json(nested.interval),
        "chosen": {str(fold): rank for fold, rank in nested.chosen.items()},
        "naive": {"P": nested.naive, "rank": nested.naive_rank},
        "num_strategies": nested.num_strategies,
        "num_inner": nested.num_inner,
    }


def _runs(row: Row) -> list[str]:
    """By their path from the study; a backbone's by its folder, which lies elsewhere."""
    if not row.values:
        return [str(result.folder) for result in row.results]
    return [f"runs/{result.folder.name}" for result in row.results]
