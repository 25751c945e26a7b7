"""An ordinary video, front to back: its frames with their times.

The time of a frame is its presentation time in the file, so a variable frame rate counts as it is. Pixels are what
ffmpeg's plain conversion to 8-bit RGB gives, upright as players show them. Nothing is taken for a frame from the first
damage on: what came before it is kept, and `VideoReader.why_ended` says why there is no more.

Place: above `extract.faces.decoder`, below `extract.video.faces`.
"""

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.regular import KIB
from extract.faces import decoder
from extract.faces.decoding import FOLLOW, is_machines
from extract.faces.orientation import Orientations

MAX_PIXELS = 1 << 26  # 8192 x 8192; an 8K video has half of it
START_BYTES = 4 * KIB
# What a list of addresses or of other files begins with, and what it is.
PLAYLISTS = {
    b"#EXTM3U": "an HLS or M3U playlist",
    b"ffconcat version": "a list of files for ffmpeg",
    b"[playlist]": "a PLS playlist",
    b"<MPD": "a DASH manifest",
    b"<smil": "a SMIL playlist",
    b"<ASX": "an ASX playlist",
    b"<asx": "an ASX playlist",
    b"v=0\r\n": "a description of a stream (SDP)",
    b"v=0\n": "a description of a stream (SDP)",
}
# Demuxers that read one file holding one recording; not those that follow lists, devices or numbered pictures.
FORMATS = (
    *("3gp", "aac", "aiff", "amr", "asf", "avi", "dv", "flac", "flv", "gif", "h264", "hevc", "ivf", "m4v", "matroska"),
    *("mjpeg", "mov", "mp3", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "ogg", "rm", "vc1", "w64", "wav"),
    *("webm", "wtv", "yuv4mpegpipe", "obu", "av1"),
)


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """A frame: its `number` from 1, its time in seconds, and its pixels [H, W, 3] uint8 RGB, upright."""

    number: int
    time_s: float
    pixels: np.ndarray


class VideoReader:
    """An open video; made by `open_video`. Iterates once; one thread at a time.

    `rate` is the mean number of frames per second and `num_frames` an estimate, by the file's own account; both None
    where it gives none. `size` is (H, W) before turning. `why_ended` is None until all frames were read, and then only
    where these may not be all of the video.
    """

    def __init__(self, path: str, container: Any, stream: Any, cut: str | None, orientations: Orientations) -> None:
        self.path = path
        self.rate = _positive(stream.average_rate) or _positive(stream.guessed_rate)
        self.num_frames = _num_frames(container, stream, self.rate)
        self.size = stream.codec_context.height, stream.codec_context.width
        self.why_ended: str | None = None
        self._container, self._stream, self._cut = container, stream, cut
        self._to_rgb = decoder.ToRgb(orientations)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        return self.frames()

    def frames(self, first: int = 1) -> Generator[VideoFrame]:
        """The frames from number `first` on; those before it are decoded and not converted.

        Raises:
            ValueError: not one frame of the video can be decoded; names the file.
            OSError: the machine is out of memory or open files.
        """
        number = 0
        for number, frame in enumerate(self._decoded(), 1):
            if number >= first:
                yield VideoFrame(number, self._time_s(frame, number), self._to_rgb(frame))
        if not number:
            raise ValueError(f"{self.path}: {self.why_ended or 'the video has no frames'}")

    def close(self) -> None:
        self._container.close()

    def _decoded(self) -> Iterator[Any]:
        number = 1
        try:
            for frame in decoder.decoded(self._container, self._stream):
                _check_size(frame.width, frame.height)
                yield frame
                number += 1
        except Exception as error:  # FFmpegError of several kinds; all mean that decoding cannot go on
            if is_machines(error) or isinstance(error, MemoryError):
                raise
            self.why_ended = self._cut or f"the video is damaged from frame {number} on"
            return
        self.why_ended = self._cut

    def _time_s(self, frame: Any, number: int) -> float:
        if frame.pts is not None and frame.time_base is not None:
            return float(frame.pts * frame.time_base)
        return (number - 1) / (self.rate or 25.0)  # ffmpeg's own guess for files that say nothing


def open_video(path: str | os.PathLike[str], orientations: Orientations = FOLLOW) -> VideoReader:
    """The video at `path`, to be closed by the caller (`with`).

    Raises:
        ValueError: PyAV is not installed, or the file is missing, no video (a playlist, sound alone, a picture), or
            damaged at its front; one line that names the file.
    """
    path = os.fspath(path)
    decoder.pyav()
    cut = _checked(path)
    container = None
    try:
        container = decoder.open_container(path, FORMATS)
        stream = _video_stream(container)
        _check_size(stream.codec_context.width, stream.codec_context.height)
        decoder.make_strict(stream)
        return VideoReader(path, container, stream, cut, orientations)
    except Exception as error:  # FFmpegError of several kinds
        if container is not None:
            container.close()
        if is_machines(error) or isinstance(error, MemoryError):
            raise
        why = str(error) if type(error) is ValueError else cut or "cannot be opened: damaged, or no video"
        raise ValueError(f"{path}: {why}") from None


def _checked(path: str) -> str | None:
    """What the file lacks at its end. Raises ValueError where it cannot be a video's."""
    try:
        cut = decoder.cut_off(path)
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        if is_machines(error):
            raise
        raise ValueError(f"{path}: {error.strerror}") from None
    if not start:
        raise ValueError(f"{path}: an empty file")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, what in PLAYLISTS.items():
        if text.startswith(mark) or (text.startswith(b"<") and mark in text):
            raise ValueError(f"{path}: {what}, no video; save what it leads to as one file and give that")
    return cut


def _video_stream(container: Any) -> Any:
    """The best stream of moving pictures. Raises ValueError where there is none."""
    best = container.streams.best("video")
    if best is not None and _is_cover(best):
        best = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
    if best is None:
        raise ValueError("has sound only, no video" if container.streams.audio else "has no video in it")
    if best.codec_context is None:
        raise ValueError("is coded in a way that PyAV cannot decode; convert it, to H.264 for example")
    return best


def _is_cover(stream: Any) -> bool:
    """Whether it is a picture that comes with music."""
    return decoder.pyav().stream.Disposition.attached_pic in stream.disposition


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} px is too large for a video")


def _num_frames(container: Any, stream: Any, rate: float | None) -> int | None:
    if stream.frames:
        return int(stream.frames)
    seconds = _positive(stream.duration and stream.duration * stream.time_base) or _positive(
        container.duration and container.duration / 1e6
    )
    return round(seconds * rate) if seconds and rate else None


def _positive(value: Any) -> float | None:
    return float(value) if value and value > 0 else None
