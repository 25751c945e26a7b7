"""Figures of a study: the effect of each choice, the spread over seeds, selection against held-out scores."""

from collections.abc import Sequence

from cache.labels import Schema
from pipelines.charts import wrapped
from pipelines.concerns import concerns
from pipelines.report import study_plots
from pipelines.report.pages import Figure, Part, Section
from pipelines.report.tables import Column, Table, Value
from pipelines.results.effects import Effect, Effects, mean, varied_in
from pipelines.results.leaderboard import Leaderboard, Row
from pipelines.results.verdict import unit_of
from pipelines.words import SCORE_WORDS, field_words, task_label, task_words, units_words, value_in

TOP_ROWS = 10


def effect_sections(effects: Effects, board: Leaderboard) -> list[Section]:
    """The mean score by the value of each varied field; where tasks vary, also each task by those trained with it."""
    units = units_words(unit_of(board.rows))
    lines = f" Lines are 95 % intervals of the held-out mean over resampled {units}."
    axis = "P" if board.schema.is_complete(effects.tasks) else f"P over {task_words(effects.tasks)}"
    sections = []
    if effects.fields:
        caption = (
            f"Strategies for {task_words(effects.tasks)}, selection and held-out rows. Each dot is a strategy (mean "
            "over its runs), each diamond the mean of those that share the value. Where the grid has them, only "
            f"strategies with a counterpart that differs in that field alone are compared.{lines}"
        )
        panels = [study_plots.effects(field_words(name), values, axis) for name, values in effects.fields.items()]
        words = (
            "The difference is the mean over pairs of strategies that differ in that field alone, held-out P with the "
            "value minus held-out P with the first value, which has the best rank. An interval that holds 0 leaves "
            f"open which is better. Intervals resample {units}, are of these runs, and are not adjusted for the "
            "number of rows."
        )
        parts: list[Part] = [Figure(study_plots.chart("what-helped", panels), caption)]
        parts.append(_table("effects", words, {field_words(name): one for name, one in effects.fields.items()}))
        sections.append(Section("What helped", tuple(parts)))
    if effects.together:
        caption = (
            f"Each task's own score by the tasks it was trained with: {_score_names(board.schema)}; selection and "
            "held-out rows. These compare across sets of tasks, P does not. Only strategies trained on more than one "
            f"set are compared.{lines}"
        )
        together = {f"{task_label(name)} trained in": values for name, values in effects.together.items()}
        panels = [study_plots.effects(name, values, "score of the task") for name, values in together.items()]
        words = (
            "Held-out score of the task, minus that of the same strategies trained on the first set. Intervals "
            f"resample {units}."
        )
        parts = [
            Figure(study_plots.chart("tasks-together", panels), caption),
            _table("tasks-together", words, together),
        ]
        sections.append(Section("Which tasks help each other", tuple(parts)))
    return sections


def spread_figures(board: Leaderboard) -> tuple[Part, ...]:
    """Every run of the first rows, and each strategy's two scores against each other."""
    ranking = board.rankings[0]
    rows = [row for row in ranking.rows if "P" in row.report]
    if not rows:
        return ()
    axis = "P" if ranking.is_complete else f"P over {task_words(ranking.tasks)}"
    top = rows[:TOP_ROWS]
    select, report = ([_scores(row, part) for row in top] for part in ("select", "report"))
    varied = varied_in(ranking, board.varied)
    names = [wrapped([value_in(name, row.values) for name in varied if concerns(name, row.values)], 21) for row in top]
    caption = (
        f"The first {len(top)} strategies by selection score; each dot is a run (a seed or a fold), selection and "
        "held-out rows. The names give the leaderboard's columns in their order. The bar is the interval of the mean "
        f"held-out score over resampled {units_words(unit_of(top))}."
    )
    parts: list[Part] = []
    if len(rows) > 1:
        means = [[getattr(row, part)["P"].mean for row in rows] for part in ("select", "report")]
        optimism = mean(means[0]) - mean(means[1])
        words = (
            f"Each dot is a strategy. On average the selection score is {abs(optimism):.3f} "
            f"{'above' if optimism >= 0 else 'below'} the held-out one; for the chosen strategy by "
            f"{means[0][0] - means[1][0]:+.3f}. The two are scored on different videos, which may differ in difficulty."
        )
        parts.append(Figure(study_plots.selection_against_held_out(means[0], means[1], axis), words))
    parts.append(Figure(study_plots.seeds(names, select, report, [row.interval for row in top], axis), caption))
    return tuple(parts)


def _table(name: str, caption: str, fields: dict[str, Sequence[Effect]] | dict[str, tuple[Effect, ...]]) -> Table:
    columns = (
        Column("field", "choice"), Column("value", "value"), Column("num_strategies", "strategies"),
        Column("select", "selection"), Column("report", "held-out"), Column("interval", "95 % interval", 2),
        Column("difference", "difference", signed=True),
        Column("difference.interval", "its 95 % interval", signed=True),
        Column("num_pairs", "pairs"),
    )  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for field, values in fields.items():
        for value in values:
            one = value.difference
            rows.append(
                (field, value.label, len(value.report), mean(value.select), mean(value.report), value.interval,
                 one.value if one else None, one.interval if one else None, one.num_pairs if one else None)
            )  # fmt: skip
    return Table(name=name, caption=caption, columns=columns, rows=tuple(rows))


def _score_names(schema: Schema) -> str:
    """ "VA by mean CCC, EXPR by macro F1"."""
    return ", ".join(f"{task_label(group.name)} by {SCORE_WORDS[group.score]}" for group in schema)


def _scores(row: Row, part: str) -> list[float]:
    return [float(result.metrics[part]["P"]) for result in row.results]
