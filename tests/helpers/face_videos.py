"""Videos with made faces, and a detector that finds them: a face is a square with a white edge on a grey ground.

`face_videos CALLS SIGNAL CHUNK WORDS...` is `mtl WORDS...` with that detector, in chunks of CHUNK frames, in which this
very process gets SIGNAL when it has written so many files of work; 0 calls: never.
"""

import os
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from extract.video import detectors
from extract.video.alignment import ARCFACE, TEMPLATE_PX
from extract.video.found import Detections
from helpers.small_faces import draw
from pipelines import chunk_files
from pipelines.cli import main as mtl
from pipelines.predict import observe

SIDE = 40
GROUND = 90
Faces = Callable[[int], Sequence[tuple[int, int, int]]]


class Squares:
    """Finds the squares by their white edges, in columns of pictures: no two of them may share one."""

    name, digest = "squares", "1"

    def detect(self, rgb: np.ndarray) -> Detections:
        white = (rgb >= 250).all(axis=2)
        columns = np.flatnonzero(white.sum(axis=0) > SIDE // 2)
        groups = np.split(columns, np.flatnonzero(np.diff(columns) > SIDE) + 1) if len(columns) else []
        boxes = []
        for each in groups:
            rows = np.flatnonzero(white[:, each].any(axis=1))
            boxes.append((each[0], rows[0], each[-1] + 1, rows[-1] + 1))
        found = np.array(boxes, np.float32).reshape(-1, 4)
        scale = (found[:, 2] - found[:, 0])[:, None, None] / TEMPLATE_PX
        points = found[:, None, :2] + np.array(ARCFACE, np.float32) * scale
        return Detections(found, np.full(len(found), 0.9, np.float32), points.astype(np.float32))


def register() -> None:
    detectors.DETECTORS["squares"] = lambda argument, folder: Squares()


def one_face(number: int) -> list[tuple[int, int, int]]:
    """A face that moves a little, in every frame."""
    return [(20 + number % 10, 15, number % 4)]


def picture(faces: Sequence[tuple[int, int, int]], size: tuple[int, int], seed: int) -> np.ndarray:
    """[H, W, 3] with `faces`: x, y and which expression they have."""
    pixels = np.full((*size, 3), GROUND, np.uint8)
    rng = np.random.default_rng(seed)
    for x, y, expression in faces:
        face = draw(expression, seed % 2, 0.0, rng).clip(0, 245)
        square = np.full((SIDE, SIDE, 3), 255, np.uint8)
        square[4:36, 4:36] = face
        pixels[y : y + SIDE, x : x + SIDE] = square
    return pixels


def make_face_video(
    path: Path,
    num_frames: int = 20,
    faces: Faces = one_face,
    *,
    size: tuple[int, int] = (72, 160),
    rate: int = 30,
    times_s: Sequence[float] | None = None,
    codec: str = "ffv1",
) -> Path:
    """Frame n (from 1) shows `faces(n)`, at its place in `times_s` where these are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 1000) if times_s else Fraction(1, rate)
        for number in range(1, num_frames + 1):
            frame = av.VideoFrame.from_ndarray(picture(faces(number), size, number), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(times_s[number - 1] * 1000) if times_s else number - 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def main() -> None:
    calls, number, chunk, *words = sys.argv[1:]
    register()
    observe.CHUNK_FRAMES = int(chunk)
    done, write = 0, chunk_files.write_durably

    def counted(*arguments: Any) -> None:
        nonlocal done
        write(*arguments)
        done += 1
        if done == int(calls):
            os.kill(os.getpid(), int(number))

    chunk_files.write_durably = counted
    sys.argv = ["mtl", *words]
    mtl()
