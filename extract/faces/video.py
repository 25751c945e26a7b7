"""A video already cropped to the face, whose frames are the faces; decoded front to back, never by seeking.

Frames are counted as they are decoded, from 1, so `00001.jpg` is the first frame, as in Aff-Wild2's crops. Times in the
file and a variable frame rate do not count. Pixels are what ffmpeg's plain conversion to RGB gives, turned as the file
asks of players, in steps of 90 degrees. A file that is shorter than its own elements say is cut off, and says so behind
its last frame (`extract.faces.cut`). From the first error on nothing is a face, since decoders carry damage into the
frames behind; damage that a decoder does not notice (few videos have checksums) shows only against a digest taken
before it.

Place: beside `extract.faces.archives`, below `extract.faces.containers`. PyAV is an optional extra.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from cache.identity import FACE_DIGEST_BYTES, bytes_digest
from extract.faces import decoder
from extract.faces.decoding import FOLLOW, Face, MissingFace, check_size, is_machines
from extract.faces.orientation import Orientations

NUMBER = re.compile(r"([0-9]+)[^0-9]*$")
READ_BYTES = 1 << 20


class Video:
    """The frames of one video file. Opened by the first question; asked in ascending order it decodes each frame once.

    A frame number below the last one asked for begins again at the front. Any thread may ask, one at a time decodes.
    """

    def __init__(self, path: str, orientations: Orientations = FOLLOW) -> None:
        self.path = path
        self._orientations = orientations
        self._lock = threading.Lock()
        self._digest: bytes | None = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._position = 0  # frames decoded since the front
        self._end: tuple[int, str] | None = None  # where known: number of whole frames, and why there are no more
        self._fault: str | None = None  # why it cannot be opened
        self._cut: str | None = None  # what is missing at its end
        self._to_rgb: Any = None

    def face(self, name: str) -> Face:
        """The frame whose number is in `name`, such as `00001.jpg`. One that cannot be decoded, or lies beyond the
        end, is a face too, whose pixels cannot be had: so digests need no decoding.

        Raises:
            ValueError: no number, or no video that can be opened.
            OSError: as faces do.
        """
        number = frame_number(name)
        with self._lock:
            digest = self._digest_of(number)
            frame = self._frame(number)
        return Face(digest, partial(_refuse, frame) if isinstance(frame, str) else partial(_copied, frame))

    def digest(self, name: str) -> bytes:
        """[16] bytes of the digest of the whole file's bytes (taken once) and the frame's number. Raises as `face`."""
        number = frame_number(name)
        with self._lock:
            return self._digest_of(number)

    def has(self, name: str) -> bool:
        """Whether the video can be opened and begins before the frame; only decoding tells where it ends."""
        try:
            number = frame_number(name)
            with self._lock:
                self._require_open()
                return self._end is None or number <= self._end[0]
        except ValueError:
            return False

    def names(self) -> tuple[list[str], str | None]:
        """`00001.jpg` and so on for every frame that can be decoded, and why these may not be all of them."""
        with self._lock:
            try:
                self._require_open()
            except ValueError as error:
                return [], str(error)
            while self._end is None:
                self._next()
            num_frames, why = self._end
        is_whole = num_frames and why == _ends(num_frames)  # not where `_cut` or damage ended it
        return [f"{number:05d}.jpg" for number in range(1, num_frames + 1)], None if is_whole else why

    def close(self) -> None:
        self._frames = iter(())  # first: a decoder in use must not lose its file
        if self._container is not None:
            self._container.close()
            self._container = None

    def _digest_of(self, number: int) -> bytes:
        self._require_open()
        if self._digest is None:
            self._digest = _file_digest(self.path)
        return bytes_digest(self._digest + b"%d" % number)

    def _require_open(self) -> None:
        if self._container is None and self._end is None:
            self._open()

    def _frame(self, number: int) -> np.ndarray | str:
        """[H, W, 3], or why there is none."""
        if self._end is not None and number > self._end[0]:
            return self._end[1]
        if number <= self._position:
            self.close()
        if self._container is None:
            self._open()
        frame: Any = None
        while self._position < number:
            frame = self._next()
            if self._end is not None and frame is None:
                return self._end[1]
        return self._rgb(frame)

    def _open(self) -> None:
        """Raises ValueError: PyAV is not installed, or the file is no video it knows."""
        if self._fault:
            raise ValueError(self._fault)
        to_rgb = decoder.ToRgb(self._orientations)
        try:
            self._cut = self._cut_off()
            self._container = decoder.open_container(self.path)
            stream = self._container.streams.best("video")
            check_size(stream.codec_context.width, stream.codec_context.height)
            decoder.make_strict(stream)
        except Exception as error:  # FFmpegError of several kinds; AttributeError where there is sound only
            self.close()
            if is_machines(error) or isinstance(error, MemoryError):
                raise
            self._fault = str(error) if type(error) is ValueError else self._why_closed()
            raise ValueError(self._fault) from None
        self._frames = decoder.decoded(self._container, stream)
        self._position = 0
        self._to_rgb = to_rgb

    def _cut_off(self) -> str | None:
        """What it lacks at its end. Raises ValueError where it is no regular file."""
        try:
            return decoder.cut_off(self.path)
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"{self.path}: ")) from None

    def _why_closed(self) -> str:
        return self._cut or "the video cannot be opened: damaged, or no video"

    def _next(self) -> Any:
        """The next frame; None, with `_end` set, where there is none."""
        try:
            frame = next(self._frames, None)
        except Exception as error:  # FFmpegError of several kinds; all mean that decoding cannot go on
            if is_machines(error) or isinstance(error, MemoryError):
                self.close()
                raise
            return self._stop(self._cut or f"the video is damaged from frame {self._position + 1} on")
        if frame is None:
            return self._stop(self._cut or _ends(self._position))
        self._position += 1
        return frame

    def _stop(self, why: str) -> None:
        self._end = (self._position, why)
        self.close()

    def _rgb(self, frame: Any) -> np.ndarray | str:
        try:
            check_size(frame.width, frame.height)
            pixels: np.ndarray = self._to_rgb(frame)
            return pixels
        except ValueError as error:
            return str(error)


def frame_number(name: str) -> int:
    """The frame that a face's name means: its last number, counted from 1.

    Raises:
        MissingFace: the name has no number above 0.
    """
    found = NUMBER.search(os.path.splitext(name)[0])
    if found is None or int(found[1]) == 0:
        raise MissingFace(f"{name} names no frame of a video; these are counted from 1")
    return int(found[1])


def _file_digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=FACE_DIGEST_BYTES)
    try:
        with open(path, "rb", buffering=0) as file:
            while data := file.read(READ_BYTES):
                digest.update(data)
    except OSError as error:
        if is_machines(error):
            raise
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return digest.digest()


def _ends(num_frames: int) -> str:
    return f"the video has only {num_frames} frame{'' if num_frames == 1 else 's'}"


def _copied(pixels: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None or out.shape != pixels.shape:
        return pixels
    out[:] = pixels
    return out


def _refuse(why: str, out: np.ndarray | None) -> np.ndarray:
    raise ValueError(why)
