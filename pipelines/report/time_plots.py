"""Figures over time: losses and scores over a training, labels and predictions over a video."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from cache.labels import Task
from pipelines.charts import Chart, Panel, shortened
from pipelines.colours import LIGHT
from pipelines.report.plots import HELD_OUT, TRUTH, few, legend

LINES = [LIGHT[name] for name in ("held-out", "selection", "third", "fourth", "fifth", "text")]
STYLES = ("-", "--", ":", "-.")
GAP_FRAMES = 100


def learning_curves(history: pl.DataFrame, words: Mapping[str, str]) -> Chart:
    """Losses of the training rows and scores of the selection rows, of every model of a run; `words` name tasks."""
    by = "step" if "step" in history.columns else "epoch"
    models = history["model"].unique(maintain_order=True).to_list()
    kinds = {"loss": "loss, training rows", "score": "score, selection rows"}
    panels = []
    for kind, title in kinds.items():
        columns = [name for name in history.columns if name.startswith(f"{kind}.")]
        panels.append(_learning_panel(history, by, models, columns, title, words, best=kind == "score"))
    return Chart(name="learning-curves", panels=tuple(panels), columns=2)


def _learning_panel(
    history: pl.DataFrame,
    by: str,
    models: Sequence[str],
    columns: Sequence[str],
    title: str,
    words: Mapping[str, str],
    *,
    best: bool,
) -> Panel:
    def draw(axes: Any) -> None:
        for place, column in enumerate(columns):
            task = column.partition(".")[2]
            for index, model in enumerate(models):
                rows = history.filter((pl.col("model") == model) & pl.col(column).is_not_null())
                if not len(rows):
                    continue
                alone = sum(history.filter(pl.col("model") == one)[column].count() > 0 for one in models) < 2
                label = words.get(task, task) + ("" if alone else f" ({model})")
                style = {"color": LINES[place % len(LINES)], "linestyle": STYLES[(0 if alone else index) % len(STYLES)]}
                x, y = rows[by].to_numpy(), rows[column].to_numpy()
                axes.plot(x, y, label=label, marker="o" if len(x) < 3 else "", markersize=4, **style)
                if best and rows["best"].any():
                    last = rows.filter(pl.col("best")).row(-1, named=True)
                    axes.plot([last[by]], [last[column]], "o", color=style["color"], markersize=7)
        axes.set_xlabel(by)
        axes.set_ylabel(title)
        whole_numbers(axes, history[by].n_unique())
        legend(axes, 3)

    most = sum(history.filter(pl.col("model") == one)[column].count() > 0 for one in models for column in columns)
    top = 48 if most <= 3 else 66
    return Panel(draw=draw, title=title.partition(",")[0].capitalize(), top_px=top, height_px=top + 214, left_px=56)


def traces(table: pl.DataFrame, videos: Sequence[tuple[str, str]], task: Task) -> Chart:
    """The columns of a continuous `task` over real frame numbers, label against prediction, for each (video, remark).

    `table` has the labels as columns `true:NAME`. Lines break where nothing was seen for more than `GAP_FRAMES` frames.
    """
    low, high = task.group.low, task.group.high
    room = 0.03 * (high - low)

    def panel(video: str, remark: str, name: str) -> Panel:
        seen = table.filter(pl.col("video") == video).sort("frame")

        def draw(axes: Any) -> None:
            for column, label, colour in ((f"true:{name}", "label", TRUTH), (name, "prediction", HELD_OUT)):
                points = seen.filter(pl.col(column).is_not_null())
                x, y = broken(points["frame"].to_numpy(), points[column].to_numpy())
                axes.plot(x, y, color=colour, label=label, linewidth=1.3)
            axes.set_ylim(low - room, high + room)
            axes.set_yticks([low, (low + high) / 2, high])
            axes.set_ylabel(name)
            axes.set_xlabel("frame number in the video")
            axes.xaxis.set_major_locator(few(5))
            legend(axes, 2)

        return Panel(draw=draw, title=f"{shortened(video)} ({remark})", width_px=300, height_px=180, top_px=48)

    panels = tuple(panel(video, remark, name) for video, remark in videos for name in task.columns)
    return Chart(name=f"traces-{task.group.name}", panels=panels, columns=len(task.columns))


def whole_numbers(axes: Any, number: int) -> None:
    """Ticks of steps or epochs, never between two."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(6, max(number, 1)), integer=True))


def broken(frames: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The trace with a hole wherever it would run across more than `GAP_FRAMES` unseen frames."""
    cuts = np.flatnonzero(np.diff(frames) > GAP_FRAMES) + 1
    return np.insert(frames.astype(float), cuts, np.nan), np.insert(values.astype(float), cuts, np.nan)
