"""The timeline of one video as a picture: the page's lanes by matplotlib. n frames."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cache.labels import Group, Schema
from pipelines.colours import LIGHT
from pipelines.timeline.palette import class_colours
from pipelines.timeline.videos import TimelineVideo, gap_limit, has_numbers
from pipelines.words import task_label

WIDTH_IN = 11.0
MOST_CHARTS = 4  # columns of a continuous group that are drawn as lines; more are a heat map
MOST_CELLS = 2000  # cells along the time axis: more than a picture has pixels
HEAT = LinearSegmentedColormap.from_list("heat", ["#e9eff5", "#08306b"])


def timeline_figure(video: TimelineVideo, schema: Schema) -> Figure:
    """Lines of continuous columns, ribbons of classes and heat maps of binary columns over frame numbers."""
    lanes = [lane for group in schema for lane in _lanes(group, video)]
    heights = [lane[0] for lane in lanes]
    figure = Figure(figsize=(WIDTH_IN, 0.9 + sum(heights)), layout="constrained")
    figure.suptitle(_literal(video.name), fontsize=12, x=0.01, ha="left")
    if not lanes:
        figure.text(0.01, 0.3, "Neither predictions nor labels: no face was found.")
        return figure
    axes = figure.subplots(len(lanes), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (_, draw, *what) in zip(axes, lanes, strict=True):
        draw(axis, video, *what)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("frame number in the video")
    return figure


def _lanes(group: Group, video: TimelineVideo) -> list[tuple]:
    """(height in inches, how it is drawn, of what) of each lane that the video has something for."""
    names = [name for name in group.columns if has_numbers(video.shown, name) or has_numbers(video.labels, name)]
    if not names:
        return []
    if group.kind == "continuous" and len(names) <= MOST_CHARTS:
        return [(1.3, _lines, group, name) for name in names]
    if group.kind == "classes":
        return [(0.9, _ribbon, group)]
    return [(0.5 + 0.2 * len(names), _heat, group, names)]


def _lines(axis: Axes, video: TimelineVideo, group: Group, name: str) -> None:
    lines = [
        (video.predicted if video.smoothed is not None else {}, "predicted, raw", LIGHT["held-out"], 0.8, 0.45),
        (video.shown, "predicted", LIGHT["held-out"], 1.6, 1.0),
        (video.labels, "labelled", LIGHT["selection"], 1.4, 1.0),
    ]
    for values, label, colour, width, alpha in lines:
        if has_numbers(values, name):
            x, y = _broken(video.frames, values[name])
            axis.plot(x, y, label=label, color=colour, linewidth=width, alpha=alpha)
    axis.set_ylim(*_padded(group, axis.get_ylim()))
    axis.set_ylabel(name)
    axis.grid(color=LIGHT["line"], linewidth=0.6)
    if len(axis.lines) > 1:
        axis.legend(loc="upper right", fontsize=8, ncols=3, framealpha=0.8)


def _ribbon(axis: Axes, video: TimelineVideo, group: Group) -> None:
    (name,) = group.columns
    sources = {"predicted": video.shown, "labelled": video.labels}
    rows = {word: source[name] for word, source in sources.items() if has_numbers(source, name)}
    colours = class_colours(group)
    _cells(axis, video.frames, list(rows.values()), ListedColormap(colours), (-0.5, len(colours) - 0.5))
    axis.set_yticks(range(len(rows)), list(rows))
    present = sorted({int(value) for row in rows.values() for value in row[np.isfinite(row)]})
    chips = [Patch(color=colours[value], label=group.classes[value]) for value in present]
    axis.legend(handles=chips, loc="lower right", bbox_to_anchor=(1, 1), ncols=max(len(chips), 1), fontsize=8)


def _heat(axis: Axes, video: TimelineVideo, group: Group, names: Sequence[str]) -> None:
    none = np.full(len(video.frames), np.nan)
    outputs = [f"p_{name}" if f"p_{name}" in video.shown else name for name in names]
    rows = [video.shown.get(output, video.labels.get(name, none)) for output, name in zip(outputs, names, strict=True)]
    limits = (0.0, 1.0) if group.kind == "binary" else (group.low, group.high)
    _cells(axis, video.frames, rows, HEAT, limits)
    axis.set_yticks(range(len(names)), list(names))
    what = "probability" if group.kind == "binary" else f"{limits[0]:g} to {limits[1]:g}"
    axis.set_title(f"{task_label(group.name)}: predicted, {what}, dark is high", fontsize=9, loc="left")


def _cells(
    axis: Axes,
    frames: np.ndarray,
    rows: Sequence[np.ndarray],
    colours: ListedColormap | LinearSegmentedColormap,
    limits: tuple[float, float],
) -> None:
    """`rows` [R][n] as an image over frame numbers; each pixel shows the frame nearest to it, none in a gap."""
    first, last = frames[0] - 0.5, frames[-1] + 0.5
    num = int(min(MOST_CELLS, np.ceil(last - first)))
    centres = first + (np.arange(num) + 0.5) * (last - first) / num
    after = np.clip(np.searchsorted(frames, centres), 0, len(frames) - 1)
    before = np.maximum(after - 1, 0)
    near = np.where(np.abs(frames[before] - centres) <= np.abs(frames[after] - centres), before, after)
    reach = max(gap_limit(frames) / 2, (last - first) / num / 2)
    image = np.stack(rows)[:, near].astype(float)
    image[:, np.abs(frames[near] - centres) > reach] = np.nan
    extent = (first, last, len(rows) - 0.5, -0.5)
    axis.imshow(
        image, aspect="auto", interpolation="nearest", cmap=colours, vmin=limits[0], vmax=limits[1], extent=extent
    )


def _broken(frames: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The line with a hole in every gap."""
    cuts = np.flatnonzero(np.diff(frames) > gap_limit(frames)) + 1
    return np.insert(frames.astype(float), cuts, np.nan), np.insert(values.astype(float), cuts, np.nan)


def _padded(group: Group, seen: tuple[float, float]) -> tuple[float, float]:
    low, high = min(group.low, seen[0]), max(group.high, seen[1])
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _literal(text: str) -> str:
    """`text` as matplotlib draws it letter by letter: a dollar sign starts no formula."""
    return text.replace("$", r"\$")
