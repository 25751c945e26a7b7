"""Runs a bundle of `mtl export`: aligned faces in, predictions per frame out. Needs NumPy and onnxruntime, no more.

    bundle = Bundle("bundle.zip")
    embeddings = bundle.embed(faces)                            # [N, S, S, 3] uint8, RGB -> {stream: [N, D]}
    found = bundle.predict(["video"] * len(faces), frames, embeddings)
    found.columns()                                             # {"valence": [N], "p_Happiness": [N], "AU12": [N], ..}

or `python mtl_runtime.py BUNDLE FACES --out predictions.csv`.

The ONNX files hold the backbones, with resizing and normalisation, and the heads. What lies around them is here, as
`mtl` does it: windows over real frame numbers, averages where windows overlap, means of videos, frames without a face,
weights of an ensemble, and post-processing: smoothing, the affine match, outside classifiers, offsets, thresholds.
Letters: N frames, W windows, T steps, D width, S side of a face in pixels, K outputs of a task, C outputs of all tasks.
"""

import argparse
import csv
import hashlib
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

FORMAT = 2
RECORD = "bundle.json"
SEAL, NUM_DIGITS = b"mtl-seal:", 32
STEPS_AT_ONCE = 4096  # of all windows of one call of a head
GAUSSIAN_REACH = 3.0  # in widths
MEDIAN_VALUES = 4_000_000  # so many numbers at once: 32 MB
TINY = 1e-12
AGE, NO_ROW = ":age", -1.0  # behind a stream's name: the ages of its rows; and the age where there is no row
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
OWN_COLUMNS = ("video", "frame", "valid")


@dataclass(frozen=True)
class Predictions:
    """What a bundle predicts of N frames, by task ("va", "expr", "au" or those of another schema).

    `raw` and `processed` [N, K] are values of continuous tasks, else probabilities; `decided` are the values [N, K],
    the class [N] from 0, or binary columns [N, K] in {0, 1}, from `processed`. `valid` [N] is False where the frame had
    no face: its prediction is that of the nearest frame of its video. `known` [N] is False where the video had none at
    all: nothing is predicted, and the numbers are those of zeros.
    """

    tasks: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, np.ndarray]
    processed: Mapping[str, np.ndarray]
    decided: Mapping[str, np.ndarray]
    valid: np.ndarray
    known: np.ndarray

    def columns(self, *, raw: bool = False) -> dict[str, np.ndarray]:
        """One array [N] per column: decided values under the names of the labels, probabilities as p_NAME.

        With `raw` before post-processing, and then decided from that.
        """
        values = self.raw if raw else self.processed
        decided = decide(self.tasks, self.raw) if raw else self.decided
        found: dict[str, np.ndarray] = {}
        for task in self.tasks:
            name = task["name"]
            if task["kind"] != "continuous":
                labels = decided[name].reshape(len(self.valid), -1).astype(np.int8)
                found |= dict(zip(task["columns"], labels.T, strict=True))
            found |= dict(zip(task["outputs"], values[name].astype(np.float32).T, strict=True))
        return found


