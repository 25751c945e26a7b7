"""Sections about one model, from its predictions and the labels: every figure says which rows it is of."""

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from cache.labels import Task
from pipelines.charts import Chart, Panel
from pipelines.folds import NO_FOLD
from pipelines.html import Markup
from pipelines.metrics.curves import PrecisionRecall, precision_recall
from pipelines.metrics.intervals import Interval, column_intervals, intervals
from pipelines.metrics.sums import of_task, task_score
from pipelines.report import plots, time_plots
from pipelines.report.pages import Figure, Part, Section, Timeline, paragraphs
from pipelines.report.plots import Estimate
from pipelines.report.predicted import PART_WORDS, Predicted
from pipelines.report.quality import calibration_parts, column_calibration, error_sections
from pipelines.report.tables import Column, Table
from pipelines.timeline.videos import videos_of
from pipelines.words import score_title, task_label

FEW_FRAMES = 20
MOST_TRACES = 2  # columns of a continuous group that are drawn over time
SCORE_OF_COLUMN = {"ccc": "CCC", "pearson": "correlation"}
Marked = Mapping[str, Mapping[str, float]]


def model_sections(
    shown: Predicted, marked: Marked | None = None, marked_words: str = "", *, whole: bool = True, brief: bool = False
) -> list[Section]:
    """Task by task what the model predicts; if `whole` then calibration, and errors by video and by subject.

    `brief` leaves out single videos and subjects. `marked` are scores of another model by task and column, drawn beside
    those of this one as `marked_words`.
    """
    sections = []
    for task in shown.tasks:
        compared = (marked or {}).get(task.name, {})
        parts = KINDS[task.group.kind](shown, task, compared, marked_words)
        parts += [] if brief else _traces(shown, task)
        sections.append(Section(_title(shown, task), tuple(parts)))
    if whole:
        sections.append(Section("Calibration of probabilities", calibration_parts(shown)))
        sections += [] if brief else error_sections(shown)
    return sections


def _title(shown: Predicted, task: Task) -> str:
    """ "VA: mean CCC 0.686 (95 % 0.61 to 0.74)"."""
    value = task_score(task, of_task(task, shown.sums.parts[task.group.name]).sum(axis=0))
    between = intervals({NO_FOLD: {0: shown.sums}}, [task.name]).get(task.name)
    ends = f" (95 % {between.low:.2f} to {between.high:.2f})" if between else ""
    return f"{score_title(task)} {float(value):.3f}{ends}"


def about_rows(shown: Predicted) -> list[Markup]:
    """Whose predictions the sections are of, of which rows, and what was applied to them."""
    words = [f"Figures and tables by task are of {shown.whose}"]
    if shown.of == "select":
        words[0] += (
            ": no held-out row has a label of its tasks, so they show the selection rows, on which its weights were "
            "selected, and are optimistic."
        )
    else:
        words[0] += " on held-out rows, which played no part in the selection."
    if shown.smoothed is not None:
        words.append(
            "Its post-processing (smoothing, offsets, thresholds), which was fitted on selection rows, is applied."
        )
    for task in shown.unlabelled:
        words.append(f"No {PART_WORDS[shown.of]} row has a label of {task_label(task.name)}, so it is not shown.")
    return paragraphs([" ".join(words)])


def timeline(shown: Predicted, faces: str | None) -> Section:
    """The explorer of all predicted videos, labelled or not."""
    videos = videos_of(shown.raw, shown.part.schema, smoothed=shown.smoothed, labels=shown.frames, faces=faces)
    words = (
        f"Predictions of {shown.whose} over time, beside the labels. Choose a video; the arrow keys step frames. The "
        "part of each video says whether its rows selected something or were held out."
    )
    return Section("Timeline", (*paragraphs([words]), Timeline(tuple(videos), shown.part.schema)))


