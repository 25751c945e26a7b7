"""The figures of a study's report; every axis has a title."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from cache.labels import Task
from pipelines.charts import HELD_OUT, OTHER, SELECTION, TRUTH, finished
from pipelines.metrics.intervals import Interval
from pipelines.results.effects import Effect, mean

GAP_FRAMES = 100


def traces(table: pl.DataFrame, videos: Sequence[tuple[str, str]], task: Task) -> go.Figure:
    """The columns of a continuous `task` over real frame numbers, label against prediction, for each (video, remark).

    `table` is of `leaderboard.read_part`. Lines break where nothing was seen for more than `GAP_FRAMES` frames.
    """
    titles = [f"{escape(_short(video))} ({remark}): {name}" for video, remark in videos for name in task.columns]
    height, low, high = 138 * len(titles), task.group.low, task.group.high
    ends, ticks = [low - 0.025 * (high - low), high + 0.025 * (high - low)], [low, (low + high) / 2, high]
    figure = make_subplots(rows=len(titles), cols=1, subplot_titles=titles, vertical_spacing=64 / height)
    for row, (video, name) in enumerate(((video, name) for video, _ in videos for name in task.columns), start=1):
        seen = table.filter(pl.col("video") == video).sort("frame")
        for column, label, colour in ((f"true:{name}", "label", TRUTH), (name, "prediction", HELD_OUT)):
            points = seen.filter(pl.col(column).is_not_null())
            x, y = _broken(points["frame"].to_numpy(), points[column].to_numpy())
            line = {"color": colour, "width": 1.6}
            figure.add_scatter(
                x=x, y=y, name=label, line=line, mode="lines", legendgroup=label, showlegend=row == 1, row=row, col=1
            )
        figure.update_yaxes(range=ends, title_text=name, tickvals=ticks, row=row, col=1)
        if row % len(task.columns) == 0:
            figure.update_xaxes(title_text="frame number in the video", title_standoff=4, row=row, col=1)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return finished(figure, height=height + 116)


def confusion(counts: np.ndarray, classes: Sequence[str], column: str) -> go.Figure:
    """`counts` [K, K] of `classes`, labels down and predictions across: shares of each label's frames, and counts."""
    totals = counts.sum(axis=1, keepdims=True)
    share = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    text = [
        ["" if np.isnan(part) else f"{part:.2f}<br>({count:,.0f})" for part, count in zip(*row, strict=True)]
        for row in zip(share, counts, strict=True)
    ]
    names = [f"{name} " for name in classes]
    heat = go.Heatmap(
        z=share,
        x=names,
        y=names,
        text=text,
        texttemplate="%{text}",
        textfont_size=11,
        colorscale="Blues",
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        hovertemplate="label %{y}<br>predicted %{x}<br>share %{z:.3f}<extra></extra>",
        showscale=False,
    )
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", title_text="label", showgrid=False)
    figure.update_xaxes(title_text=f"predicted {column}", showgrid=False, tickangle=-40)
    return finished(figure, height=520, legend=False)


def f1_bars(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str], title: str) -> go.Figure:
    """Strategy -> column -> F1, as bars side by side: the best one in blue."""
    figure = go.Figure()
    for (name, values), colour in zip(scores.items(), (HELD_OUT, OTHER), strict=False):
        shown = [name for name in columns if name in values]
        hover = "%{x}: F1 %{y:.3f}<extra></extra>"
        figure.add_bar(
            x=shown, y=[values[name] for name in shown], name=escape(name), marker_color=colour, hovertemplate=hover
        )
    figure.update_yaxes(range=[0, 1], title_text="F1, held-out")
    figure.update_xaxes(title_text=title)
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    return finished(figure, height=380)


def effects(fields: Mapping[str, Sequence[Effect]], axis: str) -> go.Figure:
    """One block per field, one line per value: strategies as dots, mean as a diamond; selection above held-out."""
    sizes = [len(values) for values in fields.values()]
    figure = make_subplots(
        rows=len(fields),
        cols=1,
        shared_xaxes=True,
        subplot_titles=[f"<b>{escape(name)}</b>" for name in fields],
        row_heights=sizes,
        vertical_spacing=min(0.3 / max(len(fields) - 1, 1), 46 / (46 * len(fields) + 52 * sum(sizes))),
    )
    for row, values in enumerate(fields.values(), start=1):
        for part, colour, shift in (("select", SELECTION, -0.16), ("report", HELD_OUT, 0.16)):
            label = {"select": "selection", "report": "held-out"}[part]
            _add_effect(figure, row, [getattr(value, part) for value in values], label, colour, shift)
        ticks = [f"{escape(value.label)} " for value in values]
        places = list(range(len(values)))
        figure.update_yaxes(
            tickvals=places, ticktext=ticks, range=[len(values) - 0.5, -0.5], showgrid=False, row=row, col=1
        )
    figure.update_xaxes(showticklabels=True)
    figure.update_xaxes(title_text=axis, row=len(fields), col=1)
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    return finished(figure, height=110 + 46 * len(fields) + 52 * sum(sizes), left=150)


