"""The report of a study: one page that says what was done, what came out, and how far to trust it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cache.labels import Schema
from pipelines.folds import Fold, parse_fold
from pipelines.html import Cell, Markup, details, join, page, table, tag, tiles
from pipelines.json_files import write_text
from pipelines.metrics.intervals import NUM_RESAMPLES, Interval
from pipelines.metrics.nested import Nested
from pipelines.metrics.paired import NUM_SWAPS
from pipelines.report.figures import effect_figures, spread_figures, task_figures
from pipelines.results.leaderboard import Leaderboard, Ranking, Row, Spread, rank_among
from pipelines.results.verdict import significance_words, unit_of, verdict_words
from pipelines.search.study import Study, read_about
from pipelines.words import (
    counted,
    duration_words,
    field_words,
    probability_words,
    split_words,
    strategy_words,
    task_label,
    task_words,
    units_words,
    value_in,
)

SHOWN_ROWS = 25


def write_report(study: Study, board: Leaderboard, frames: pl.DataFrame) -> Path:
    """report.html in the study's folder."""
    path = study.path / "report.html"
    write_text(path, make_report(study, board, frames))
    return path


def make_report(study: Study, board: Leaderboard, frames: pl.DataFrame) -> str:
    """The page as HTML. `board` holds at least one row."""
    about = read_about(study.path)
    sections = [
        tag("h1", f"Strategy search: {about['name']}"),
        _opening(board),
        _what_was_done(about, board.schema),
        _leaderboard(board),
        _backbones(board),
        _section("The chosen strategy, task by task", task_figures(board, frames)),
        _section("What helped", effect_figures(board)),
        _section("Spread over seeds, and optimism of selection", spread_figures(board)),
        _failures(study),
        _grid(study),
    ]
    return page(f"Strategy search: {about['name']}", join(part for part in sections if part))


def _opening(board: Leaderboard) -> Markup:
    ranking = board.rankings[0]
    best = ranking.rows[0]
    score = "P" if ranking.is_complete else f"P over {task_words(ranking.tasks)}"
    numbers = [
        (_number(best.report.get("P")), f"held-out {score} of the chosen strategy"),
        (_between(best), f"its 95 % interval, {_resampled(best.interval)} resampled"),
        (_number(best.select["P"]), "its selection score"),
        (f"{len(board.rows):,}", f"strategies, {sum(len(row.results) for row in board.rows):,} runs"),
    ]
    if ranking.nested:
        numbers[:2] = _nested_tiles(ranking.nested, score)
    sentence = f"Chosen by the selection score: {strategy_words(best.values, board.varied)}. "
    return join([tag("p", sentence, significance_words(ranking)), tiles(numbers)])


def _nested_tiles(nested: Nested, score: str) -> list[tuple[str, str]]:
    """With folds the nested estimate comes first: no single strategy has a held-out score of its own."""
    between = nested.interval
    folds = f"{len(nested.chosen)} outer folds" + (
        f" of {nested.num_inner} inner parts" if nested.num_inner > 1 else ""
    )
    return [
        (f"{nested.score:.3f}", f"nested estimate of held-out {score}, {folds}"),
        (
            f"{between.low:.2f} – {between.high:.2f}" if between else "–",
            f"its 95 % interval, {_resampled(between)} resampled",
        ),
        (f"{nested.naive:.3f}", "the best mean over the same folds, selected on the rows that score it"),
    ]


def _what_was_done(about: Mapping[str, Any], schema: Schema) -> Markup:
    folds = sorted(map(parse_fold, about["splits"]))
    splits = [about["splits"][str(fold)] for fold in folds]
    head = [Cell("part"), Cell("rows of"), *(Cell(text, "n") for text in ("videos", "frames"))]
    head += [Cell(f"labelled {task_label(name)}", "n") for name in schema.names]
    rows = [[_split_row(words, split[part]) for part, words in PART_WORDS.items()] for split in splits]
    others = table([head], [row for split in rows[1:] for row in split]) if len(rows) > 1 else Markup()
    streams = [
        [Cell(name), Cell(str(stream.get("backbone", "")), ""), Cell(f"{stream['width']:,}", "n")]
        for name, stream in about["streams"].items()
    ]
    return join(
        [
            tag("h2", "What was done"),
            tag("p", split_words(splits[0]) + _folds_words(folds)),
            table([head], rows[0]),
            details(f"the other {counted(len(splits) - 1, 'split')}", others) if others else Markup(),
            tag("p", "Embeddings each strategy could read; the backbones behind them were not trained further:"),
            table([[Cell("stream"), Cell("backbone"), Cell("width", "n")]], streams),
        ]
    )


