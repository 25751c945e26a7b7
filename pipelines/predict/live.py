"""Predictions of faces as they are seen: of a camera, or of a video at its pace.

Heads read windows that reach before and behind a frame, and smoothing does too, so a frame has a prompt prediction,
from what was seen up to it, and a final one, once `delay` further steps were seen. D width.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from extract.video.cuts import is_cut, thumbnail
from extract.video.finder import FaceFinder
from extract.video.live import LiveFrame, LiveFrames
from extract.video.tracking import Tracker
from pipelines.predict.face_model import FaceModel

EVERY_S = 0.2  # between two runs of the heads
FORGET_S = 2.0  # after which a face that is gone is forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFinal:
    """The columns of the final predictions of a step, `time_s` seconds into the video."""

    time_s: float
    columns: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFace:
    """A face of the newest frame: its number, box and score; `prompt` are the columns of predictions for this frame,
    `finals` those of the steps that became final since the update before, in order: over all updates each step once.
    Of a face that is gone, `prompt`, box and score are of the frame in which it was last seen."""

    face: int
    box: tuple[float, float, float, float]
    score: float
    prompt: Mapping[str, float]
    finals: tuple[LiveFinal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUpdate:
    """What is known when a frame was worked on: `latency_s` since the frame came; None for what was held back of a face
    that is gone, or when the frames end."""

    frame: int
    time_s: float
    latency_s: float | None
    faces: tuple[LiveFace, ...]


@dataclass(slots=True)
class _History:
    """The newest steps of a face, with the embeddings by stream; those since the last update come beside them."""

    steps: deque[int]
    embeddings: deque[dict[str, np.ndarray]]
    frame: int = 0  # in which it was last seen
    seen_s: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    score: float = 0.0
    final: int = -1  # the newest step whose final prediction is out


@dataclass(slots=True)
class LivePredictor:
    """Follows the faces of frames and predicts them. `delay` and `window` are steps of the heads at `fps`; of each face
    the newest `window + delay` are kept, and with them the heads are run."""

    model: FaceModel
    finder: FaceFinder
    fps: float
    window: int
    delay: int
    num_frames: int = 0
    latencies_s: list[float] = field(default_factory=list)
    _tracker: Tracker = field(default_factory=Tracker)
    _before: np.ndarray | None = None
    _faces: dict[int, _History] = field(default_factory=dict)
    _ran_s: float = -np.inf

    @property
    def delay_s(self) -> float:
        """Seconds after which a prediction is final."""
        return self.delay / self.fps

    def summary(self, num_dropped: int, why_ended: str | None = None) -> dict[str, Any]:
        """What was done so far, as JSON values; `num_dropped` frames were not seen, and a video that is not whole says
        `why_ended`."""
        latency = None
        if self.latencies_s:
            median, p95 = np.percentile(self.latencies_s, (50, 95))
            latency = {"median": float(median), "p95": float(p95)}
        return {
            "num_frames": self.num_frames,
            "num_dropped": num_dropped,
            "incomplete": [why_ended] if why_ended else [],
            "num_updates": len(self.latencies_s),
            "latency_s": latency,
            "delay_steps": self.delay,
            "delay_s": self.delay_s,
        }

    def updates(self, frames: Iterable[LiveFrame]) -> Iterator[LiveUpdate]:
        """An update for every frame after which the heads were run: the first, and then every `EVERY_S`; and one for
        each face that has final predictions to come when it is gone, or the frames end."""
        for each in frames:
            yield from self._forgotten(each.frame.time_s - FORGET_S)
            found = self._seen(each)
            self.num_frames += 1
            if each.came_s - self._ran_s < EVERY_S:
                continue
            self._ran_s = each.came_s
            faces = tuple(self._predicted(face, self.delay) for face in found)
            latency_s = time.monotonic() - each.came_s
            self.latencies_s.append(latency_s)
            yield LiveUpdate(frame=each.frame.number, time_s=each.frame.time_s, latency_s=latency_s, faces=faces)
        yield from self._forgotten(np.inf)

    def _seen(self, each: LiveFrame) -> list[int]:
        """Detects, tracks and embeds the faces of a frame; their numbers."""
        pixels, time_s = each.frame.pixels, each.frame.time_s
        small = self.finder.reduced(pixels)
        now = thumbnail(small)
        found = self.finder.find(pixels, small)
        ids = self._tracker.update(found.boxes, is_cut(self._before, now))
        self._before = now
        for start in range(0, len(ids), self.model.batch_size):
            part = slice(start, start + self.model.batch_size)
            crops = [self.finder.crop(pixels, points) for points in found.points[part]]
            embedded = self.model.embed(crops, ["live"] * len(crops))
            for place, face in enumerate(ids[part]):
                self._keep(face, time_s, {name: values[place] for name, values in embedded.items()})
        for face, box, score in zip(ids, found.boxes, found.scores, strict=True):
            kept = self._faces[face]
            x0, y0, x1, y1 = (float(value) for value in box)
            kept.frame, kept.box, kept.score = each.frame.number, (x0, y0, x1, y1), float(score)
        return list(ids)

    def _keep(self, face: int, time_s: float, embedding: dict[str, np.ndarray]) -> None:
        kept = self._faces.setdefault(face, _History(deque(), deque()))
        kept.seen_s, step = time_s, max(0, round(time_s * self.fps))
        if not kept.steps or step > kept.steps[-1]:  # of several frames in one step the first is the step
            kept.steps.append(step)
            kept.embeddings.append(embedding)

    def _forgotten(self, before_s: float) -> Iterator[LiveUpdate]:
        """Forgets the faces last seen before then; an update for each that has steps which are not final yet."""
        for face in [face for face, kept in self._faces.items() if kept.seen_s <= before_s]:
            kept = self._faces[face]
            if kept.final < kept.steps[-1]:
                one = self._predicted(face, delay=0)
                yield LiveUpdate(frame=kept.frame, time_s=kept.seen_s, latency_s=None, faces=(one,))
            del self._faces[face]

    def _predicted(self, face: int, delay: int) -> LiveFace:
        """Of its newest step, and of those that are final `delay` steps later."""
        kept = self._faces[face]
        columns, newest = self._columns(kept), kept.steps[-1]
        finals = tuple(
            LiveFinal(time_s=float(step / self.fps), columns=_at(columns, row))
            for row, step in enumerate(kept.steps)
            if kept.final < step <= newest - delay
        )
        kept.final = max(kept.final, newest - delay)
        prompt = _at(columns, len(kept.steps) - 1)
        while len(kept.steps) > self.window + self.delay:
            kept.steps.popleft()
            kept.embeddings.popleft()
        return LiveFace(face=face, box=kept.box, score=kept.score, prompt=prompt, finals=finals)

    def _columns(self, kept: _History) -> Mapping[str, np.ndarray]:
        """The predictions of its steps."""
        steps = np.array(kept.steps, np.int64)
        embeddings = {name: np.stack([each[name] for each in kept.embeddings]) for name in kept.embeddings[0]}
        found = self.model.predict(np.zeros(len(steps), np.int64), steps, embeddings, np.ones(len(steps), dtype=bool))
        return found.columns


def open_live(source: str) -> LiveFrames:
    """The camera of that number, or the video at that path; raises ValueError where there is none."""
    if not source.isdecimal() and not Path(source).exists():
        raise ValueError(f"{source}: no such video; name one, or the number of a camera such as 0")
    return LiveFrames(source)


def _at(columns: Mapping[str, np.ndarray], row: int) -> dict[str, float]:
    """Numbers of a row; decided classes and binary columns are whole."""
    return {name: _number(values[row]) for name, values in columns.items()}


def _number(value: Any) -> float:
    return int(value) if np.issubdtype(type(value), np.integer) else float(value)
