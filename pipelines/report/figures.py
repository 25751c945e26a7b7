"""Which figures stand in a report, what each is drawn from, and the captions that say so. V videos."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from cache.labels import Schema, Task
from pipelines.folds import NO_FOLD
from pipelines.html import Markup, figure_html, tag
from pipelines.metrics.challenge import main_key
from pipelines.report import plots
from pipelines.results.effects import field_effects, mean, task_effects, varied_in
from pipelines.results.leaderboard import Leaderboard, Ranking, Row, read_part
from pipelines.results.verdict import unit_of
from pipelines.search.study import Result
from pipelines.words import (
    SCORE_WORDS,
    concerns,
    field_words,
    score_title,
    strategy_words,
    task_label,
    task_words,
    units_words,
    value_in,
)

FEW_FRAMES = 20
TOP_ROWS = 10


def task_figures(board: Leaderboard, frames: pl.DataFrame) -> list[Markup]:
    """One figure per task, of the best strategy that has it and that has held-out labels for it."""
    drawn = []
    for name in board.schema.names:
        ranking, task = next(
            (
                (ranking, task)
                for ranking in board.rankings
                for task in board.schema.scored(ranking.tasks)
                if task.group.name == name
            ),
            (None, None),
        )
        if ranking is not None and task is not None:
            run = best_run(ranking.rows[0])
            drawn.append(FIGURES[task.group.kind](board, ranking, task, run, read_part(run, frames, "report")))
    return [part for parts in drawn for part in parts]


def _score_names(schema: Schema) -> str:
    """ "VA by mean CCC, EXPR by macro F1"."""
    return ", ".join(f"{task_label(group.name)} by {SCORE_WORDS[group.score]}" for group in schema)


def best_run(row: Row) -> Result:
    """Of a row's runs the one with the highest selection score: held-out rows play no part."""
    return max(row.results, key=lambda result: float(result.metrics["select"]["P"]))


def effect_figures(board: Leaderboard) -> list[Markup]:
    """The mean score by the value of each varied field; where tasks vary, also each task by those trained with it."""
    ranking = max(board.rankings, key=lambda one: (len(one.tasks), len(one.rows)))
    fields = {field_words(name): field_effects(ranking, name) for name in varied_in(ranking, board.varied)}
    fields = {name: values for name, values in fields.items() if len(values) > 1}
    parts: list[Markup] = []
    if fields:
        axis = "P" if ranking.is_complete else f"P over {task_words(ranking.tasks)}"
        caption = (
            f"Strategies for {task_words(ranking.tasks)}. Each dot is a strategy (mean over its runs), each diamond "
            "the mean of those that share the value. Where the grid has them, only strategies with a counterpart that "
            "differs in that field alone are compared."
        )
        parts.append(figure_html(plots.effects(fields, axis), "what-helped", caption))
    together = {f"{task_label(name)} trained in": task_effects(board, name) for name in board.schema.names}
    together = {name: values for name, values in together.items() if len(values) > 1}
    if together:
        caption = (
            f"Each task's own score by the tasks it was trained with: {_score_names(board.schema)}. "
            "These compare across sets of tasks, P does not. Only strategies trained on more than one set are compared."
        )
        parts += [
            tag("h3", "Which tasks help each other"),
            figure_html(plots.effects(together, "score of the task"), "tasks-together", caption),
        ]
    return parts


def spread_figures(board: Leaderboard) -> list[Markup]:
    """Every run of the first rows, and each strategy's two scores against each other."""
    ranking = board.rankings[0]
    rows = [row for row in ranking.rows if "P" in row.report]
    if not rows:
        return []
    axis = "P" if ranking.is_complete else f"P over {task_words(ranking.tasks)}"
    names = [strategy_words(row.values, varied_in(ranking, board.varied)) for row in rows]
    top = rows[:TOP_ROWS]
    select, report = ([_scores(row, part) for row in top] for part in ("select", "report"))
    varied = varied_in(ranking, board.varied)
    short = [_wrapped([value_in(name, row.values) for name in varied if concerns(name, row.values)]) for row in top]
    caption = (
        f"The first {len(top)} strategies by selection score; each dot is a run (a seed or a fold). The "
        "names give the leaderboard's columns in their order. "
        f"The bar is the interval of the mean held-out score over resampled {units_words(unit_of(top))}."
    )
    parts = [figure_html(plots.seeds(short, select, report, [row.interval for row in top], axis), "seeds", caption)]
    if len(rows) > 1:
        means = [[getattr(row, part)["P"].mean for row in rows] for part in ("select", "report")]
        optimism = mean(means[0]) - mean(means[1])
        caption = (
            f"Each dot is a strategy. On average the selection score is {abs(optimism):.3f} "
            f"{'above' if optimism >= 0 else 'below'} the held-out one; for the chosen strategy by "
            f"{means[0][0] - means[1][0]:+.3f}. The two are scored on different videos, which may differ in difficulty."
        )
        figure = plots.selection_against_held_out(means[0], means[1], names, axis)
        parts.append(figure_html(figure, "selection-held-out", caption))
    return parts


