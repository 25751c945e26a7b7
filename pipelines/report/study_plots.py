"""The figures of a study, as charts of matplotlib; every axis has a title."""

from collections.abc import Sequence
from typing import Any

from pipelines.charts import Chart, Panel, shortened, text_px
from pipelines.colours import LIGHT
from pipelines.metrics.intervals import Interval
from pipelines.report.plots import HELD_OUT, MOST_PX, OTHER, SELECTION, few, legend
from pipelines.results.effects import Effect, mean


def chart(name: str, panels: Sequence[Panel]) -> Chart:
    return Chart(name=name, panels=tuple(panels), columns=2)


def effects(field: str, values: Sequence[Effect], axis: str) -> Panel:
    """One line per value: strategies as dots, their mean as a diamond; selection above held-out, whose mean has the
    interval."""
    labels = [shortened(value.label, 24) for value in values]
    left = text_px(labels) + 12

    def draw(axes: Any) -> None:
        for part, colour, shift in (("select", SELECTION, -0.17), ("report", HELD_OUT, 0.17)):
            for place, value in enumerate(values):
                scores = getattr(value, part)
                axes.plot(scores, [place + shift] * len(scores), "o", color=colour, markersize=4, alpha=0.45)
                if part == "report" and value.interval:
                    ends = [value.interval.low, value.interval.high]
                    axes.plot(ends, [place + shift] * 2, color=colour, linewidth=2)
            means = [mean(getattr(value, part)) for value in values]
            label = {"select": "selection", "report": "held-out"}[part]
            places = [place + shift for place in range(len(values))]
            axes.plot(means, places, "D", color=colour, markersize=7, markeredgecolor=LIGHT["surface"], label=label)
        axes.set_yticks(range(len(values)), labels)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(few(5))
        legend(axes, 2)

    return Panel(draw=draw, title=field, height_px=40 * len(values) + 94, left_px=left, top_px=48)


def seeds(
    names: Sequence[str],
    select: Sequence[Sequence[float]],
    report: Sequence[Sequence[float]],
    intervals: Sequence[Interval | None],
    axis: str,
) -> Chart:
    """One line per strategy, best first: each run's selection and held-out score, the interval of the held-out mean."""
    labels = [f"{place}. {name}" for place, name in enumerate(names, start=1)]
    left = text_px(labels) + 12

    def draw(axes: Any) -> None:
        for place, between in enumerate(intervals):
            if between:
                label = "95 % interval" if place == next(k for k, one in enumerate(intervals) if one) else None
                ends = [between.low, between.high]
                axes.plot(ends, [place + 0.17] * 2, color=HELD_OUT, linewidth=6, alpha=0.3, label=label)
        for runs, colour, shift, label in (
            (select, SELECTION, -0.17, "selection"),
            (report, HELD_OUT, 0.17, "held-out"),
        ):
            x = [value for values in runs for value in values]
            y = [place + shift for place, values in enumerate(runs) for _ in values]
            axes.plot(x, y, "o", color=colour, label=label, markersize=5.5, alpha=0.85)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(few(4))
        legend(axes, 3)

    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    panel = Panel(draw=draw, width_px=max(MOST_PX, left + 160), height_px=17 * lines + 84, left_px=left, top_px=34)
    return Chart(name="seeds", panels=(panel,), columns=1)


def selection_against_held_out(select: Sequence[float], report: Sequence[float], axis: str) -> Chart:
    """A dot a strategy; on the dashed line nothing was lost between the two scores."""
    low, high = min(*select, *report), max(*select, *report)
    room = 0.05 * (high - low) or 0.05
    ends = (low - room, high + room)

    def draw(axes: Any) -> None:
        axes.plot(ends, ends, color=OTHER, linestyle="--", linewidth=1, label="equal")
        axes.plot(select[1:], report[1:], "o", color=HELD_OUT, markersize=5.5, alpha=0.75, label="strategies")
        axes.plot(select[:1], report[:1], "*", color=SELECTION, markersize=13, label="chosen")
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_xlabel(f"selection {axis}")
        axes.set_ylabel(f"held-out {axis}")
        axes.xaxis.set_major_locator(few(5))
        axes.yaxis.set_major_locator(few(5))
        legend(axes, 3)

    return Chart(name="selection-held-out", panels=(Panel(draw=draw, height_px=330, top_px=34, left_px=58),), columns=1)
