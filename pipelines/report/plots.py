"""The figures of reports, as charts of matplotlib; every axis has a title. A and B are numbers of lines of a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.labels import Group, Task
from pipelines.charts import Chart, Panel, shortened, text_px
from pipelines.colours import LIGHT
from pipelines.metrics.calibration import Calibration
from pipelines.metrics.curves import PrecisionRecall
from pipelines.metrics.intervals import Interval

SELECTION, HELD_OUT, TRUTH, OTHER = LIGHT["selection"], LIGHT["held-out"], LIGHT["text"], LIGHT["other"]
MOST_PX = 340
LINE_PX = 23
NUM_LEVELS = 6
NUM_BINS = 28
MOST_POINTS = 200
SMALL_PX = 165
MOST_TEXT = 12  # classes of a confusion matrix whose cells have numbers


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; `marked` is another one beside it."""

    name: str
    value: float
    interval: Interval | None
    marked: float | None = None


def densities(
    predicted: np.ndarray, label: np.ndarray, mask: np.ndarray, task: Task, scores: Mapping[str, str]
) -> Chart:
    """Of each column of a continuous `task` predictions [N, K] over labels [N, K] as density; where it has two columns
    also their plane, labels beside predictions. `scores` are words by column."""
    low, high = task.group.low, task.group.high
    panels = []
    for place, name in enumerate(task.columns):
        rows = mask[:, place]
        if rows.any():
            panels.append(
                _density(label[rows, place], predicted[rows, place], (low, high), f"label of {name}", "prediction",
                         f"{name}: {scores.get(name, '')}", diagonal=True)
            )  # fmt: skip
    if len(task.columns) == 2 and (both := mask.all(axis=1)).any():
        first, second = task.columns
        for words, values in (("labels", label), ("predictions", predicted)):
            panels.append(_density(values[both, 0], values[both, 1], (low, high), first, second, words, diagonal=False))
    return Chart(name=f"density-{task.group.name}", panels=tuple(panels), columns=2)


def _density(
    x: np.ndarray, y: np.ndarray, ends: tuple[float, float], x_title: str, y_title: str, title: str, *, diagonal: bool
) -> Panel:
    counts, edges, _ = np.histogram2d(np.clip(x, *ends), np.clip(y, *ends), bins=NUM_BINS, range=(ends, ends))

    def draw(axes: Any) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        side = edges[1] - edges[0]
        levels = np.ceil(NUM_LEVELS * np.log1p(counts) / np.log1p(counts.max())).astype(int)
        for level in range(1, NUM_LEVELS + 1):
            places = np.argwhere(levels == level)
            if len(places):
                squares = [_square(edges[i], edges[j], side) for i, j in places]
                shape = Path(np.concatenate(squares), SQUARE * len(squares))
                axes.add_patch(PathPatch(shape, color=HELD_OUT, alpha=0.12 + 0.78 * level / NUM_LEVELS, linewidth=0))
        if diagonal:
            axes.plot(ends, ends, color=OTHER, linestyle="--", linewidth=1)
        else:
            axes.axhline((ends[0] + ends[1]) / 2, color=OTHER, linewidth=0.8)
            axes.axvline((ends[0] + ends[1]) / 2, color=OTHER, linewidth=0.8)
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        ticks = [ends[0], (ends[0] + ends[1]) / 2, ends[1]]
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)

    return Panel(draw=draw, title=title, width_px=300, height_px=300)


def _square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)])


SQUARE = [1, 2, 2, 2, 79]  # matplotlib's codes of a path: move, line, line, line, close