class Bundle:
    """A bundle, a folder or a .zip file, checked and ready to run.

    `schema` are its labels, `tasks` what it predicts, `streams` the width of each embedding it reads, `alignment` how
    its faces were aligned (None: unknown), `face_px` the side S of the faces it takes (None: it takes embeddings),
    `fps` the rate of the frame numbers it was trained on, `follow_orientation` whether pictures are turned as their
    EXIF orientation says.
    """

    def __init__(self, path: str | Path, *, num_threads: int = 0) -> None:
        """Reads and checks the record and every ONNX file; `num_threads` 0 leaves their number to onnxruntime.

        Raises:
            ValueError: no bundle, one of a newer format, a file that is missing or damaged, or no onnxruntime.
        """
        self.path = Path(path)
        read = _reader(self.path)
        self.record = read_record(read, self.path)
        self.schema: Mapping[str, Any] = self.record["schema"]
        self.tasks: tuple[Mapping[str, Any], ...] = tuple(self.record["tasks"])
        self.streams: dict[str, int] = {name: each["width"] for name, each in self.record["streams"].items()}
        self.alignment: Mapping[str, Any] | None = self.record["alignment"]
        self.face_px: int | None = self.record["face_px"]
        self.fps: float | None = self.record["fps"]
        self.follow_orientation: bool = self.record["follow_orientation"]
        self._sessions = {
            name: _session(_checked(read, name, digest, self.path), f"{self.path}: {name}", num_threads)
            for name, digest in self.record["files"].items()
            if name.endswith(".onnx")
        }

    def embed(self, faces: np.ndarray, *, batch_size: int = 32, rounded: bool = True) -> dict[str, np.ndarray]:
        """Embeddings {stream: [N, D] float32} of `faces` [N, S, S, 3] uint8, RGB, aligned as `alignment` says;
        `rounded` as those that the heads were trained on were stored.

        Raises:
            ValueError: faces of another size or type, or a stream whose embeddings the bundle cannot make.
        """
        for name, stream in self.record["streams"].items():
            if not stream["graphs"]:
                raise ValueError(f"{self.path}: takes embeddings of the stream {name}, which it cannot make of faces")
        side = self.face_px
        if faces.dtype != np.uint8 or faces.shape[1:] != (side, side, 3):
            raise ValueError(
                f"{self.path}: takes faces [N, {side}, {side}, 3] of uint8, found {list(faces.shape)} of {faces.dtype}"
            )
        chains: dict[tuple[str, ...], list[str]] = {}
        for name, stream in self.record["streams"].items():
            chains.setdefault(tuple(graph["file"] for graph in stream["graphs"]), []).append(name)
        found: dict[str, np.ndarray] = {}
        for names in chains.values():
            found |= self._embedded(names, faces, batch_size, rounded)
        return {name: found[name] for name in self.record["streams"]}

    def predict(
        self,
        videos: Sequence[Any] | np.ndarray,
        frames: Sequence[int] | np.ndarray,
        embeddings: Mapping[str, np.ndarray],
        valid: np.ndarray | None = None,
        *,
        post: bool = True,
    ) -> Predictions:
        """Predictions of N frames of any number of videos, row for row.

        Args:
            videos: [N] the video of each row, any name; rows may come in any order.
            frames: [N] real frame numbers, whole, each once in its video.
            embeddings: {stream: [N, D]} of all `streams`, without `post` of all but outside classifiers; what stands at
                rows without a face never matters. Of a stream of rows with times the last column is the age of the
                row, in frames; -1 where no row covers the frame.
            valid: [N] bool, False where there is no face. Neither is there one where an embedding is not finite.
            post: with the bundle's post-processing.
        """
        rows = _Rows.of(videos, frames)
        asked = np.ones(len(rows), dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
        if asked.shape != (len(rows),):
            raise ValueError(f"valid: {list(asked.shape)}, wanted [{len(rows)}] bool")
        read = {name for model in self.record["models"] for name in model["needs"]}  # others are outside classifiers'
        needed = [name for name in self.streams if post or name in read]
        given = {name: self._checked_embeddings(name, embeddings, len(rows))[rows.order] for name in needed}
        has = {name: asked[rows.order] & np.isfinite(each).all(axis=1) for name, each in given.items()}
        for name in [name for name in needed if self.record["streams"][name]["has_age"]]:
            given[name + AGE], given[name] = given[name][:, -1:], given[name][:, :-1]
        total, valid, known = self._totals(rows, given, has)
        back = np.argsort(rows.order)
        said = {task["name"]: outside_of(task, embeddings, asked) for task in self.tasks if post and task["outside"]}
        return self._finished(rows, total[back], valid[back], known[back], said, post)

    def _embedded(
        self, names: Sequence[str], faces: np.ndarray, batch_size: int, rounded: bool
    ) -> dict[str, np.ndarray]:
        """[N, D] by stream: the faces through the graphs of the streams `names`, which share their files."""
        streams = [self.record["streams"][name] for name in names]
        found = [np.empty((len(faces), stream["width"]), np.float32) for stream in streams]
        *before, last = streams[0]["graphs"]
        outputs = list(dict.fromkeys(stream["graphs"][-1]["output"] for stream in streams))
        size = next((graph["batch"] for graph in (*before, last) if graph["batch"]), batch_size)
        for start in range(0, len(faces), size):
            x = part = faces[start : start + size]
            for graph in before:
                (x,) = self._run(graph, [graph["output"]], x)
            values = dict(zip(outputs, self._run(last, outputs, x), strict=True))
            for each, stream in zip(found, streams, strict=True):
                vectors = values[stream["graphs"][-1]["output"]]
                each[start : start + size] = vectors.reshape(len(vectors), -1)[: len(part)]
        return {
            name: each.astype(stream["dtype"]).astype(np.float32) if rounded else each
            for name, stream, each in zip(names, streams, found, strict=True)
        }

    def _run(self, graph: Mapping[str, Any], outputs: list[str], x: np.ndarray) -> list[np.ndarray]:
        """The `outputs` of a graph; a batch that is fixed is filled up."""
        if graph["batch"] and len(x) < graph["batch"]:
            x = np.concatenate([x, np.zeros((graph["batch"] - len(x), *x.shape[1:]), x.dtype)])
        found: list[np.ndarray] = self._sessions[graph["file"]].run(outputs, {graph["input"]: x})
        return found

    def _checked_embeddings(self, name: str, embeddings: Mapping[str, np.ndarray], num_rows: int) -> np.ndarray:
        if name not in embeddings:
            raise ValueError(f"embeddings: the stream {name} is missing; needed are {', '.join(self.streams)}")
        found = np.asarray(embeddings[name], dtype=np.float32)
        if found.shape != (num_rows, self.streams[name]):
            raise ValueError(f"embeddings of {name}: {list(found.shape)}, wanted [{num_rows}, {self.streams[name]}]")
        return found

    def _totals(
        self, rows: "_Rows", embeddings: Mapping[str, np.ndarray], has: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of rows sorted by (video, frame), `has` {stream: [N]} saying where there is an embedding: the weighted sum
        [N, C] float64 of what all models predict, and the `valid` and `known` [N] of `Predictions`."""
        outputs = [name for task in self.tasks for name in task["outputs"]]
        total, valid, known = np.zeros((len(rows), len(outputs))), *np.ones((2, len(rows)), dtype=bool)
        plans: dict[Any, _Plan] = {}
        means: dict[Any, np.ndarray] = {}
        for model in self.record["models"]:
            mask = np.logical_and.reduce([has[name] for name in model["needs"]])
            key = tuple(model["needs"]), model["window"], model["stride"], model["max_gap"]
            if key not in plans:
                plans[key] = _Plan.of(rows, mask, *key[1:])
            inputs = {}
            for place, name in model["streams"].items():
                which = name, model["mean_frames"]
                if model["inputs"] != "embedding" and which not in means and not name.endswith(AGE):
                    ages = embeddings.get(name + AGE)
                    seen = has[name] if ages is None else has[name] & (ages[:, 0] != NO_ROW)
                    means[which] = _means(rows, embeddings[name], seen, model["mean_frames"])
                inputs[place] = _inputs(embeddings[name], means.get(which), model["inputs"])
            predicted = self._run_model(model, rows, plans[key], inputs, mask)
            for column, name in enumerate(_flat(model["outputs"])):
                if name in model["weights"]:
                    total[:, outputs.index(name)] += model["weights"][name] * predicted[:, column].astype(np.float64)
            valid, known = valid & mask, known & np.isin(rows.videos, rows.videos[mask])
        return total, valid, known

    def _run_model(
        self,
        model: Mapping[str, Any],
        rows: "_Rows",
        plan: "_Plan",
        inputs: Mapping[str, np.ndarray],
        valid: np.ndarray,
    ) -> np.ndarray:
        """[N, K of all its tasks]: the mean over the windows that a row is in."""
        session, flat = self._sessions[model["file"]], []
        at_once = max(1, STEPS_AT_ONCE // max(plan.windows.shape[1], 1))
        for start in range(0, len(plan.windows), at_once):
            windows = plan.windows[start : start + at_once]
            inside = np.maximum(windows, 0)
            feed = {name: each[inside] for name, each in inputs.items()}
            feed |= {"valid": valid[inside] & (windows >= 0), "times": rows.frames[inside]}
            parts = session.run(list(model["outputs"]), {each.name: feed[each.name] for each in session.get_inputs()})
            flat.append(np.concatenate(parts, axis=-1).reshape(windows.size, -1))
        values = np.concatenate([*flat, np.zeros((1, len(_flat(model["outputs"]))), np.float32)])
        total = np.zeros((len(rows), values.shape[1]), np.float32)
        for places in plan.places.T:
            total += values[places]
        count = (plan.places < len(values) - 1).sum(axis=1, keepdims=True)
        return total / np.maximum(count, 1).astype(np.float32)

    def _finished(
        self,
        rows: "_Rows",
        total: np.ndarray,
        valid: np.ndarray,
        known: np.ndarray,
        outside: Mapping[str, np.ndarray],
        post: bool,
    ) -> Predictions:
        """The tasks of `total` [N, C], in the caller's order of rows: processed and decided. `outside` [N, K] is what
        outside classifiers say."""
        plain = {"smoothing": None, "affine": None, "cuts": None}
        tasks = self.tasks if post else tuple({**task, **plain} for task in self.tasks)
        raw, processed, first = {}, {}, 0
        for task in tasks:
            raw[task["name"]] = total[:, first : first + len(task["outputs"])]
            smooth = smooth_task(task, raw[task["name"]], rows.codes, rows.numbers)
            processed[task["name"]] = match_task(task, smooth)
            if task["name"] in outside:
                said = smooth_task(task, outside[task["name"]], rows.codes, rows.numbers)
                processed[task["name"]] = take_surer(task, smooth, said)
            first += len(task["outputs"])
        return Predictions(tasks, raw, processed, decide(tasks, processed), valid, known)


def _flat(outputs: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns of {task: columns}, side by side."""
    return [name for names in outputs.values() for name in names]


@dataclass(frozen=True)
class _Rows:
    """`codes` [N], a number per video, and frame `numbers` [N] as they came; `order` [N] sorts them by (video, frame),
    and `videos` and `frames` [N] are sorted so."""

    codes: np.ndarray
    numbers: np.ndarray
    order: np.ndarray
    videos: np.ndarray
    frames: np.ndarray

    @classmethod
    def of(cls, videos: Sequence[Any] | np.ndarray, frames: Sequence[int] | np.ndarray) -> "_Rows":
        numbers = np.asarray(frames)
        if len(videos) != len(numbers) or numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise ValueError(f"videos and frames: [N] each, frames whole numbers; found {len(videos)}, {numbers.shape}")
        known: dict[Any, int] = {}
        codes = np.array([known.setdefault(video, len(known)) for video in videos], dtype=np.int64)
        numbers = numbers.astype(np.int64)
        order = np.lexsort((numbers, codes))
        rows = cls(codes, numbers, order, codes[order], numbers[order])
        twice = np.flatnonzero((np.diff(rows.videos) == 0) & (np.diff(rows.frames) == 0))
        if len(twice):
            row = order[twice[0]]
            raise ValueError(f"frame {numbers[row]} of the video {videos[row]!r} stands there twice")
        return rows

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True)
class _Plan:
    """`windows` [W, T], rows in each, padded with -1; `places` [N, C]: where in the flattened windows each row's
    prediction is, W * T for a free place."""

    windows: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, rows: _Rows, valid: np.ndarray, window: int, stride: int, max_gap: int) -> "_Plan":
        """A row without a face takes the windows of the nearest row in time that has one, in its video."""
        windows = make_windows(rows.videos, rows.frames, window, stride, max_gap)
        places = overlaps(windows, len(rows))
        places = np.append(places, np.full((1, places.shape[1]), windows.size), axis=0)
        return cls(windows, places[nearest_rows(rows.videos, rows.frames, valid)])