def seeds(
    names: Sequence[str],
    select: Sequence[Sequence[float]],
    report: Sequence[Sequence[float]],
    intervals: Sequence[Interval | None],
    axis: str,
) -> go.Figure:
    """One line per strategy, best first: each run's selection and held-out score, the interval of the held-out mean."""
    figure = go.Figure()
    for place, between in enumerate(intervals):
        if between:
            ends = {"x": [between.low, between.high], "y": [place + 0.16] * 2}
            shown = place == next(k for k, one in enumerate(intervals) if one)
            line = {"color": HELD_OUT, "width": 7}
            figure.add_scatter(
                **ends, mode="lines", line=line, opacity=0.25, name="95 % interval, held-out mean", showlegend=shown
            )
    for runs, colour, shift, label in ((select, SELECTION, -0.16, "selection"), (report, HELD_OUT, 0.16, "held-out")):
        x = [value for values in runs for value in values]
        y = [place + shift for place, values in enumerate(runs) for _ in values]
        figure.add_scatter(x=x, y=y, mode="markers", name=label, marker={"color": colour, "size": 8, "opacity": 0.85})
    ticks = [f"{place}. {escape(name)} ".replace("\n", "<br>") for place, name in enumerate(names, start=1)]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5])
    figure.update_xaxes(title_text=axis)
    return finished(figure, height=130 + 46 * len(names), left=20)


def selection_against_held_out(
    select: Sequence[float], report: Sequence[float], names: Sequence[str], axis: str
) -> go.Figure:
    """A dot a strategy; on the dashed line nothing was lost between the two scores."""
    low, high = min(*select, *report), max(*select, *report)
    room = 0.04 * (high - low) or 0.05
    ends = [low - room, high + room]
    figure = go.Figure()
    dash = {"color": OTHER, "dash": "dash", "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=dash, name="nothing lost", hoverinfo="skip")
    text = [escape(name) for name in names]
    hover = "%{text}<br>selection %{x:.3f}, held-out %{y:.3f}<extra></extra>"
    for chosen, label, size in ((slice(1, None), "strategies", 8), (slice(0, 1), "the chosen one", 13)):
        mark = {"color": HELD_OUT, "size": size, "opacity": 0.75, "symbol": "circle" if size == 8 else "star"}
        figure.add_scatter(
            x=select[chosen], y=report[chosen], text=text[chosen], mode="markers", marker=mark, name=label,
            hovertemplate=hover,
        )  # fmt: skip
    figure.update_xaxes(title_text=f"selection {axis}", range=ends)
    figure.update_yaxes(title_text=f"held-out {axis}", range=ends)
    return finished(figure, height=440)


def _add_effect(
    figure: go.Figure, row: int, scores: Sequence[Sequence[float]], label: str, colour: str, shift: float
) -> None:
    """Dots and mean diamonds of one part, one line per value."""
    dots = {"color": colour, "size": 6, "opacity": 0.4}
    x = [score for values in scores for score in values]
    y = [place + shift for place, values in enumerate(scores) for _ in values]
    hover = {"legendgroup": label, "hovertemplate": label + " %{x:.3f}<extra></extra>"}
    figure.add_scatter(x=x, y=y, mode="markers", marker=dots, showlegend=False, name=label, row=row, col=1, **hover)
    means = {"x": [mean(values) for values in scores], "y": [place + shift for place in range(len(scores))]}
    mark = {"color": colour, "size": 12, "symbol": "diamond", "line": {"color": "white", "width": 1}}
    name = f"{label}, mean"
    figure.add_scatter(**means, mode="markers", marker=mark, name=name, showlegend=row == 1, row=row, col=1, **hover)


def _broken(frames: np.ndarray, values: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    """The trace with a hole wherever it would run across more than `GAP_FRAMES` unseen frames."""
    cuts = np.flatnonzero(np.diff(frames) > GAP_FRAMES) + 1
    x = np.insert(frames.astype(float), cuts, np.nan)
    y = np.insert(np.round(values.astype(float), 4), cuts, np.nan)
    return [None if np.isnan(v) else v for v in x.tolist()], [None if np.isnan(v) else v for v in y.tolist()]


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
