"""A video file as decoded frames, front to back: strict about damage, never over the network, turned upright.

What a video of crops (`extract.faces.video`) and an ordinary one (`extract.video.frames`) have in common. Place: below
both, above `extract.faces.cut`. PyAV is an optional extra.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cache.regular import check_regular
from extract.faces.cut import missing_bytes
from extract.faces.orientation import UPRIGHT, Orientations, orientation_of_matrix

# Without it decoders guess what is damaged and say nothing.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
# A playlist that calls itself .mp4 may name any address.
NO_NETWORK = {"protocol_whitelist": "file"}


class NoDecoder(ValueError):
    """PyAV is not installed: no fault of any video."""


def pyav() -> Any:
    """The package; imported here, since few need it and it need not be installed."""
    try:
        import av
        import av.video.reformatter
    except ImportError:
        raise NoDecoder('frames of a video need PyAV: pip install "mtl-affect[video]"') from None
    return av


def open_container(path: str, formats: Sequence[str] = ()) -> Any:
    """PyAV's container of the file, of one of `formats` where any are given; raises what PyAV raises."""
    allowed = {"format_whitelist": ",".join(formats)} if formats else {}
    return pyav().open(path, container_options=NO_NETWORK | allowed)


def make_strict(stream: Any) -> None:
    """To be called before the first packet is decoded. One thread is fastest at a face's size, and errors come at the
    frame they belong to."""
    stream.codec_context.options = STRICT
    stream.codec_context.thread_count = 1


def cut_off(path: str) -> str | None:
    """What a video file lacks at its end by its own account; None for nothing.

    Raises:
        ValueError: it is no regular file.
        OSError: it cannot be read.
    """
    check_regular(path)
    num_bytes = missing_bytes(path)
    return f"the video is cut off: {num_bytes:,} bytes or more are missing at its end" if num_bytes else None


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames in order. Raises ValueError, or PyAV's errors, at the first one that is not whole."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError("cut off")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise ValueError("guessed in part")
            yield frame


class ToRgb:
    """Frames as [H, W, 3] uint8 RGB, upright. One for each open file: a new conversion a frame takes ten times it."""

    def __init__(self, orientations: Orientations) -> None:
        self._orientations = orientations
        self._reformatter = pyav().video.reformatter.VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        pixels: np.ndarray = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return self._orientations.turned(pixels, orientation(frame)) if self._orientations.follow else pixels


def orientation(frame: Any) -> int:
    """That of the display matrix that comes with a frame, as EXIF counts them."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if matrix is None else orientation_of_matrix(np.frombuffer(matrix, np.int32).reshape(3, 3))
