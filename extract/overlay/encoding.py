"""A video file written frame by frame, each at its own time. Letters: H x W pixels.

H.264 in MP4, which every browser and player shows; MPEG-4 where this build of ffmpeg has no H.264. No sound.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from extract.faces.decoder import pyav

CODECS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
TICKS = 90_000  # per second, as in MPEG: exact for every usual rate
MARK = b"mtl predict --overlay"  # in the file, so that it can be told from others


class VideoWriter:
    """The file at `path`, of frames of `size` (H, W); sides are cut to even ones, which H.264 wants. A context manager:
    the file is a video once it is left without an error."""

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        self._av: Any = pyav()
        self._height, self._width = (side // 2 * 2 for side in size)
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._container.metadata["comment"] = MARK.decode()
        name = next(name for name in CODECS if name in self._av.codecs_available)
        stream = self._container.add_stream(name, rate=Fraction(rate).limit_denominator(1001), options=CODECS[name])
        stream.width, stream.height, stream.pix_fmt = self._width, self._height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream, self._last = stream, -1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def add(self, pixels: np.ndarray, time_s: float) -> None:
        """A frame [H, W, 3] uint8 at `time_s`; of two at one time the second comes a moment later."""
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels[: self._height, : self._width]), format="rgb24"
        )
        self._last = max(self._last + 1, round(time_s * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))