def _traces(board: Leaderboard, ranking: Ranking, task: Task, run: Result, table: pl.DataFrame) -> list[Markup]:
    videos = shown_videos(table, task)
    if not videos:
        return []
    caption = (
        f"Labels and predictions of held-out videos over real frame numbers; {_of(board, ranking, run)} Shown are the "
        "videos with the smallest, the median and the largest mean error."
    )
    scores, of_group = run.metrics["report"], task.group
    score = {"ccc": "CCC", "pearson": "correlation"}[of_group.score]
    values = [f"{name} {score} {scores[f'{of_group.name}.{of_group.score}_{name}']:.3f}" for name in task.columns]
    return [
        tag("h3", f"{task_label(task.name)}: {', '.join(values)} over all held-out frames"),
        figure_html(plots.traces(table, videos, task), of_group.name, caption),
    ]


def shown_videos(table: pl.DataFrame, task: Task) -> list[tuple[str, str]]:
    """(video, remark) of the videos with the smallest, median and largest mean error; short ones only if need be."""
    error = pl.mean_horizontal((pl.col(name) - pl.col(f"true:{name}")).abs() for name in task.columns)
    known = pl.all_horizontal(pl.col(f"true:{name}").is_not_null() for name in task.columns)
    by_video = table.filter(known).group_by("video").agg(error.mean().alias("error"), pl.len().alias("frames"))
    long_enough = by_video.filter(pl.col("frames") >= FEW_FRAMES)
    ordered = (long_enough if len(long_enough) else by_video).sort("error", "video")["video"].to_list()
    shown = {0: "smallest error", len(ordered) // 2: "median", len(ordered) - 1: "largest error"}
    return [(ordered[index], remark) for index, remark in shown.items() if ordered]


def _classes(board: Leaderboard, ranking: Ranking, task: Task, run: Result, table: pl.DataFrame) -> list[Markup]:
    (column,), classes = task.columns, task.group.classes
    rows = table.filter(pl.col(f"true:{column}").is_not_null() & pl.col(column).is_not_null())
    if not len(rows):
        return []
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (rows[f"true:{column}"].to_numpy(), rows[column].to_numpy()), 1)
    missing = [name for name, total in zip(classes, counts.sum(axis=1), strict=True) if not total]
    note = f" No held-out frame is labelled {', '.join(missing)}." if missing else ""
    caption = (
        f"{len(rows):,} held-out frames; {_of(board, ranking, run)} Each row is a label: shares of its frames, "
        "which sum to 1, and their number in brackets. Correct predictions are on the diagonal."
    )
    score = run.metrics["report"][main_key(task.group)]
    return [
        tag("h3", f"{score_title(task)} {score:.3f}"),
        figure_html(plots.confusion(counts, classes, column), task.group.name, caption + note),
    ]


def _binary(board: Leaderboard, ranking: Ranking, task: Task, run: Result, table: pl.DataFrame) -> list[Markup]:
    best, other = ranking.rows[0], compared_row(ranking)
    scores = {"the chosen strategy": _f1(best, task)}
    words = "F1 of each column on held-out frames, mean over the runs of a strategy."
    if other is not None:
        name = "the best frame-wise strategy" if other.values["temporal"] == "none" else f"number {other.rank}"
        scores[name] = _f1(other, task)
        words += f" In grey, for comparison, {name}: {strategy_words(other.values, varied_in(ranking, board.varied))}."
    if not scores["the chosen strategy"]:
        return []
    return [
        tag("h3", f"{score_title(task)} {best.report[main_key(task.group)].mean:.3f}"),
        figure_html(plots.f1_bars(scores, task.columns, task_label(task.name)), task.group.name, words),
    ]


def compared_row(ranking: Ranking) -> Row | None:
    """The best frame-wise strategy, or else the next in rank; None where there is no other."""
    frame_wise = [row for row in ranking.rows[1:] if row.values["temporal"] == "none"]
    return next(iter(frame_wise or ranking.rows[1:]), None)


def _f1(row: Row, task: Task) -> dict[str, float]:
    """By column the held-out F1."""
    keys = {name: f"{task.group.name}.f1.{name}" for name in task.columns}
    return {name: row.report[key].mean for name, key in keys.items() if key in row.report}


def _of(board: Leaderboard, ranking: Ranking, run: Result) -> str:
    """Which run it is."""
    train = run.trial.strategy.train
    where = f"seed {train.seed}" + (f", fold {train.fold}" if train.fold != NO_FOLD else "")
    chosen = f"chosen strategy for {task_words(ranking.tasks)}" if len(board.rankings) > 1 else "chosen strategy"
    return f"{chosen}, {where}, the run of highest selection score."


def _scores(row: Row, part: str) -> list[float]:
    return [float(result.metrics[part]["P"]) for result in row.results]


def _wrapped(values: Sequence[str], most: int = 26) -> str:
    """The `values` in lines a figure has room for beside it, on a phone too."""
    lines = [""]
    for value in values:
        if lines[-1] and len(lines[-1]) + len(value) > most:
            lines.append("")
        lines[-1] += (" · " if lines[-1] else "") + value
    return "\n".join(lines)


FIGURES: dict[str, Callable[[Leaderboard, Ranking, Task, Result, pl.DataFrame], list[Markup]]] = {
    "continuous": _traces,
    "classes": _classes,
    "binary": _binary,
}
