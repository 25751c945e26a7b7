"""The leaderboard of a study in its report: on the page, and as tables in files; and backbones by themselves."""

from collections.abc import Sequence

from pipelines.html import Cell, Markup, details, sortable_table, table, tag
from pipelines.metrics.intervals import NUM_RESAMPLES
from pipelines.metrics.paired import NUM_SWAPS
from pipelines.report.pages import Part
from pipelines.report.tables import Column, Table, Value
from pipelines.results.leaderboard import Leaderboard, Ranking, Row, Spread, rank_among
from pipelines.results.verdict import unit_of, verdict_words
from pipelines.words import (
    SCORE_WORDS,
    duration_words,
    field_words,
    probability_words,
    strategy_words,
    task_label,
    task_words,
    trained_words,
    units_words,
    value_in,
)

LONG = 25  # more rows scroll below their heads
# `{units}` are subjects, videos, or both.
TESTS_WORDS = (
    "Ranks first and 95 % rank interval: how often a strategy ranks first, and between which ranks it lies, when the "
    "selection {units} are resampled. Statistically different from #1: whether the held-out P differs significantly "
    "from that of the first. Whole {units} are swapped between the two {swaps:,} times; p is the share of swaps that "
    "differ by as much, adjusted for the number of strategies compared (step-down largest statistic). Over folds, "
    "where the same {units} selected the first, its lead must also exceed the range that equal strategies would have "
    "(Tukey). Both are conditional on the runs there are; ± shows the variation over seeds."
)
SUBJECT_WORDS = " A subject's videos are drawn or swapped together: two videos of one face are not independent."


def leaderboard_parts(board: Leaderboard) -> tuple[Part, ...]:
    """What the numbers are, then a table per set of tasks with how far to trust it."""
    unit = unit_of(board.rows)
    units = units_words(unit)
    parts: list[Part] = [
        tag(
            "p",
            "Ranked by the selection score, never by the held-out one. Scores are means over a strategy's runs, ± "
            "their standard deviation over seeds. The interval is the middle 95 % over "
            f"{NUM_RESAMPLES} resamples of held-out {units}, not frames. Optimism is selection minus held-out score.",
        ),
        details(
            "What the columns are",
            tag("p", TESTS_WORDS.format(units=units, swaps=NUM_SWAPS) + (SUBJECT_WORDS if "subject" in unit else "")),
        ),
    ]
    if len(board.rankings) > 1:
        parts.append(tag("p", "P depends on the set of tasks: strategies compare within a table, not across."))
    for ranking in board.rankings:
        official = "" if ranking.is_complete else " (P over these tasks only, not the official P)"
        if len(board.rankings) > 1 or official:
            parts.append(tag("h3", task_words(ranking.tasks) + official))
        rows = _rows_table(ranking, board.varied)
        parts.append(tag("div", rows, css="tall") if len(ranking.rows) > LONG else rows)
        if words := verdict_words(ranking):
            parts.append(tag("div", *(tag("p", sentence) for sentence in words), css="verdict"))
    return tuple(parts)


def leaderboard_tables(board: Leaderboard) -> list[Table]:
    """The same for files, one per set of tasks."""
    return [_file_table(ranking, board) for ranking in board.rankings]


def backbone_parts(board: Leaderboard) -> tuple[Part, ...]:
    """The scores of the backbones by themselves, where they have runs on these rows."""
    if not board.backbones:
        return ()
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
    return tag("p", words), table([[*upper, Cell("")], lower], rows)


def combination_parts(board: Leaderboard) -> tuple[Part, ...]:
    """Rows are sets of tasks trained together, columns each task's held-out score; nothing with one set alone.

    Of each set, auxiliary tasks included, the strategy with the highest selection score; one whose method trains a
    model per task trains none together and is left out.
    """
    best: dict[str, Row] = {}
    for row in board.rows:
        if len(row.tasks) == 1 or row.values.get("method") != "separate":
            best.setdefault(trained_words(row.tasks, row.auxiliary), row)
    rows: list[tuple[Value, ...]] = []
    for trained, row in best.items():
        scores = [row.report.get(key) for key in board.keys.values()]
        ends = [row.intervals.get(name) for name in board.schema.names]
        pairs = [value for pair in zip(scores, ends, strict=True) for value in pair]
        rows.append((trained, *pairs, strategy_words(row.values, board.varied), len(row.results)))
    if len(rows) < 2:
        return ()
    columns = [Column("tasks", "trained together")]
    for group in board.schema:
        words = f"{task_label(group.name)}: {SCORE_WORDS[group.score]}"
        columns += [Column(group.name, words), Column(f"{group.name}.interval", "95 % interval", 2)]
    columns += [Column("strategy", "strategy"), Column("num_runs", "runs")]
    units = units_words(unit_of(board.rows))
    caption = (
        "Each task's own score by the set of tasks trained together, as in arXiv 2407.16945. Held-out rows; mean ± "
        f"standard deviation over seeds, 95 % interval over resampled {units}. Of each set the strategy with the "
        "highest selection score."
    )
    return (Table(name="task-combinations", caption=caption, columns=tuple(columns), rows=tuple(rows)),)


