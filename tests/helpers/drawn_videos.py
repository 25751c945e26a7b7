"""Videos of drawn faces, and a detector that finds them: a face is a square of red, green or blue on grey.

The detector is an entry point of the group "mtl.detectors", as that of another package is: `install` makes the package.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from extract.video.alignment import ARCFACE
from extract.video.detectors import Detections

Box = tuple[int, int, int, int]
RED, GREEN, BLUE = 0, 1, 2
WIDTH, HEIGHT = 96, 64
PACKAGE = "drawn-faces"
# Where the points of a box lie in it: those of the template in the square that holds the face.
POINTS = (np.array(ARCFACE) - 20) / 80


class DrawnDetector:
    """Finds the squares; `digest` is that of the argument, so that another argument is another detector."""

    name = "drawn"

    def __init__(self, pause_s: float = 0.0, digest: str = "d") -> None:
        self.pause_s, self.digest = pause_s, digest

    def detect(self, rgb: np.ndarray) -> Detections:
        time.sleep(self.pause_s)
        boxes = [box for colour in (RED, GREEN, BLUE) if (box := _box(rgb, colour)) is not None]
        found = np.array(boxes, np.float32).reshape(-1, 4)
        return Detections(found, np.full(len(found), 0.9, np.float32), points_in(found))


class WholeDetector(DrawnDetector):
    """Takes every picture for a face that fills it."""

    def detect(self, rgb: np.ndarray) -> Detections:
        height, width = rgb.shape[:2]
        boxes = np.array([[0, 0, width, height]], np.float32)
        return Detections(boxes, np.full(1, 0.9, np.float32), points_in(boxes))


class WrongDetector(DrawnDetector):
    """Gives what are no detections."""

    def detect(self, rgb: np.ndarray) -> Detections:
        return Detections(np.zeros((2, 4)), np.zeros(1), np.zeros((2, 5, 2)))


def load(argument: str, folder: Path) -> DrawnDetector:
    """The detector "drawn:ARGUMENT": whole, wrong, broken, or the seconds it takes for a picture."""
    if argument == "broken":
        raise RuntimeError("out of order")
    if argument == "wrong":
        return WrongDetector()
    return WholeDetector() if argument == "whole" else DrawnDetector(float(argument or 0), digest=f"d{argument}")


def install(folder: Path) -> Path:
    """A package in `folder`, to be put on the path, that has the detector "drawn"."""
    info = folder / "drawn_faces-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mtl.detectors]\ndrawn = helpers.drawn_videos:load\n")
    return folder


def points_in(boxes: np.ndarray) -> np.ndarray:
    """[n, 5, 2] of boxes [n, 4]."""
    sides = boxes[:, None, 2:] - boxes[:, None, :2]
    return (boxes[:, None, :2] + POINTS * sides).astype(np.float32)


def drawn(faces: Iterable[tuple[int, Box]], size: tuple[int, int] = (HEIGHT, WIDTH), grey: int = 90) -> np.ndarray:
    """[H, W, 3] with a square of its colour for each face."""
    picture = np.full((*size, 3), grey, np.uint8)
    for colour, (x0, y0, x1, y1) in faces:
        picture[y0:y1, x0:x1] = 20
        picture[y0:y1, x0:x1, colour] = 230
    return picture


def moving(number: int) -> np.ndarray:
    """A frame in which one face moves to the right, a pixel a frame, to and fro."""
    x = 10 + abs(number % 80 - 40)
    return drawn([(RED, (x, 16, x + 32, 48))])


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    rate: int = 25,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    form: str | None = None,
    prepare: Callable[[av.VideoFrame], av.VideoFrame] | None = None,
) -> Path:
    """`frames` [H, W, 3] as a video; `times` in thousandths of a second, else `rate` frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"qscale": "2", **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index, frame in enumerate(frames):
            made = av.VideoFrame.from_ndarray(frame, format="rgb24")
            made = prepare(made) if prepare else made
            if times is not None:
                made.pts, made.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return path


def _box(rgb: np.ndarray, colour: int) -> Box | None:
    others = [channel for channel in range(3) if channel != colour]
    mask = (rgb[..., colour] > 150) & (rgb[..., others].max(-1) < 110)
    ys, xs = np.nonzero(mask)
    if len(xs) < 16:
        return None
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
