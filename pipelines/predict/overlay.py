"""Predictions drawn into the video they are of: a second pass over its frames. P points of a trace."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.labels import Schema
from extract.faces.orientation import Orientations
from extract.overlay.drawing import Bar, FaceMark, Overlay, Trace
from extract.overlay.encoding import VideoWriter
from extract.video.frames import open_video
from pipelines.predict.tables import BOX_COLUMNS

TRACE_S = 10.0  # how far back a trace reaches
MAX_ROWS = 3  # faces that have a row below the picture
MAX_TRACES = 4
DEFAULT_RATE = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Track:
    """One face of the video over time: its `table`, and the row below the picture that shows it, None for none."""

    face: int
    table: pl.DataFrame
    times_s: np.ndarray
    row: int | None


def draw_overlay(
    video: Path,
    table: pl.DataFrame,
    schema: Schema,
    out: Path,
    *,
    follow_orientation: bool = True,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes `out`: the frames of `video` that `table` has, with its predictions drawn into them.

    Raises:
        ValueError: the video cannot be read any more.
    """
    tracks = _tracks(table)
    num_rows = 1 + max((track.row for track in tracks if track.row is not None), default=-1)
    last = table["frame"].max()
    at = {
        frame: [(tracks[track], place) for track, place in zip(found, places, strict=True)]
        for frame, found, places in _places(tracks).iter_rows()
    }
    with ExitStack() as stack:
        reader = stack.enter_context(open_video(video, Orientations(follow_orientation)))
        overlay: Overlay | None = None
        for frame in reader:
            if overlay is None:
                height, width = frame.pixels.shape[:2]
                overlay = Overlay((height, width), num_rows)
                writer = stack.enter_context(VideoWriter(out, overlay.size, reader.rate or DEFAULT_RATE))
                start_s = frame.time_s
            marks = [(track, _mark(track, place, schema)) for track, place in at.get(frame.number, ())]
            rows: list[FaceMark | None] = [None] * num_rows
            for track, mark in marks:
                if track.row is not None:
                    rows[track.row] = mark
            writer.add(overlay.draw(frame.pixels, [mark for _, mark in marks], rows), frame.time_s - start_s)
            advance(1)
            if frame.number == last:
                break


def _tracks(table: pl.DataFrame) -> list[_Track]:
    """The faces of the video, in their order; rows go to those that come first, and are free again after their last
    frame."""
    found = []
    free_from = [-1] * MAX_ROWS
    for (face,), rows in table.filter(pl.col("face").is_not_null()).group_by("face", maintain_order=True):
        first, last = int(rows["frame"][0]), int(rows["frame"][-1])
        row = next((number for number, end in enumerate(free_from) if end < first), None)
        if row is not None:
            free_from[row] = last
        found.append(_Track(face=int(str(face)), table=rows, times_s=rows["time_s"].to_numpy(), row=row))
    return found


def _places(tracks: list[_Track]) -> pl.DataFrame:
    """frame, and lists of the tracks in it and of their rows in the tracks' tables."""
    parts = [
        track.table.select("frame", track=pl.lit(number), place=pl.int_range(pl.len()))
        for number, track in enumerate(tracks)
    ]
    if not parts:
        return pl.DataFrame({"frame": [], "track": [], "place": []})
    return pl.concat(parts).group_by("frame", maintain_order=True).agg("track", "place")


def _mark(track: _Track, place: int, schema: Schema) -> FaceMark:
    row = track.table.row(place, named=True)
    x0, y0, x1, y1 = (float(row[name]) for name in BOX_COLUMNS)
    return FaceMark(
        face=track.face,
        box=(x0, y0, x1, y1),
        title=_title(track.face, row, schema),
        traces=tuple(_traces(track, place, schema)),
        bars=tuple(_bars(row, schema)),
    )


def _title(face: int, row: Mapping[str, Any], schema: Schema) -> str:
    """The face's number, and each class with its probability; of a schema without classes the first numbers."""
    words = [str(face)]
    for group in schema:
        if group.kind == "classes" and row.get(group.columns[0]) is not None:
            name = group.classes[row[group.columns[0]]]
            words.append(f"{name} {row[f'p_{name}']:.2f}")
    if len(words) == 1:
        names = [name for group in schema if group.kind == "continuous" for name in group.columns]
        words += [f"{name} {row[name]:+.2f}" for name in names if row.get(name) is not None][:2]
    return "  ".join(words)


def _traces(track: _Track, place: int, schema: Schema) -> list[Trace]:
    now_s = track.times_s[place]
    first = int(np.searchsorted(track.times_s, now_s - TRACE_S))
    part = slice(first, place + 1)
    times = 1 - (now_s - track.times_s[part]) / TRACE_S
    named = [(group, name) for group in schema if group.kind == "continuous" for name in group.columns]
    return [
        Trace(name, times, track.table[name][part].cast(pl.Float64).fill_null(np.nan).to_numpy(), group.low, group.high)
        for group, name in named
        if name in track.table.columns
    ][:MAX_TRACES]


def _bars(row: Mapping[str, Any], schema: Schema) -> list[Bar]:
    named = [name for group in schema if group.kind == "binary" for name in group.columns]
    return [Bar(name, row[f"p_{name}"], bool(row[name])) for name in named if row.get(name) is not None]
