"""Outlines of a made face for all frames of a video at once, and the painter that puts one frame on a canvas.

Letters: N frames, P points of an outline. Coordinates are pixels of the 112 px crop, x to the right, y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float64]

SIZE_PX = 112
MIDDLE = SIZE_PX / 2
SUPERSAMPLING = 2  # shapes are painted at twice the size and averaged down: smooth edges, moves below a pixel seen


@dataclass(frozen=True, slots=True)
class Shape:
    """A filled outline, or where `width` (pixels) is not 0 a line; `points` [N, P, 2], `colour` [N, 3] or [3]."""

    points: Floats
    colour: Floats
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Strokes:
    """A `Shape` ready for the painter: flat lists of coordinates and colours, one a frame."""

    points: list[list[float]]
    colours: list[tuple[int, int, int]]
    width: int


def points(x: Floats, y: Floats) -> Floats:
    """x and y, each [N, P] or [P], as [N, P, 2] (N = 1 where nothing moves)."""
    x, y = np.broadcast_arrays(np.atleast_2d(x), np.atleast_2d(y))
    return np.stack([x, y], axis=-1)


def ring(upper: Floats, lower: Floats) -> Floats:
    """The outline between two curves [N, P, 2] that run the same way."""
    return np.concatenate(np.broadcast_arrays(upper, lower[:, ::-1]), axis=1)


def oval(x: Floats | float, y: Floats | float, width: Floats | float, height: Floats | float) -> Floats:
    """An ellipse [N, 18, 2] around x, y (each [N, 1] or a number) with half axes `width` and `height`."""
    angle = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    return points(x + width * np.cos(angle), y + height * np.sin(angle))


def ready(shapes: Sequence[Shape], count: int, transform: Floats) -> list[Strokes]:
    """Shapes under the [N, 2, 3] affine `transform` of each of `count` frames, in canvas pixels."""
    strokes = []
    for shape in shapes:
        spread = np.broadcast_to(shape.points, (count, *shape.points.shape[1:]))
        moved = spread @ transform[:, :, :2].swapaxes(1, 2) + transform[:, None, :, 2]
        colours = np.broadcast_to(shape.colour, (count, 3)).clip(0, 255).astype(int)
        strokes.append(
            Strokes(
                points=(moved.reshape(count, -1) * SUPERSAMPLING).tolist(),
                colours=[(r, g, b) for r, g, b in colours.tolist()],
                width=round(shape.width * SUPERSAMPLING),
            )
        )
    return strokes


def paint(strokes: Sequence[Strokes], frame: int, canvas: Image.Image) -> NDArray[np.uint8]:
    """Frame number `frame` of the strokes over a canvas, which is painted on, as [112, 112, 3] RGB."""
    draw = ImageDraw.Draw(canvas)
    for stroke in strokes:
        if stroke.width:
            draw.line(stroke.points[frame], fill=stroke.colours[frame], width=stroke.width)
        else:
            draw.polygon(stroke.points[frame], fill=stroke.colours[frame])
    return np.asarray(canvas.reduce(SUPERSAMPLING))
