"""The report of a study: what was done, what came out, and how far to trust it."""

from collections.abc import Mapping, Sequence
from typing import Any

from cache.labels import Schema, Task
from pipelines.folds import NO_FOLD, Fold, parse_fold
from pipelines.html import Cell, Markup, details, join, table, tag, tiles
from pipelines.metrics.intervals import Interval
from pipelines.metrics.nested import Nested
from pipelines.postprocess.run_folders import Truth
from pipelines.refit.record import refit_notes
from pipelines.report.history import learning_parts
from pipelines.report.leaderboards import backbone_parts, combination_parts, leaderboard_parts, leaderboard_tables
from pipelines.report.model import about_rows, model_sections, timeline
from pipelines.report.pages import Report, Section
from pipelines.report.predicted import Predicted, read_predicted
from pipelines.report.study_figures import effect_sections, spread_figures
from pipelines.results.effects import Effects
from pipelines.results.leaderboard import Leaderboard, Ranking, Row, Spread
from pipelines.results.verdict import significance_words
from pipelines.run_files import PREDICTIONS, read_manifest, read_predictions
from pipelines.search.study import Result, Study, read_about
from pipelines.timeline.section import explorer_script, explorer_style
from pipelines.words import counted, split_words, strategy_words, task_label, task_words


def study_report(
    study: Study,
    board: Leaderboard,
    effects: Effects,
    truth: Truth,
    faces: str | None = None,
    damaged: Sequence[tuple[str, str]] = (),
) -> Report:
    """The report of a study whose leaderboard has at least one row. `damaged` are runs left out, with the reason."""
    about = read_about(study.path)
    shown = shown_runs(board, truth)
    title = f"Strategy search: {about['name']}"
    sections = [
        Section("Leaderboard", leaderboard_parts(board)),
        Section("Backbones by themselves", backbone_parts(board)),
        Section("Tasks trained together", combination_parts(board)),
        *effect_sections(effects, board),
        Section("Selection against held-out, and spread over seeds", spread_figures(board)),
        Section("What was done", _what_was_done(about, board.schema)),
    ]
    first = True
    for (ranking, run), predicted in shown:
        marked, words = _compared(ranking)
        found = model_sections(predicted, marked, words, whole=first)
        if first:
            opening = Section(
                "The chosen strategy, task by task", (*about_rows(predicted), *learning_parts(run.folder))
            )
            sections += [opening, *found, timeline(predicted, faces)]
        else:
            sections += [Section(f"{one.title} (trained in {task_words(ranking.tasks)})", one.parts) for one in found]
        first = False
    sections += [Section("Trials that are not in the tables", _failures(study, damaged)), _grid(study)]
    return Report(
        title=title,
        opening=join([_opening(board), *(tag("p", note) for note in refit_notes(study.path))]),
        sections=tuple(sections),
        style=explorer_style(),
        script=explorer_script(),
        tables=tuple(leaderboard_tables(board)),
    )


def shown_runs(board: Leaderboard, truth: Truth) -> list[tuple[tuple[Ranking, Result], Predicted]]:
    """For each label group the best run of the best strategy that predicts it: one run for all of them where it can."""
    found: list[tuple[tuple[Ranking, Result], Predicted]] = []
    done: set[str] = set()
    for ranking in board.rankings:
        groups = [task.group.name for task in board.schema.scored(ranking.tasks)]
        if set(groups) <= done:
            continue
        run = best_run(ranking.rows[0])
        if not (run.folder / PREDICTIONS).is_file():  # it may be removed to save room
            continue
        manifest = read_manifest(run.folder)
        train = run.trial.strategy.train
        where = f"seed {train.seed}" + (f", fold {train.fold}" if train.fold != NO_FOLD else "")
        of = f" for {task_words(ranking.tasks)}" if len(board.rankings) > 1 else ""
        whose = f"the chosen strategy{of} ({where}, the run of highest selection score)"
        table = read_predictions(run.folder, manifest)
        keep = [task for task in board.schema.scored(ranking.tasks) if task.group.name not in done]
        hidden = {name for group in board.schema for name in (*group.columns, *group.output_columns)}
        hidden -= {name for task in keep for name in (*task.columns, *task.output_columns)}
        split = manifest["split"]
        predicted = read_predicted(run.folder, table.drop(hidden, strict=False), split, truth, whose)
        found.append(((ranking, run), predicted))
        done.update(groups)
    return found


def best_run(row: Row) -> Result:
    """Of a row's runs the one with the highest selection score: held-out rows play no part."""
    return max(row.results, key=lambda result: float(result.metrics["select"]["P"]))


def compared_row(ranking: Ranking) -> Row | None:
    """The best frame-wise strategy, or else the next in rank; None where there is no other."""
    frame_wise = [row for row in ranking.rows[1:] if _is_frame_wise(row)]
    return next(iter(frame_wise or ranking.rows[1:]), None)


def _compared(ranking: Ranking) -> tuple[dict[str, dict[str, float]], str]:
    """By task and column the mean held-out F1 of the strategy that the chosen one is compared with, and its words."""
    other = compared_row(ranking)
    if other is None:
        return {}, ""
    marked = {task.name: _f1(other, task) for task in ranking.schema.scored(ranking.tasks)}
    name = "the best frame-wise strategy" if _is_frame_wise(other) else f"rank {other.rank}"
    return marked, name