def make_windows(videos: np.ndarray, frames: np.ndarray, window: int, stride: int, max_gap: int) -> np.ndarray:
    """[W, T]: rows of each window, padded at the end with -1; rows are sorted by (video, frame).

    A window never leaves its video, never spans more than `max_gap` frames between two rows, and the last one of a
    stretch ends where that ends, so every row is in at least one.
    """
    stride = min(stride, window)
    cut = np.flatnonzero((np.diff(videos) != 0) | (np.diff(frames) > max_gap)) + 1
    first = np.concatenate([[0], cut]) if len(videos) else np.zeros(0, np.int64)
    length = np.diff(first, append=len(videos))
    room = np.maximum(length - window, 0)
    number = -(-room // stride) + 1
    stretch = np.repeat(np.arange(len(first)), number)
    nth = np.arange(len(stretch)) - np.repeat(np.cumsum(number) - number, number)
    start = np.minimum(nth * stride, room[stretch])
    position = start[:, None] + np.arange(min(window, int(length.max(initial=1))))
    return np.where(position < length[stretch][:, None], first[stretch][:, None] + position, -1)


def overlaps(windows: np.ndarray, num_rows: int) -> np.ndarray:
    """[N, C]: the places of each row in the flattened `windows` [W, T], ascending; W * T for a free place."""
    flat = windows.ravel()
    places = np.flatnonzero(flat >= 0)
    places = places[np.argsort(flat[places], kind="stable")]
    count = np.bincount(flat[places], minlength=num_rows)
    table = np.full((num_rows, int(count.max(initial=1))), flat.size, dtype=np.int64)
    nth = np.arange(len(places)) - np.repeat(np.cumsum(count) - count, count)
    table[np.repeat(np.arange(num_rows), count), nth] = places
    return table


def nearest_rows(videos: np.ndarray, frames: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """[N]: for each row the valid one nearest in time in its video, of two equally near the earlier; N for none."""
    good, rows = np.flatnonzero(valid), np.arange(len(videos))
    nearest = np.full(len(videos), len(videos))
    distance = np.full(len(videos), np.iinfo(np.int64).max)
    after = np.searchsorted(good, rows)
    for place in (after - 1, after):
        inside = (place >= 0) & (place < len(good))
        row = good[place * inside] if len(good) else place * 0
        far = np.abs(frames[row] - frames)
        better = inside & (videos[row] == videos) & (far < distance)
        nearest[better], distance[better] = row[better], far[better]
    return nearest


def _means(rows: _Rows, embeddings: np.ndarray, valid: np.ndarray, num_frames: int) -> np.ndarray:
    """[N, D] float32: the mean embedding of each row's video, or with `num_frames` of so many frames up to the row."""
    masked = np.where(valid[:, None], embeddings, np.float32(0)).astype(np.float64)
    sums = np.concatenate([np.zeros((1, masked.shape[1])), np.cumsum(masked, axis=0)])
    counts = np.concatenate([[0], np.cumsum(valid)])
    start, stop = (np.searchsorted(rows.videos, rows.videos, side=side) for side in ("left", "right"))
    if num_frames:
        span = num_frames + int(rows.frames.max(initial=0)) + 1
        keys = rows.videos * span + rows.frames
        start = np.maximum(start, np.searchsorted(keys, keys - num_frames + 1, side="left"))
        stop = np.arange(1, len(rows) + 1)
    count = np.maximum(counts[stop] - counts[start], 1)
    return ((sums[stop] - sums[start]) / count[:, None]).astype(np.float32)


def _inputs(embeddings: np.ndarray, means: np.ndarray | None, choice: str) -> np.ndarray:
    """[N, D or 2 D]: embeddings, their deviation from the means, or both side by side."""
    if means is None or choice == "embedding":
        return embeddings
    deviation = embeddings - means
    return np.concatenate([embeddings, deviation], axis=1) if choice == "both" else deviation


def smooth_task(task: Mapping[str, Any], values: np.ndarray, videos: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """`values` [N, K] of a task, smoothed within each video over real frame numbers, in any order of rows."""
    smoothing = task["smoothing"]
    if not smoothing or smoothing["kernel"] == "none" or not smoothing["width"] or not len(values):
        return values
    order = np.lexsort((frames, videos))
    kernel, width = smoothing["kernel"], float(smoothing["width"])
    steps = np.diff(frames[order]).astype(np.float64)
    steps[np.diff(videos[order]) != 0] = np.floor(GAUSSIAN_REACH * width) + 1.0  # beyond any kernel's reach
    result = np.empty(values.shape)
    traces = np.ascontiguousarray(values[order].T, dtype=np.float64)
    result[order] = KERNELS[kernel](traces, np.append(0.0, np.cumsum(steps)), width).T
    if task["kind"] == "classes" and kernel == "median":
        result /= np.maximum(result.sum(axis=1, keepdims=True), TINY)
    return result


def match_task(task: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    """`values` [N, K] of a task, those of a continuous one scaled, shifted and clipped where that changes anything."""
    affine = np.array(task["affine"] or [])
    if not len(affine) or (affine == (1.0, 0.0)).all():
        return values
    return np.asarray((values * affine[:, 0] + affine[:, 1]).clip(*task["range"]))


def outside_of(task: Mapping[str, Any], embeddings: Mapping[str, np.ndarray], valid: np.ndarray) -> np.ndarray:
    """[N, K] float64: what an outside classifier says by the classes of the task, zeros where not `valid`."""
    one = task["outside"]
    scores = np.asarray(embeddings[one["stream"]], dtype=np.float32)
    has = valid & np.isfinite(scores).all(axis=1)
    logits = np.where(has[:, None], scores[:, : one["num_classes"]], 0).astype(np.float64)
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    found = np.append(found, np.zeros((len(found), 1)), axis=1)[:, one["columns"]]
    return np.where(has[:, None], found, 0.0)


def take_surer(task: Mapping[str, Any], values: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Probabilities `values` [N, K], and where those of an `outside` classifier reach its threshold these, so that its
    class is the most probable after the task's offsets."""
    surer = outside.max(axis=1, initial=0.0) >= task["outside"]["threshold"]
    taken = outside[surer] * np.exp(-np.array(task["cuts"]))
    result = values.astype(np.float64)
    result[surer] = taken / taken.sum(axis=1, keepdims=True)
    return result


def _gaussian(traces: np.ndarray, line: np.ndarray, sigma: float) -> np.ndarray:
    return _weighted(traces, line, GAUSSIAN_REACH * sigma, lambda gap: np.exp(-0.5 * (gap / sigma) ** 2))


def _box(traces: np.ndarray, line: np.ndarray, half: float) -> np.ndarray:
    return _weighted(traces, line, half, np.ones_like)


def _weighted(
    traces: np.ndarray, line: np.ndarray, reach: float, weigh: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Means of `traces` [K, N] with the weights `weigh(gap)` of all rows at most `reach` away on the `line` [N]."""
    total, weight = traces.copy(), np.ones(len(line))
    for step in range(1, len(line)):
        gap = line[step:] - line[:-step]
        if not (gap <= reach).any():
            break
        weights = np.where(gap <= reach, weigh(gap), 0.0)
        total[:, step:] += weights * traces[:, :-step]
        total[:, :-step] += weights * traces[:, step:]
        weight[step:] += weights
        weight[:-step] += weights
    return total / weight


def _median(traces: np.ndarray, line: np.ndarray, half: float) -> np.ndarray:
    """Medians of `traces` [K, N] over the rows at most `half` away; rows with equally many neighbours go together."""
    reach = np.floor(half)
    first = np.searchsorted(line, line - reach, side="left")
    count = np.searchsorted(line, line + reach, side="right") - first
    result = np.empty_like(traces)
    for size in np.unique(count):
        rows = np.flatnonzero(count == size)
        at_once = max(1, MEDIAN_VALUES // (size * len(traces)))
        for begin in range(0, len(rows), at_once):
            part = rows[begin : begin + at_once]
            result[:, part] = np.median(traces[:, first[part, None] + np.arange(size)], axis=-1)
    return result


KERNELS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "gaussian": _gaussian,
    "box": _box,
    "median": _median,
}


def decide(tasks: Sequence[Mapping[str, Any]], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is decided from `values` {task: [N, K]}: the class of the highest probability, with the task's offsets of
    log probabilities added first; binary columns at or above their thresholds; continuous values as they are."""
    found = {}
    for task in tasks:
        value, cuts = values[task["name"]], task["cuts"]
        if task["kind"] == "classes" and cuts and any(cuts):
            value = np.log(np.maximum(value, TINY)) + np.array(cuts)
        if task["kind"] == "classes":
            value = value.argmax(axis=1) if len(value) else np.zeros(0, np.int64)
        elif task["kind"] == "binary":
            value = (value >= (np.array(cuts) if cuts else 0.5)).astype(np.int8)
        found[task["name"]] = value
    return found


# A file of the bundle by its name; raises KeyError or OSError where it is not there, BadZipFile where it is damaged.
Read = Callable[[str], bytes]


def read_record(read: Read, path: Path) -> dict[str, Any]:
    """bundle.json, whose seal proves that it is as it was written.

    Raises:
        ValueError: it is not there, damaged, or of a newer format.
    """
    try:
        data = read(RECORD)
    except (KeyError, OSError):
        raise ValueError(f"{path}: not a bundle of `mtl export` (no {RECORD})") from None
    except zipfile.BadZipFile:
        data = b""
    place = data.rfind(SEAL) + len(SEAL)
    blank = data[:place] + b"0" * NUM_DIGITS + data[place + NUM_DIGITS :]
    if place < len(SEAL) or _digest(blank).encode() != data[place : place + NUM_DIGITS]:
        raise ValueError(f"{path}: {RECORD} is damaged or was changed; export it again")
    record: dict[str, Any] = json.loads(data)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path}: a bundle of format {record.get('format')}, and this runner reads {FORMAT}; use the "
            "mtl_runtime.py that lies in the bundle, or another version of mtl-runtime"
        )
    return record


def is_bundle(path: Path) -> bool:
    """Whether there is a bundle at `path`, whole or not."""
    try:
        _reader(path)(RECORD)
    except (KeyError, OSError, ValueError):
        return False
    except zipfile.BadZipFile:
        pass
    return True


def _reader(path: Path) -> Read:
    if path.is_dir():
        return lambda name: (path / name).read_bytes()
    if not path.exists():
        raise ValueError(f"{path}: no such bundle, neither a folder nor a file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a bundle of `mtl export`: neither a folder nor a whole .zip file")

    def read(name: str) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zlib.error, EOFError, RuntimeError) as error:  # packed wrongly, in an unknown way or with a password
            raise zipfile.BadZipFile(str(error)) from None

    return read


def _checked(read: Read, name: str, digest: str, path: Path) -> bytes:
    try:
        data = read(name)
    except (KeyError, FileNotFoundError):
        raise ValueError(f"{path}: {name} is missing; export it again") from None
    except zipfile.BadZipFile:
        data = b""
    if _digest(data) != digest:
        raise ValueError(f"{path}: {name} is damaged or was changed; export it again")
    return data


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=NUM_DIGITS // 2).hexdigest()


def _session(data: bytes, name: str, num_threads: int) -> Any:
    # To import it would write a number for this machine into the user's cache folder, and gather what it does.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("onnxruntime is not installed; type: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a kind for each of its states, with no base of its own
        raise ValueError(f"{name}: onnxruntime {onnxruntime.__version__} cannot load it ({error})") from None


def find_faces(path: Path) -> list[tuple[str, np.ndarray, list[Any]]]:
    """(video, frame numbers [n], faces or their files [n]) of each video of `path`.

    A .npy file [n, S, S, 3] is one video, its frames 1 to n. A folder holds such files, or pictures that are named by
    their frame's number, or such folders of pictures.
    """
    if path.suffix == ".npy":
        try:
            faces = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a whole .npy file of numbers ({error})") from None
        return [(path.stem, np.arange(1, len(faces) + 1), faces)] if faces.ndim == 4 and len(faces) else []
    if not path.is_dir():
        return []
    folders = [path, *sorted(each for each in path.iterdir() if each.is_dir())]
    found = [video for each in sorted(path.glob("*.npy")) for video in find_faces(each)]
    for folder in folders:
        named: dict[int, Path] = {}
        for each in sorted(folder.iterdir()):
            if each.suffix.lower() in PICTURES and _is_number(each.stem):
                first = named.setdefault(int(each.stem), each)
                if first != each:
                    raise ValueError(f"{each}: frame {int(each.stem)} stands there twice, as {first.name} too")
        if named:
            numbers = sorted(named)
            found.append((folder.name, np.array(numbers), [named[number] for number in numbers]))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _pixels(faces: Sequence[Any], follow_orientation: bool) -> np.ndarray:
    """[n, S, S, 3] uint8 of faces or of their files."""
    if isinstance(faces, np.ndarray):
        return np.ascontiguousarray(faces)
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ValueError("pictures need Pillow; type: pip install pillow, or give faces as .npy") from None
    pictures = []
    for path in faces:
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image) if follow_orientation else image
                pictures.append(np.asarray(upright.convert("RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: not a picture that Pillow reads ({error})") from None
        if pictures[-1].shape != pictures[0].shape:
            raise ValueError(f"{path}: {pictures[-1].shape[1]} x {pictures[-1].shape[0]} px, unlike {faces[0]}")
    return np.stack(pictures)


def predict_faces(bundle: Bundle, path: Path, at_once: int = 256) -> Iterator[dict[str, np.ndarray]]:
    """The columns of each video of `path`: video, frame, valid, what is predicted, and the names of classes."""
    found = find_faces(path)
    if not found:
        raise ValueError(f"{path}: no faces here; give a .npy file [n, S, S, 3] or a folder of VIDEO/00001.jpg")
    for video, numbers, faces in found:
        starts = range(0, len(numbers), at_once)
        parts = [bundle.embed(_pixels(faces[i : i + at_once], bundle.follow_orientation)) for i in starts]
        embeddings = {name: np.concatenate([part[name] for part in parts]) for name in bundle.streams}
        predicted = bundle.predict([video] * len(numbers), numbers, embeddings)
        own = {"video": np.array([video] * len(numbers)), "frame": numbers, "valid": predicted.valid}
        names = {
            f"{task['columns'][0]}_name": np.array(task["classes"])[predicted.decided[task["name"]]]
            for task in bundle.tasks
            if task["kind"] == "classes"
        }
        yield {**own, **predicted.columns(), **names}


def main() -> None:
    """`mtl_runtime.py BUNDLE FACES`: a row per frame, as CSV."""
    parser = argparse.ArgumentParser(prog="mtl_runtime", description=main.__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder or .zip file of `mtl export`")
    parser.add_argument("faces", type=Path, metavar="FACES", help="a .npy file, or a folder of VIDEO/00001.jpg")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="default: standard output")
    given = parser.parse_args()
    try:
        bundle = Bundle(given.bundle)
        if given.out is None:
            _write(sys.stdout, predict_faces(bundle, given.faces))
            return
        if given.out.exists():
            raise ValueError(f"{given.out} is there already")
        made = given.out.with_name(f".{given.out.name}.part")
        try:
            with open(made, "w", newline="", encoding="utf-8") as file:
                _write(file, predict_faces(bundle, given.faces))
            made.rename(given.out)
        finally:
            made.unlink(missing_ok=True)
    except (ValueError, OSError) as error:
        print(f"mtl_runtime: error: {error}", file=sys.stderr)
        sys.exit(2)


def _write(file: TextIO, tables: Iterator[dict[str, np.ndarray]]) -> None:
    """One CSV of all tables, which have the same columns."""
    writer = csv.writer(file, lineterminator="\n")
    for number, columns in enumerate(tables):
        if number == 0:
            writer.writerow(columns)
        writer.writerows(zip(*map(_cells, columns.values()), strict=True))


def _cells(values: np.ndarray) -> list[str]:
    """As `mtl predict` writes them: the fewest digits that say a number, true and false."""
    return (np.where(values, "true", "false") if values.dtype == bool else values.astype(str)).tolist()


if __name__ == "__main__":
    main()
