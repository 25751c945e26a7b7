"""A video's columns as a short text: quantised, as differences from frame to frame, deflated, in base64.

`assets/unpack.js` reads it. n frames. What stands in it, all numbers little-endian: the length of the head [4 bytes];
the head, JSON with the number of frames, the columns (key, type, low, step) and the length of the faces; the columns;
the faces, a JSON list. A value is low + step * whole number; the highest whole number of a type means none.
"""

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.labels import Schema
from pipelines.timeline.videos import TimelineVideo, has_numbers

PROBABILITY_STEP = 0.01
RANGE_STEPS = 2000  # 0.001 of values from -1 to 1
NO_TIME_MS = 2**32 - 1
BYTES = {"u8": 1, "u16": 2, "u32": 4, "u56": 7}  # frame numbers have up to 53 bits


@dataclass(frozen=True, slots=True)
class Column:
    """`values` [n] in whole steps above `low`."""

    key: str
    type: str
    low: float
    step: float
    values: np.ndarray


def packed(video: TimelineVideo, schema: Schema) -> str:
    """`video` as base64 text."""
    columns = list(_columns(video, schema))
    faces = b"" if video.faces is None else json.dumps(list(video.faces)).encode()
    head: dict[str, Any] = {
        "frames": len(video.frames),
        "columns": [{"key": c.key, "type": c.type, "low": c.low, "step": c.step} for c in columns],
        "faces": len(faces),
    }
    head_bytes = json.dumps(head).encode()
    parts = [len(head_bytes).to_bytes(4, "little"), head_bytes, *map(_differences, columns), faces]
    return base64.b64encode(zlib.compress(b"".join(parts), 6)).decode("ascii")


def _columns(video: TimelineVideo, schema: Schema) -> Iterator[Column]:
    """Keys: frame, time, valid; predicted/COLUMN, raw/COLUMN, label/COLUMN; p/NAME of a class or binary column."""
    first = int(video.frames[0]) if len(video.frames) else 0
    yield Column("frame", "u56", first, 1, video.frames - first)
    if video.time_s is not None:
        start = float(np.nanmin(video.time_s)) if np.isfinite(video.time_s).any() else 0.0
        yield Column("time", "u32", start, 0.001, _whole((video.time_s - start) / 0.001, NO_TIME_MS))
    if video.valid is not None:
        yield Column("valid", "u8", 0, 1, video.valid.astype(np.int64))
    for group in schema:
        for name in group.columns:
            sources = {"predicted": video.shown, "raw": video.predicted, "label": video.labels}
            if video.smoothed is None or group.kind != "continuous":
                del sources["raw"]
            found = {f"{what}/{name}": source[name] for what, source in sources.items() if has_numbers(source, name)}
            if group.kind == "continuous":
                yield from _in_range(found, group.low, group.high)
            else:
                yield from (Column(key, "u8", 0, 1, _whole(values, 255)) for key, values in found.items())
        if group.kind != "continuous":
            for name, output in zip(group.names, group.output_columns, strict=True):
                if has_numbers(video.shown, output):
                    values = _whole(video.shown[output] / PROBABILITY_STEP, 255)
                    yield Column(f"p/{name}", "u8", 0, PROBABILITY_STEP, values)


def _in_range(found: dict[str, np.ndarray], low: float, high: float) -> Iterator[Column]:
    """Values of one continuous column, in steps of a 2000th of its range or, where values go beyond, of theirs."""
    for key, values in found.items():
        known = values[np.isfinite(values)]
        bottom, top = float(known.min(initial=low)), float(known.max(initial=high))
        step = (top - bottom) / RANGE_STEPS
        yield Column(key, "u16", bottom, step, _whole((values - bottom) / step, 2**16 - 1))


def _whole(values: np.ndarray, none: int) -> np.ndarray:
    """[n] int64, `none` where a value is not finite."""
    known = np.isfinite(values)
    return np.where(known, np.round(np.where(known, values, 0)), none).astype(np.int64)


def _differences(column: Column) -> bytes:
    """From each value to the next, modulo the type's range: all low bytes, then the next ones, .."""
    size = BYTES[column.type]
    steps = np.diff(column.values, prepend=0).astype(np.uint64)
    return b"".join(((steps >> np.uint64(8 * k)) & np.uint64(255)).astype(np.uint8).tobytes() for k in range(size))