def _is_frame_wise(row: Row) -> bool:
    """Whether each frame is predicted by itself."""
    return row.values["temporal"] == "none" and row.values["fusion"] != "cross-attention"


def _f1(row: Row, task: Task) -> dict[str, float]:
    """By class or column the held-out F1."""
    keys = {name: f"{task.group.name}.f1.{name}" for name in task.group.names}
    return {name: row.report[key].mean for name, key in keys.items() if key in row.report}


def _opening(board: Leaderboard) -> Markup:
    ranking = board.rankings[0]
    best = ranking.rows[0]
    score = "P" if ranking.is_complete else f"P over {task_words(ranking.tasks)}"
    numbers = [
        (_number(best.report.get("P")), f"held-out {score} of the chosen strategy"),
        (_between(best.interval), f"its 95 % interval, {_resampled(best.interval)} resampled"),
        (_number(best.select["P"]), "its selection score"),
        (f"{len(board.rows):,}", f"strategies, {sum(len(row.results) for row in board.rows):,} runs"),
    ]
    if ranking.nested:
        numbers[:2] = _nested_tiles(ranking.nested, score)
    sentence = f"Chosen by the selection score: {strategy_words(best.values, board.varied)}. "
    return join([tag("p", sentence, significance_words(ranking)), tiles(numbers)])


def _nested_tiles(nested: Nested, score: str) -> list[tuple[str, str]]:
    """With folds the nested estimate comes first: no single strategy has a held-out score of its own."""
    folds = f"{len(nested.chosen)} outer folds" + (
        f" of {nested.num_inner} inner parts" if nested.num_inner > 1 else ""
    )
    return [
        (f"{nested.score:.3f}", f"nested estimate of held-out {score}, {folds}"),
        (_between(nested.interval), f"its 95 % interval, {_resampled(nested.interval)} resampled"),
        (f"{nested.naive:.3f}", "the best mean over the same folds, selected on the rows that score it"),
    ]


def _what_was_done(about: Mapping[str, Any], schema: Schema) -> tuple[Markup, ...]:
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
    return (
        tag("p", split_words(splits[0]) + _folds_words(folds)),
        table([head], rows[0]),
        details(f"the other {counted(len(splits) - 1, 'split')}", others) if others else Markup(),
        tag("p", "Embeddings each strategy could read; the backbones behind them were not trained further:"),
        table([[Cell("stream"), Cell("backbone"), Cell("width", "n")]], streams),
    )


def _folds_words(folds: Sequence[Fold]) -> str:
    """How many splits there are, where there are several."""
    if len(folds) < 2:
        return ""
    inner = max(fold.inner for fold in folds) + 1
    num_outer = len({fold.outer for fold in folds})
    made = f" ({counted(num_outer, 'outer fold')}, {inner} inner parts each)" if inner > 1 else ""
    return f" The study has {len(folds)} splits{made}; this is the first of them."


PART_WORDS = {"train": "training", "select": "selection", "report": "held out"}


def _split_row(words: str, part: Mapping[str, Any]) -> list[Cell]:
    counts = [part["videos"], part["frames"], *part["labelled"].values()]
    return [Cell(words), Cell(part["of"]), *(Cell(f"{count:,}", "n") for count in counts)]


def _failures(study: Study, damaged: Sequence[tuple[str, str]]) -> tuple[Markup, ...]:
    """Trials that failed, and runs that cannot be read."""
    failures, parts = study.failures(), []
    if failures:
        fields = ["tasks", *(name for name in read_about(study.path)["fields"] if name != "tasks")]
        rows = [[Cell(strategy_words(entry["strategy"], fields)), Cell(entry["reason"])] for entry in failures.values()]
        parts.append(tag("p", "Failed trials; `mtl search --retry-failed` tries them again."))
        parts.append(table([[Cell("strategy"), Cell("reason")]], rows))
    if damaged:
        parts.append(tag("p", "Runs that are damaged; `mtl search` trains them again."))
        parts.append(table([[Cell("run"), Cell("reason")]], [[Cell(name), Cell(reason)] for name, reason in damaged]))
    return tuple(parts)


def _grid(study: Study) -> Section:
    about = read_about(study.path)
    text = (study.path / "grid.toml").read_text(encoding="utf-8")
    again = f"The grid of the latest search, {about['grid']}. Fields it does not name are those of mtl.toml; each run "
    words = again + "folder of the study holds its whole configuration, its weights and its predictions."
    return Section("How to reproduce it", (tag("p", words), details("the grid", tag("pre", text))))


def _number(spread: Spread | None, digits: int = 3) -> str:
    return "–" if spread is None else f"{spread.mean:.{digits}f}"


def _resampled(between: Interval | None) -> str:
    """ "12 subjects"; without an interval there is nothing to count."""
    return between.sample.words if between else "videos"


def _between(between: Interval | None) -> str:
    return f"{between.low:.2f} – {between.high:.2f}" if between else "–"