def shown_videos(table: pl.DataFrame, task: Task) -> list[tuple[str, str]]:
    """(video, remark) of the videos with the smallest, median and largest mean error; short ones only if need be."""
    error = pl.mean_horizontal((pl.col(name) - pl.col(f"true:{name}")).abs() for name in task.columns)
    known = pl.all_horizontal(pl.col(f"true:{name}").is_not_null() for name in task.columns)
    by_video = table.filter(known).group_by("video").agg(error.mean().alias("error"), pl.len().alias("frames"))
    long_enough = by_video.filter(pl.col("frames") >= FEW_FRAMES)
    ordered = (long_enough if len(long_enough) else by_video).sort("error", "video")["video"].to_list()
    shown = {0: "smallest error", len(ordered) // 2: "median", len(ordered) - 1: "largest error"}
    return [(ordered[index], remark) for index, remark in shown.items() if ordered]


def _continuous(shown: Predicted, task: Task, compared: Mapping[str, float], words: str) -> list[Part]:
    predicted = shown.decided.parts[task.name]
    label = shown.part.labels.values[task.group.name][:, list(task.indices)]
    mask = shown.part.labels.masks[task.group.name][:, list(task.indices)]
    found = column_intervals(shown.sums, task)
    name = SCORE_OF_COLUMN[task.group.score]
    scores = {column: f"{name} {value:.3f}" for column, (value, _) in found.items()}
    rows = shown.rows_words(mask.any(axis=1))
    density = (
        f"{rows} Predictions over labels, stronger where more frames lie (logarithmic); on the dashed line they agree."
    )
    if len(task.columns) == 2:
        density += f" Then the plane of {task.columns[0]} and {task.columns[1]}: labels, and predictions."
    parts: list[Part] = [_column_table(shown, task, found, name, mask)]
    parts.append(Figure(plots.densities(predicted, label, mask, task, scores), density))
    return parts


def _traces(shown: Predicted, task: Task) -> list[Part]:
    """Labels and predictions of some videos, of a continuous task with few columns."""
    if task.group.kind != "continuous" or len(task.columns) > MOST_TRACES:
        return []
    table = _with_labels(shown)
    videos = shown_videos(table, task)
    mask = shown.part.labels.masks[task.group.name][:, list(task.indices)]
    caption = (
        f"{shown.rows_words(mask.any(axis=1))} Labels and predictions over frame numbers, of the videos with the "
        "smallest, the median and the largest mean error."
    )
    return [Figure(time_plots.traces(table, videos, task), caption)] if videos else []


def _classes(shown: Predicted, task: Task, compared: Mapping[str, float], words: str) -> list[Part]:
    (column,), classes = task.columns, task.group.classes
    mask = shown.part.labels.masks[task.group.name][:, 0]
    label, decided = shown.part.labels.values[task.group.name][mask, 0], shown.decided.parts[task.name][mask]
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (label, decided), 1)
    missing = [name for name, total in zip(classes, counts.sum(axis=1), strict=True) if not total]
    note = f" No {PART_WORDS[shown.of]} frame is labelled {', '.join(missing)}." if missing else ""
    rows = shown.rows_words(mask)
    caption = (
        f"{rows} Each row is a label: shares of its frames, which sum to 1, and their number below. Correct "
        f"predictions are on the diagonal.{note}"
    )
    found = column_intervals(shown.sums, task)
    caption += f" Beside it F1 of each class{_interval_words(shown, found)}.{_marked_words(compared, words)}"
    panels = (plots.confusion(counts, classes, column), _estimates(found, compared, words))
    return [
        Figure(Chart(name=f"confusion-{task.group.name}", panels=panels), caption),
        _column_table(shown, task, found, "F1", mask[:, None] & shown.positives(task)),
    ]


def _binary(shown: Predicted, task: Task, compared: Mapping[str, float], words: str) -> list[Part]:
    mask = shown.part.labels.masks[task.group.name]
    found = column_intervals(shown.sums, task)
    curves = _curves(shown, task)
    parts: list[Part] = [_unit_table(shown, task, found, curves)]
    if found:  # without a positive in labels and predictions no column has an F1
        caption = f"{shown.rows_words(mask.any(axis=1))} F1 of each column{_interval_words(shown, found)}."
        caption += _marked_words(compared, words)
        panel = _estimates(found, compared, words)
        parts.append(Figure(Chart(name=f"f1-{task.group.name}", panels=(panel,)), caption))
    if curves:
        caption = (
            f"{shown.rows_words(mask.any(axis=1))} Precision over recall as the threshold falls, with the average "
            "precision above; the dot is the threshold in use, the dashed line the share of positives, which is the "
            "precision of guessing."
        )
        parts.append(Figure(plots.precision_recall(curves, task.group), caption))
    return parts


def _estimates(found: Mapping[str, tuple[float, Interval | None]], compared: Mapping[str, float], words: str) -> Panel:
    """F1 of each class or column with its interval."""
    values = [Estimate(name, value, between, compared.get(name)) for name, (value, between) in found.items()]
    return plots.estimates(values, "F1", words)


def _interval_words(shown: Predicted, found: Mapping[str, tuple[float, Interval | None]]) -> str:
    return f" with its 95 % interval over resampled {shown.units}" if _has_interval(found) else ""