def _folds_words(folds: Sequence[Fold]) -> str:
    """How many splits there are, where there are several."""
    if len(folds) < 2:
        return ""
    inner = max(fold.inner for fold in folds) + 1
    num_outer = len({fold.outer for fold in folds})
    made = f" ({counted(num_outer, 'outer fold')}, {inner} inner parts each)" if inner > 1 else ""
    return f" The study has {len(folds)} splits{made}; this is the first of them."


# `{units}` are subjects, videos, or both.
TESTS_WORDS = (
    "First and rank 95 %: how often a strategy ranks first, and the 95 % interval of its rank, when the selection "
    "{units} are resampled. Differs from #1: whether the held-out P differs significantly from that of the first. "
    f"Whole {{units}} are swapped between the two {NUM_SWAPS:,} times; p is the share of swaps that differ by as much, "
    "adjusted for the number of strategies compared (step-down largest statistic). Over folds, where the same {units} "
    "selected the first, its lead must also exceed the range that equal strategies would have (Tukey). Both are "
    "conditional on the runs there are; ± shows the variation over seeds."
)
SUBJECT_WORDS = " A subject's videos are drawn or swapped together: two videos of one face are not independent."
PART_WORDS = {"train": "training", "select": "selection", "report": "held out"}


def _split_row(words: str, part: Mapping[str, Any]) -> list[Cell]:
    counts = [part["videos"], part["frames"], *part["labelled"].values()]
    return [Cell(words), Cell(part["of"]), *(Cell(f"{count:,}", "n") for count in counts)]


def _leaderboard(board: Leaderboard) -> Markup:
    unit = unit_of(board.rows)
    units = units_words(unit)
    parts = [
        tag("h2", "Leaderboard"),
        tag(
            "p",
            "Ranked by the selection score, never by the held-out one. Scores are means over a strategy's runs, ± "
            "their standard deviation over seeds (– with a single run). The interval is the middle 95 % over "
            f"{NUM_RESAMPLES} resamples of held-out {units}, not frames. Optimism is selection minus held-out score.",
        ),
        tag("p", TESTS_WORDS.format(units=units) + (SUBJECT_WORDS if "subject" in unit else ""), css="muted"),
    ]
    if len(board.rankings) > 1:
        parts.append(tag("p", "P depends on the set of tasks: strategies compare within a table, not across."))
    for ranking in board.rankings:
        official = "" if ranking.is_complete else " (P over these tasks only, not the official P)"
        if len(board.rankings) > 1 or official:
            parts.append(tag("h3", task_words(ranking.tasks) + official))
        parts.append(_rows_table(ranking, board.varied, ranking.rows[:SHOWN_ROWS], "first"))
        if rest := ranking.rows[SHOWN_ROWS:]:
            parts.append(details(f"{len(rest)} more", _rows_table(ranking, board.varied, rest)))
        if words := verdict_words(ranking):
            parts.append(tag("div", *(tag("p", sentence) for sentence in words), css="verdict"))
    return join(parts)


def _backbones(board: Leaderboard) -> Markup:
    """The scores of the backbones by themselves, where they have runs on these rows."""
    if not board.backbones:
        return Markup()
    words = (
        "Fine-tuned backbones by their own outputs, frame by frame, on the same rows: the baseline for the heads. "
        "Their epochs were selected as the heads' were, but no search selected among them, so they have no rank; the "
        "last column is the rank one would have by its selection score among the strategies of its tasks."
    )
    names = [task_label(name) for name in board.schema.names]
    upper = [Cell(""), Cell("selection", "group chose", len(names)), Cell("held-out", "group scored", 1 + len(names))]
    lower = [Cell("backbone"), *(Cell(text, "n chose") for text in names)]
    lower += [*(Cell(text, "n scored") for text in (*names, "sum, 95 %")), Cell("would rank", "n")]
    rows = []
    for row in board.backbones:
        rank = rank_among(row, board)
        chose, scored = (
            [_number(part.get(key), 2) for key in board.keys.values()] for part in (row.select, row.report)
        )
        cells = [Cell(row.streams[0]), *(Cell(text, "n chose") for text in chose)]
        cells += [Cell(text, "n scored") for text in (*scored, _between(row))]
        rows.append([*cells, Cell(f"{rank[0]} of {rank[1]}" if rank else "–", "n")])
    return join([tag("h2", "Backbones by themselves"), tag("p", words), table([[*upper, Cell("")], lower], rows)])