def confusion(counts: np.ndarray, classes: Sequence[str], column: str) -> Panel:
    """`counts` [K, K] of `classes`, labels down and predictions across: shares of each label's frames, and counts."""
    totals = counts.sum(axis=1, keepdims=True)
    share = np.where(totals > 0, counts / np.maximum(totals, 1), 0.0)
    cell = 46 if len(classes) <= MOST_TEXT else max(12, 560 // len(classes))
    names = [shortened(name, 16) for name in classes]
    left = text_px(names) + 34

    def draw(axes: Any) -> None:
        cells(axes, share, [
            [f"{part:.2f}\n{number:,.0f}" if number else "" for part, number in zip(*row, strict=True)]
            for row in zip(share, counts, strict=True)
        ] if len(classes) <= MOST_TEXT else None)  # fmt: skip
        axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), names)
        axes.set_xlabel(f"predicted {column}")
        axes.set_ylabel("label")

    return Panel(
        draw=draw,
        width_px=left + cell * len(classes) + 14,
        height_px=cell * len(classes) + round(0.75 * text_px(names)) + 62,
        left_px=left,
        bottom_px=round(0.75 * text_px(names)) + 52,
        top_px=10,
    )


def cells(axes: Any, share: np.ndarray, text: Sequence[Sequence[str]] | None, size: float = 10.5) -> None:
    """Squares of `share` [A, B] in 0 to 1, the first row at the top, each with its text."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    places = np.argwhere(share > 0)
    squares = [_square(column - 0.48, row - 0.48, 0.96)[:4] for row, column in places]
    colours = [to_rgba(LIGHT["heat"], min(1.0, float(share[row, column]))) for row, column in places]
    axes.add_collection(PolyCollection(squares, facecolors=colours, linewidths=0), autolim=False)
    for row, column in np.ndindex(share.shape):
        if text and text[row][column]:
            axes.text(column, row, text[row][column], ha="center", va="center", fontsize=size, linespacing=1.15)
    axes.set_xlim(-0.5, share.shape[1] - 0.5)
    axes.set_ylim(share.shape[0] - 0.5, -0.5)
    axes.grid(visible=False)


def estimates(values: Sequence[Estimate], axis: str, marked: str = "") -> Panel:
    """A line per value: a dot with its interval, and where there is one a mark of what it is compared with."""
    left = text_px([value.name for value in values]) + 12

    def draw(axes: Any) -> None:
        ends = [(place, one.interval.low, one.interval.high) for place, one in enumerate(values) if one.interval]
        if ends:
            axes.hlines(*zip(*ends, strict=True), color=HELD_OUT, linewidth=2)
        places = range(len(values))
        axes.plot([value.value for value in values], places, "o", color=HELD_OUT, markersize=6.5)
        known = [(value.marked, place) for place, value in enumerate(values) if value.marked is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "|", color=OTHER, markersize=12, markeredgewidth=2, label=marked)
            legend(axes, 1)
        axes.set_yticks(list(places), [value.name for value in values])
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel(axis)

    top = 32 if any(value.marked is not None for value in values) else 10
    height = LINE_PX * len(values) + top + 46
    return Panel(draw=draw, height_px=height, left_px=left, top_px=top)


def precision_recall(curves: Mapping[str, PrecisionRecall], group: Group) -> Chart:
    """A small panel per binary column: precision over recall, the threshold in use as a dot, the share of positives as
    a dashed line, which is what guessing has."""

    def panel(name: str, curve: PrecisionRecall) -> Panel:
        def draw(axes: Any) -> None:
            axes.plot([0, 1], [curve.share, curve.share], color=OTHER, linestyle="--", linewidth=1)
            places = thinned(len(curve.recall))
            axes.plot(curve.recall[places], curve.precision[places], color=HELD_OUT, drawstyle="steps-pre")
            axes.plot([curve.at_threshold[1]], [curve.at_threshold[0]], "o", color=SELECTION, markersize=6.5)
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.04)
            axes.set_xticks([0, 0.5, 1])
            axes.set_yticks([0, 0.5, 1])
            axes.set_xlabel("recall")
            axes.set_ylabel("precision")

        title = f"{shortened(name, 12)}: {curve.average_precision:.2f}"
        return Panel(draw=draw, title=title, width_px=SMALL_PX, height_px=SMALL_PX + 20, left_px=42, right_px=8)

    panels = tuple(panel(name, curve) for name, curve in curves.items())
    return Chart(name=f"precision-recall-{group.name}", panels=panels, columns=4)


def reliability(found: Mapping[str, Calibration]) -> Chart:
    """A panel per group of classes or binary columns: how often what was predicted with a probability was so."""

    def panel(name: str, one: Calibration) -> Panel:
        there = one.count > 0

        def draw(axes: Any) -> None:
            axes.plot([0, 1], [0, 1], color=OTHER, linestyle="--", linewidth=1)
            part = one.count / max(one.count.sum(), 1)
            axes.stairs(part, np.linspace(0, 1, len(part) + 1), fill=True, color=LIGHT["heat"])
            x, y = one.predicted[there], one.observed[there]
            axes.vlines(x, one.low[there], one.high[there], color=HELD_OUT, linewidth=1.6)
            axes.plot(x, y, "o-", color=HELD_OUT, markersize=5, linewidth=1.2)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xlabel("predicted probability")
            axes.set_ylabel("share that is so")

        return Panel(draw=draw, title=f"{name}: ECE {one.ece:.3f}", height_px=320)

    return Chart(name="calibration", panels=tuple(panel(name, one) for name, one in found.items()), columns=2)


def error_bars(name: str, errors: Mapping[str, pl.DataFrame]) -> Chart:
    """Per label group the videos or subjects with the largest error; tables have `name`, `error` and `num_frames`."""

    def panel(title: str, table: pl.DataFrame, typical: float) -> Panel:
        names = [shortened(value, 20) for value in table["name"].to_list()]

        def draw(axes: Any) -> None:
            places = list(range(len(names)))
            axes.hlines(places, 0, table["error"].to_numpy(), color=HELD_OUT, linewidth=0.62 * LINE_PX)
            axes.axvline(typical, color=SELECTION, linewidth=1.4)
            axes.set_yticks(places, names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
            axes.set_xlim(left=0)
            axes.set_xlabel(title.partition(": ")[2])
            axes.xaxis.set_major_locator(few(5))

        height = LINE_PX * len(names) + 76
        return Panel(draw=draw, title=title.partition(": ")[0], height_px=height, left_px=text_px(names) + 14)

    panels = [
        panel(title, table.head(MOST_BARS), float(np.median(table["error"].to_numpy())))
        for title, table in errors.items()
    ]
    return Chart(name=name, panels=tuple(panels))


MOST_BARS = 15


def correlations(name: str, names: Sequence[str], matrices: Mapping[str, np.ndarray]) -> Chart:
    """A square per matrix [M, M] of correlations, of the same members."""
    cell = 34 if len(names) <= MOST_TEXT else max(11, 400 // len(names))
    left = text_px(names) + 14

    def panel(title: str, values: np.ndarray) -> Panel:
        def draw(axes: Any) -> None:
            text = [
                [f"{value:.2f}" if np.isfinite(value) and column < place else "" for column, value in enumerate(row)]
                for place, row in enumerate(values)
            ]
            cells(axes, np.nan_to_num(values), text if len(names) <= MOST_TEXT else None)
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(names)), names)

        side = cell * len(names)
        below = round(0.75 * text_px(names)) + 16
        return Panel(
            draw=draw, title=title, width_px=max(left + side + 14, 200), height_px=side + below + 34, left_px=left,
            bottom_px=below, top_px=34, right_px=max(14, 200 - left - side),
        )  # fmt: skip

    return Chart(name=name, panels=tuple(panel(title, values) for title, values in matrices.items()), columns=2)


def legend(axes: Any, columns: int) -> None:
    """Above the axes, under the title; none where nothing is named."""
    if axes.get_legend_handles_labels()[1]:
        figure, top = axes.figure, axes.get_position().y1
        axes.legend(loc="lower left", bbox_to_anchor=(0.01, top), bbox_transform=figure.transFigure, ncols=columns)


def thinned(number: int) -> np.ndarray:
    """At most `MOST_POINTS` of `number` places, the first and the last among them."""
    return np.unique(np.linspace(0, number - 1, min(number, MOST_POINTS)).round().astype(np.int64))


def few(number: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=number)