def _marked_words(compared: Mapping[str, float], words: str) -> str:
    return f" In grey, for comparison, {words}." if compared else ""


def _column_table(
    shown: Predicted, task: Task, found: Mapping[str, tuple[float, Interval | None]], score: str, mask: np.ndarray
) -> Table:
    """The score of each column of a continuous task, or of each class."""
    is_class = task.group.kind == "classes"
    first = Column(*(("class", "class") if is_class else ("column", "column")))
    count = Column("num_frames", "frames" if is_class else "labelled frames")
    columns = [first, count, Column("score", score), Column("interval", "95 % interval")]
    names = task.group.classes or task.columns
    rows = [(name, int(mask[:, place].sum()), *found.get(name, (None, None))) for place, name in enumerate(names)]
    if not is_class:
        predicted, labels = shown.decided.parts[task.name], shown.part.labels.values[task.group.name]
        columns += [Column("mae", "mean absolute error"), Column("bias", "mean error", signed=True)]
        for place, index in enumerate(task.indices):
            at = mask[:, place]
            error = predicted[at, place] - labels[at, index]
            ends = (float(np.abs(error).mean()), float(error.mean())) if at.any() else (None, None)
            rows[place] = (*rows[place], *ends)
    caption = f"{score} by {'class' if is_class else 'column'} of {shown.whose}. {shown.rows_words(mask.any(axis=1))}"
    caption += f" Intervals resample {shown.units}." if _has_interval(found) else ""
    return Table(name=f"scores-{task.group.name}", caption=caption, columns=tuple(columns), rows=tuple(rows))


def _curves(shown: Predicted, task: Task) -> dict[str, PrecisionRecall]:
    """By column, where it has positives and negatives."""
    labels, masks = shown.part.labels.values[task.group.name], shown.part.labels.masks[task.group.name]
    cuts = shown.parameters.thresholds.get(task.group.name, (0.5,) * task.num_outputs)
    probabilities = shown.part.predicted.parts[task.name]
    found = {}
    for place, name in enumerate(task.columns):
        rows = masks[:, place]
        curve = precision_recall(probabilities[rows, place], labels[rows, place] > 0.5, cuts[place])
        if curve is not None:
            found[name] = curve
    return found


def _unit_table(
    shown: Predicted,
    task: Task,
    found: Mapping[str, tuple[float, Interval | None]],
    curves: Mapping[str, PrecisionRecall],
) -> Table:
    masks, positive = shown.part.labels.masks[task.group.name], shown.positives(task)
    cuts = shown.parameters.thresholds.get(task.group.name, (0.5,) * task.num_outputs)
    rows = []
    for place, name in enumerate(task.columns):
        curve, (value, between) = curves.get(name), found.get(name, (None, None))
        number = int(masks[:, place].sum())
        precision, recall = curve.at_threshold if curve else (None, None)
        ece = column_calibration(shown, task, place).ece if number else None
        rows.append(
            (name, number, int((positive[:, place] & masks[:, place]).sum()), float(cuts[place]), precision, recall,
             value, between, curve.average_precision if curve else None, ece)
        )  # fmt: skip
    columns = (
        Column("column", "column"), Column("num_frames", "labelled frames"), Column("num_positives", "positives"),
        Column("threshold", "threshold", 2), Column("precision", "precision"), Column("recall", "recall"),
        Column("f1", "F1"), Column("interval", "F1, 95 % interval"), Column("average_precision", "average precision"),
        Column("ece", "calibration error"),
    )  # fmt: skip
    caption = (
        f"{task_label(task.name)} of {shown.whose}, column by column. {shown.rows_words(masks.any(axis=1))} Precision, "
        "recall and F1 are at the threshold."
    )
    caption += f" Intervals resample {shown.units}." if _has_interval(found) else ""
    return Table(name=f"scores-{task.group.name}", caption=caption, columns=columns, rows=tuple(rows))


def _with_labels(shown: Predicted) -> pl.DataFrame:
    """The predictions with their labels beside them as columns `true:NAME`."""
    labels = shown.part.frames.select(pl.col(shown.part.schema.columns).name.prefix("true:"))
    return pl.concat([shown.part.table, labels], how="horizontal")


def _has_interval(found: Mapping[str, tuple[float, Interval | None]]) -> bool:
    return any(between for _, between in found.values())


KINDS: dict[str, Callable[[Predicted, Task, Mapping[str, float], str], list[Part]]] = {
    "continuous": _continuous,
    "classes": _classes,
    "binary": _binary,
}