def _rows_table(ranking: Ranking, varied: Sequence[str], rows: Sequence[Row], first: str = "") -> Markup:
    names = [task_label(task) for task in ranking.tasks]
    upper = [
        Cell("", span=1 + len(varied)),
        Cell("selection", "group chose", 3 + len(names)),
        Cell("held-out", "group scored", 3 + len(names)),
        Cell("", span=3),
    ]
    lower = [Cell("#", "n"), *(Cell(field_words(name, short=True)) for name in varied)]
    lower += [Cell(text, "n chose") for text in ("P", *names, "first", "rank 95 %")]
    lower += [Cell(text, "n scored") for text in ("P", "95 %", "differs from #1", *names)]
    lower += [Cell(text, "n") for text in ("optimism", "runs", "time")]
    return table([upper, lower], [_row_cells(row, varied, ranking.keys) for row in rows], first)


def _row_cells(row: Row, varied: Sequence[str], keys: Sequence[str]) -> list[Cell]:
    optimism = "–" if row.optimism is None else f"{row.optimism:+.3f}"
    return [
        Cell(str(row.rank), "n"),
        *(Cell(value_in(name, row.values)) for name in varied),
        Cell(_spread(row.select["P"]), "n chose"),
        *(Cell(_number(row.select[key], 2), "n chose") for key in keys),
        *(Cell(text, "n chose") for text in _ranks(row)),
        Cell(_spread(row.report.get("P")), "n scored"),
        Cell(_between(row), "n scored"),
        Cell(_differs(row), "n scored"),
        *(Cell(_number(row.report.get(key), 2), "n scored") for key in keys),
        *(Cell(text, "n") for text in (optimism, str(len(row.results)), duration_words(row.seconds))),
    ]


def _ranks(row: Row) -> tuple[str, str]:
    """How often it ranks first over resampled selection subjects or videos, and the interval of its rank."""
    found = row.stability
    return (f"{100 * found.first:.0f} %", f"{found.low} – {found.high}") if found else ("–", "–")


def _differs(row: Row) -> str:
    """Whether it differs significantly from the first on held-out rows, with the adjusted p-value."""
    if row.versus is None:
        return "" if row.rank == 1 else "–"
    return f"{'yes' if row.versus.significant else 'no'} (p {probability_words(row.versus.p_adjusted)})"


def _section(title: str, content: Sequence[str]) -> Markup:
    return join([tag("h2", title), *content]) if content else Markup()


def _failures(study: Study) -> Markup:
    failures = study.failures()
    if not failures:
        return Markup()
    fields = ["tasks", *(name for name in read_about(study.path)["fields"] if name != "tasks")]
    rows = [[Cell(strategy_words(entry["strategy"], fields)), Cell(entry["reason"])] for entry in failures.values()]
    words = "These trials failed and are in no table above; --retry-failed tries them again."
    return join([tag("h2", "Failed trials"), tag("p", words), table([[Cell("strategy"), Cell("reason")]], rows)])


def _grid(study: Study) -> Markup:
    about = read_about(study.path)
    text = (study.path / "grid.toml").read_text(encoding="utf-8")
    again = f"The grid of the latest search, {about['grid']}. Fields it does not name are those of mtl.toml; each run "
    return join(
        [
            tag("h2", "How to reproduce it"),
            tag("p", again + "folder of the study holds its whole configuration, its weights and its predictions."),
            details("the grid", tag("pre", text)),
        ]
    )


def _number(spread: Spread | None, digits: int = 3) -> str:
    return "–" if spread is None else f"{spread.mean:.{digits}f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:.3f} " + ("–" if spread.sd is None else f"± {spread.sd:.3f}")


def _resampled(between: Interval | None) -> str:
    """ "12 subjects"; without an interval there is nothing to count."""
    return between.sample.words if between else "videos"


def _between(row: Row) -> str:
    return f"{row.interval.low:.2f} – {row.interval.high:.2f}" if row.interval else "–"