def _rows_table(ranking: Ranking, varied: Sequence[str]) -> Markup:
    names = [task_label(task) for task in ranking.tasks]
    upper = [
        Cell("", span=1 + len(varied)),
        Cell("selection", "group chose", 3 + len(names)),
        Cell("held-out", "group scored", 3 + len(names)),
        Cell("", span=3),
    ]
    lower = [Cell("#", "n"), *(Cell(field_words(name, short=True)) for name in varied)]
    lower += [Cell(text, "n chose") for text in ("P", *names, "ranks first", "95 % rank interval")]
    lower += [Cell(text, "n scored") for text in ("P", "95 % interval", "statistically different from #1 (p)", *names)]
    lower += [Cell(text, "n") for text in ("optimism", "runs", "time")]
    rows = [_row_cells(row, varied, ranking.keys) for row in ranking.rows]
    return sortable_table([upper, lower], rows, f"leaderboard-{'-'.join(ranking.tasks)}", first="first")


def _row_cells(row: Row, varied: Sequence[str], keys: Sequence[str]) -> list[Cell]:
    found, versus = row.stability, row.versus
    first = (f"{100 * found.first:.0f} %", found.first) if found else ("–", "")
    rank = (f"{found.low} to {found.high}", found.low) if found else ("–", "")
    return [
        Cell(str(row.rank), "n", sort=row.rank),
        *(Cell(value_in(name, row.values)) for name in varied),
        _score(row.select.get("P"), "n chose", spread=True),
        *(_score(row.select.get(key), "n chose") for key in keys),
        *(Cell(text, "n chose", sort=value) for text, value in (first, rank)),
        _score(row.report.get("P"), "n scored", spread=True),
        Cell(_between(row), "n scored", sort=row.interval.low if row.interval else ""),
        Cell(_differs(row), "n scored", sort=versus.p_adjusted if versus else ""),
        *(_score(row.report.get(key), "n scored") for key in keys),
        Cell("–" if row.optimism is None else f"{row.optimism:+.3f}", "n", sort=_or_empty(row.optimism)),
        Cell(str(len(row.results)), "n", sort=len(row.results)),
        Cell(duration_words(row.seconds), "n", sort=row.seconds),
    ]


def _score(score: Spread | None, css: str, *, spread: bool = False) -> Cell:
    """The mean of a score; with `spread` its standard deviation over seeds too."""
    if score is None:
        return Cell("–", css, sort="")
    words = f"{score.mean:.3f}" + ("" if score.sd is None else f" ± {score.sd:.3f}") if spread else f"{score.mean:.2f}"
    return Cell(words, css, sort=score.mean)


def _differs(row: Row) -> str:
    """Whether it differs significantly from the first on held-out rows, with the adjusted p-value."""
    if row.versus is None:
        return "" if row.rank == 1 else "–"
    return f"{'yes' if row.versus.significant else 'no'} ({probability_words(row.versus.p_adjusted)})"


def _file_table(ranking: Ranking, board: Leaderboard) -> Table:
    varied = board.varied
    columns = [Column("rank", "#"), *(Column(name, field_words(name, short=True)) for name in varied)]
    columns += [
        Column("select.P", "selection P"), Column("rank_interval", "95 % rank interval"),
        Column("report.P", "held-out P"), Column("report.P.interval", "95 % interval", 2),
        Column("p", "statistically different from #1 (p)"),
    ]  # fmt: skip
    columns += [Column(f"report.{task}", task_label(task)) for task in ranking.tasks] + [Column("num_runs", "runs")]
    rows = [
        (
            row.rank,
            *(value_in(name, row.values) for name in varied),
            row.select.get("P"),
            f"{row.stability.low} to {row.stability.high}" if row.stability else "–",
            row.report.get("P"),
            row.interval,
            _differs(row),
            *(row.report[key].mean if key in row.report else None for key in ranking.keys),
            len(row.results),
        )
        for row in ranking.rows
    ]
    units = units_words(unit_of(board.rows))
    caption = (
        f"Strategies for {task_words(ranking.tasks)}, ranked by the selection score; mean ± standard deviation over "
        f"seeds. Intervals and tests resample or swap whole {units}."
    )
    name = f"leaderboard-{'-'.join(ranking.tasks)}"
    return Table(name=name, caption=caption, columns=tuple(columns), rows=tuple(rows))


def _number(spread: Spread | None, digits: int = 3) -> str:
    return "–" if spread is None else f"{spread.mean:.{digits}f}"


def _between(row: Row) -> str:
    return f"{row.interval.low:.2f} to {row.interval.high:.2f}" if row.interval else "–"


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
