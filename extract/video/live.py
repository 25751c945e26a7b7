"""Frames as they come: of a camera, or of a video file at the pace at which it plays. Only the newest is had; those
that came while nobody asked are dropped and counted.

Place: beside `extract.video.faces`, above `extract.video.frames`.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extract.faces import decoder
from extract.faces.decoding import FOLLOW
from extract.faces.orientation import Orientations
from extract.video.frames import VideoFrame, open_video

# How ffmpeg calls the cameras of a system, and the first of them.
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none"), "win32": ("dshow", "video={}")}


@dataclass(frozen=True, slots=True, eq=False)
class LiveFrame:
    """A frame, and when it came (`time.monotonic`)."""

    frame: VideoFrame
    came_s: float


class LiveFrames:
    """The frames of `source`: the number of a camera, or the path of a video. A context manager; iterates once.

    `num_dropped` counts the frames that came while the one before was being worked on.
    """

    def __init__(self, source: str, orientations: Orientations = FOLLOW) -> None:
        """
        Raises:
            ValueError: there is no such camera or video, or PyAV is not installed.
        """
        self.num_dropped = 0
        self.is_camera = source.isdecimal() and not os.path.exists(source)
        self._reader: Any = _Camera(int(source)) if self.is_camera else open_video(source, orientations)
        self._newest: LiveFrame | None = None
        self._changed = threading.Condition()
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)

    def __enter__(self) -> "LiveFrames":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join()
        self._reader.close()

    def __iter__(self) -> Iterator[LiveFrame]:
        while True:
            with self._changed:
                while self._newest is None and not self._is_over:
                    self._changed.wait()
                if self._newest is None:
                    if self._error is not None:
                        raise self._error
                    return
                found, self._newest = self._newest, None
            yield found

    @property
    def why_ended(self) -> str | None:
        """Why the video ended before its end; None for a whole one, and for a camera."""
        return None if self.is_camera else self._reader.why_ended

    def _run(self) -> None:
        began_s, first_s = time.monotonic(), None
        try:
            for frame in self._reader:
                if not self.is_camera:
                    first_s = frame.time_s if first_s is None else first_s
                    self._wait_until(began_s + frame.time_s - first_s)
                with self._changed:
                    if self._is_over:
                        return
                    self.num_dropped += self._newest is not None
                    self._newest = LiveFrame(frame, time.monotonic())
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _wait_until(self, when_s: float) -> None:
        with self._changed:
            while not self._is_over and (left_s := when_s - time.monotonic()) > 0:
                self._changed.wait(left_s)


class _Camera:
    """The frames of the camera of that number."""

    def __init__(self, number: int) -> None:
        av = decoder.pyav()
        kind, name = CAMERAS.get(sys.platform, CAMERAS["linux"])
        place = name.format(number)
        try:
            self._container = av.open(place, format=kind)
            self._stream = self._container.streams.video[0]
        except Exception as error:  # FFmpegError and OSError of several kinds
            why = getattr(error, "strerror", None) or type(error).__name__
            raise ValueError(
                f"camera {number} ({place}): cannot be opened: {why}; name another number or a video"
            ) from None
        self._to_rgb = decoder.ToRgb(FOLLOW)

    def __iter__(self) -> Iterator[VideoFrame]:
        began_s = time.monotonic()
        for number, frame in enumerate(self._container.decode(self._stream), 1):
            yield VideoFrame(number, time.monotonic() - began_s, self._to_rgb(frame))

    def close(self) -> None:
        self._container.close()
