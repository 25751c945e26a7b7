"""The faces of an ordinary video, frame by frame: decoded, detected, tracked, aligned.

A thread decodes and another detects, a few frames ahead of whoever consumes them (PyAV and onnxruntime leave the GIL),
so memory does not grow with the video. Every frame brings the state from which the next one follows: with it, what was
killed resumes and gives the same.
"""

import base64
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extract.faces.decoding import FOLLOW
from extract.faces.orientation import Orientations
from extract.video.ahead import ahead
from extract.video.cuts import HEIGHT, WIDTH, is_cut, thumbnail
from extract.video.finder import FaceFinder
from extract.video.frames import VideoFrame, VideoReader, open_video
from extract.video.tracking import Tracker

DEPTH = 4  # frames: of 4K they are 25 MB each


@dataclass(frozen=True, slots=True, eq=False)
class FoundFace:
    """A face of a frame: the id of its track, its `box` x0 y0 x1 y1 and `points` [5, 2] in pixels of the frame, the
    detector's score, and the aligned crop [S, S, 3] uint8 RGB."""

    face: int
    box: np.ndarray
    score: float
    points: np.ndarray
    crop: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class VideoState:
    """What is known behind frame `number`: the tracks, and the thumbnail [36, 64, 3] to which the next is compared."""

    number: int
    tracker: Mapping[str, Any]
    thumbnail: np.ndarray | None

    def to_json(self) -> dict[str, Any]:
        packed = None if self.thumbnail is None else base64.b64encode(self.thumbnail.tobytes()).decode()
        return {"number": self.number, "tracker": dict(self.tracker), "thumbnail": packed}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VideoState":
        packed = values["thumbnail"]
        pixels = None if packed is None else np.frombuffer(base64.b64decode(packed), np.uint8).reshape(HEIGHT, WIDTH, 3)
        return cls(values["number"], values["tracker"], pixels)


START = VideoState(0, {"num_ids": 0, "tracks": []}, None)


@dataclass(frozen=True, slots=True, eq=False)
class FrameFaces:
    """A frame: its number from 1, its time in seconds, its size (H, W), its faces, whether a cut lies before it, and
    the state behind it. `pixels` [H, W, 3] are those of the whole frame."""

    number: int
    time_s: float
    size: tuple[int, int]
    faces: tuple[FoundFace, ...]
    is_cut: bool
    state: VideoState
    pixels: np.ndarray

    def without_pixels(self) -> "FrameFaces":
        """To be kept where many frames are."""
        return replace(self, pixels=self.pixels[:0, :0].copy())


class FoundFaces:
    """The frames of one video with their faces; made by `found_faces`. Iterates once; to be closed (`with`).

    `rate`, `num_frames` and `why_ended` are those of `VideoReader`.
    """

    def __init__(self, reader: VideoReader, finder: FaceFinder, resume: VideoState) -> None:
        self._reader, self._finder, self._resume = reader, finder, resume
        self._frames = self._run()

    def __enter__(self) -> "FoundFaces":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[FrameFaces]:
        return self._frames

    @property
    def rate(self) -> float | None:
        return self._reader.rate

    @property
    def num_frames(self) -> int | None:
        return self._reader.num_frames

    @property
    def why_ended(self) -> str | None:
        return self._reader.why_ended

    def close(self) -> None:
        """Ends the threads and closes the file."""
        self._frames.close()
        self._reader.close()

    def _run(self) -> Generator[FrameFaces]:
        frames = ahead(self._reader.frames(self._resume.number + 1), DEPTH, "decoding")
        with closing(ahead(self._found(frames), DEPTH, "detection")) as found:
            yield from found

    def _found(self, frames: Generator[VideoFrame]) -> Generator[FrameFaces]:
        before, tracker = self._resume.thumbnail, Tracker.from_json(self._resume.tracker)
        with closing(frames):
            for frame in frames:
                small = self._finder.reduced(frame.pixels)
                now = thumbnail(small)
                cut = is_cut(before, now)
                yield self._frame(frame, small, tracker, cut, now)
                before = now

    def _frame(self, frame: VideoFrame, small: np.ndarray, tracker: Tracker, cut: bool, now: np.ndarray) -> FrameFaces:
        found = self._finder.find(frame.pixels, small)
        ids = tracker.update(found.boxes, cut)
        faces = tuple(
            FoundFace(face, box, float(score), points, self._finder.crop(frame.pixels, points))
            for face, box, score, points in zip(ids, found.boxes, found.scores, found.points, strict=True)
        )
        state = VideoState(frame.number, tracker.to_json(), now)
        height, width = frame.pixels.shape[:2]
        return FrameFaces(frame.number, frame.time_s, (height, width), faces, cut, state, frame.pixels)


def found_faces(
    path: str | os.PathLike[str],
    finder: FaceFinder,
    resume: VideoState = START,
    orientations: Orientations = FOLLOW,
) -> FoundFaces:
    """The frames of the video at `path` behind those that `resume` knows, with their faces.

    Raises:
        ValueError: no video that can be read, as `open_video`.
    """
    return FoundFaces(open_video(path, orientations), finder, resume)
