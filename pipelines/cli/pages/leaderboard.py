"""The leaderboard in a terminal: one table per set of tasks, selection and held-out scores apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from pipelines.results.leaderboard import Leaderboard, Ranking, Row, Spread, rank_among
from pipelines.results.verdict import compared, verdict_words
from pipelines.terminal import make_console
from pipelines.words import chosen_words, field_words, task_label, task_words, value_in


def leaderboard_tables(
    board: Leaderboard, width: int = 120, top: int = 15, splits: Sequence[Mapping[str, Any]] = ()
) -> Renderables:
    """The first `top` rows of each ranking in `width` columns, with only the fields in which strategies differ.

    Below each how far to trust its first rank; then which rows of `splits` (descriptions) selected and were scored, and
    the backbones by themselves.
    """
    parts: list[Table | Text] = []
    most = max((len(row.results) for row in board.rows), default=0)
    for ranking in board.rankings:
        parts.append(_fitting(ranking, board.varied, top, most, width))
        if len(ranking.rows) > top:
            parts.append(Text(f"  and {len(ranking.rows) - top} more in leaderboard.csv", style="dim"))
        parts += [Text(words) for words in verdict_words(ranking)]
    if len(board.rankings) > 1:
        parts.append(Text("P depends on the set of tasks: strategies compare within a table, not across.", "dim"))
    if words := chosen_words(splits):
        parts.append(Text(words))
    if board.backbones:
        parts += [Text(), _backbones_table(board)]
    parts += [Text(f"backbone {name} left out: {reason}") for name, reason in board.left_out]
    return Renderables(*parts)


def _fitting(ranking: Ranking, varied: Sequence[str], top: int, most: int, width: int) -> Table:
    """The table with as many of the `OPTIONAL` columns as fit into `width`.

    Where not all do, columns stand closer; then the fields that follow from another one go: they distinguish no two
    strategies.
    """
    console = make_console(width=1000)
    independent = _independent(ranking, varied)
    by_worth = sorted(OPTIONAL, key=lambda name: name != "runs") if _misses_runs(ranking, most) else OPTIONAL
    subsets = [[name for name in OPTIONAL if name in by_worth[:count]] for count in range(len(OPTIONAL), -1, -1)]
    shown = [(varied, OPTIONAL), *((independent, names) for names in subsets)]
    tables = [_table(ranking, names, top, most, optional, gap) for names, optional in shown for gap in (1, 0)]
    return next((table for table in tables if console.measure(table).maximum <= width), tables[-1])


def _misses_runs(ranking: Ranking, most: int) -> bool:
    """Whether a strategy has fewer runs than others: some failed, or are left."""
    return any(len(row.results) < most for row in ranking.rows)


def _independent(ranking: Ranking, varied: Sequence[str]) -> list[str]:
    """Of the fields `varied` those whose value does not follow from that of one that stays; the method stays."""
    columns = {name: [value_in(name, row.values) for row in ranking.rows] for name in varied}
    kept = list(varied)
    for name in reversed([name for name in varied if name != "method"]):
        others = (columns[other] for other in kept if other != name)
        if any(len(set(zip(other, columns[name], strict=True))) == len(set(other)) for other in others):
            kept.remove(name)
    return kept


def _table(ranking: Ranking, varied: Sequence[str], top: int, most: int, shown: Sequence[str], gap: int) -> Table:
    table = Table(title=_title(ranking), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0))
    table.add_column("#", justify="right")
    for name in varied:
        table.add_column(field_words(name, short=True), overflow="fold")
    table.add_column("selection\nP ± sd", justify="right", no_wrap=True)
    table.add_column("held-out\nP ± sd", justify="right", no_wrap=True, style="bold")
    tested = bool(compared(ranking))
    if tested:
        table.add_column("different\nfrom #1", justify="right", no_wrap=True)
    names = column_names(ranking.tasks)
    heads = {"optimism": "\noptimism", "interval": "95 %\ninterval", "runs": "\nruns", "parts": f"held-out\n{names}"}
    heads["ranks"] = "95 % rank\ninterval"
    for name in shown:
        table.add_column(heads[name], justify="right", no_wrap=True)
    for row in ranking.rows[:top]:
        fields = [value_in(name, row.values) for name in varied]
        scores = [spread_words(row.select["P"]), spread_words(row.report.get("P"))]
        scores += [_differs(row)] if tested else []
        optional = _optional(row, ranking, most)
        table.add_row(str(row.rank), *fields, *scores, *(optional[name] for name in shown))
    return table


def _backbones_table(board: Leaderboard) -> Table:
    """One row per backbone: the scores of its tasks by its own outputs, frame by frame."""
    title = "backbones by themselves, frame by frame, not ranked"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("backbone", overflow="fold")
    names = column_names(board.schema.names)
    for head in (f"selection\n{names}", f"held-out\n{names}", "held-out sum\n95 % interval", "would\nrank"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in board.backbones:
        rank = rank_among(row, board)
        table.add_row(
            row.streams[0],
            *(_parts_words(board.keys, part) for part in (row.select, row.report)),
            f"{row.interval.low:.2f}–{row.interval.high:.2f}" if row.interval else "–",
            f"{rank[0]} of {rank[1]}" if rank else "–",
        )
    return table


def column_names(tasks: Sequence[str]) -> str:
    """ "  VA EXPR   AU", above numbers in as many signs."""
    return " ".join(f"{task_label(task):>4}" for task in tasks)


def _parts_words(keys: Mapping[str, str], scores: Mapping[str, Spread]) -> str:
    """The score of each task of `keys` (task -> key), below its name."""
    found = {task: scores.get(key) for task, key in keys.items()}
    return " ".join(
        f"{'–' if part is None else f'{part.mean:.2f}':>{max(4, len(task_label(task)))}}"
        for task, part in found.items()
    )


# Columns left out in a narrow terminal, the last one first; the runs last of all where some are missing.
OPTIONAL = ("optimism", "interval", "ranks", "runs", "parts")


def _title(ranking: Ranking) -> str:
    official = "" if ranking.is_complete else " (not the official P)"
    return f"{task_words(ranking.tasks)}{official}, ranked by the selection score"


def _optional(row: Row, ranking: Ranking, most: int) -> dict[str, str]:
    return {
        "optimism": "–" if row.optimism is None else f"{row.optimism:+.3f}",
        "interval": f"{row.interval.low:.2f}–{row.interval.high:.2f}" if row.interval else "–",
        "ranks": f"{row.stability.low}–{row.stability.high}" if row.stability else "–",
        "runs": str(len(row.results)) if len(row.results) == most else f"{len(row.results)} of {most}",
        "parts": _parts_words(dict(zip(ranking.tasks, ranking.keys, strict=True)), row.report),
    }


def _differs(row: Row) -> str:
    """Whether it differs significantly from the first of its table on the held-out rows."""
    if row.versus is None:
        return "" if row.rank == 1 else "–"
    return "yes" if row.versus.significant else "no"


def spread_words(spread: Spread | None) -> str:
    """ "1.234 ±.012", or "1.234 –" for a single run."""
    if spread is None:
        return "–"
    return f"{spread.mean:.3f} " + ("    –" if spread.sd is None else f"±{spread.sd:.3f}".replace("0.", "."))
