"""What is seen in a source, frame after frame, before anything is predicted: crops of faces, and where they are."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

UNKNOWN = -1  # the number of a face that nobody tracked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedFace:
    """One face of a frame: its `crop` [H, W, 3] uint8, or why there is none in `fault`.

    `face` is its number in the video, the same in every frame of a track. `box` is x0, y0, x1, y1 in pixels of the
    frame, None for a crop that was made elsewhere.
    """

    crop: np.ndarray | None
    face: int = UNKNOWN
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedFrame:
    """A frame of the video `video`. `time_s` is None where the source does not say; `state` gives, as JSON values, what
    `Unit.frames` resumes behind this frame with."""

    video: str
    frame: int
    faces: tuple[ObservedFace, ...]
    time_s: float | None = None
    state: Callable[[], Any] = lambda: None


class Unit(Protocol):
    """A part of a source that is observed, kept and resumed as one: a video file, or a folder of pictures.

    `time_unit` says what the heads count time in: "frames" by frame numbers, "seconds" by `time_s`. `is_detected`:
    faces are looked for, which keeps a core busy. `origin` is, as JSON values, what decides its frames.
    """

    name: str
    num_frames: int | None
    time_unit: str
    is_detected: bool
    origin: Mapping[str, Any]
    why_ended: str  # once all frames were given: why these may not be all there should be; "" where they are

    def frames(self, done: int, state: Any) -> Generator[ObservedFrame, None, None]:
        """The frames behind the first `done`, whose last had the `state`; all of them for 0 and None."""
