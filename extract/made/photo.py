"""The camera of a made video: head motion, light, blur, a passing hand, sensor noise, and the JPEG file.

Letters: N listed frames, A movements.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from extract.made.face import face_shapes
from extract.made.person import Person
from extract.made.shapes import MIDDLE, SIZE_PX, SUPERSAMPLING, Floats, Shape, oval, paint, points, ready
from extract.made.signal import Ints, slow_noise

QUALITY = 90
ZOOM = 1.16  # the crop is as tight as the official one: forehead to chin
CANVAS_PX = SIZE_PX * SUPERSAMPLING
BLUR_RATE = 0.05
HAND_RATE_PER_FRAME = 1 / 400  # a hand comes into view about every 400 real frames ...
HAND_FRAMES = (15, 70)  # ... and stays for this long


@dataclass(frozen=True, slots=True)
class Scene:
    """What one video adds to its subject: the background, the room's light, how restless the head is, the sensor."""

    background: Image.Image
    shade: NDArray[np.float32]
    restless: float
    noise: float


def make_scene(rng: Generator) -> Scene:
    """A scene, drawn at random."""
    colour = rng.uniform(80, 170) + rng.normal(0, 10, 3)
    blobs = np.clip(colour + rng.normal(0, 9, (8, 8, 3)), 0, 255).astype(np.uint8)
    background = Image.fromarray(blobs).resize((2 * CANVAS_PX, 2 * CANVAS_PX), Image.Resampling.BICUBIC)
    away = (np.arange(SIZE_PX) - MIDDLE) / MIDDLE
    form = 1.03 - 0.20 * (away[None, :] ** 2 * 1.2 + away[:, None] ** 2 * 0.6)
    tint = rng.uniform(0.93, 1.05, 3)
    return Scene(
        background=background,
        shade=(form[..., None] * tint).astype(np.float32),
        restless=float(rng.uniform(0.6, 1.4)),
        noise=float(rng.uniform(2.0, 5.0)),
    )


def photograph(rng: Generator, person: Person, scene: Scene, movements: Floats, frames: Ints) -> Iterator[bytes]:
    """The JPEG bytes of each listed frame.

    Args:
        movements: [N, A] as they are in the frames.
        frames: [N] real frame numbers: head, light and hand change with them.
    """
    motion = slow_noise(rng, int(frames[-1]) + 1, 15.0, 9)[frames]
    turn, nod = 2.0 * scene.restless * motion[:, 0], 1.0 * scene.restless * motion[:, 1]
    transform = _pose(rng, scene.restless, motion)
    face = ready(face_shapes(person, movements, turn, nod), len(frames), transform)
    hand = ready(_hand(rng, person, frames), len(frames), transform)
    hidden = _hand_there(rng, frames)
    light = 0.16 * motion[:, 6:8], 1 + 0.08 * motion[:, 8]
    for i in range(len(frames)):
        left, top = rng.integers(0, CANVAS_PX, 2).tolist()
        background = scene.background.crop((left, top, left + CANVAS_PX, top + CANVAS_PX))
        image = paint(face + hand if hidden[i] else face, i, background)
        if rng.random() < BLUR_RATE * scene.restless:
            image = _blur(rng, image)
        lit = image * (scene.shade * _slope(light[0][i], light[1][i]))
        lit += scene.noise * rng.standard_normal(image.shape, dtype=np.float32)
        yield simplejpeg.encode_jpeg(np.clip(lit, 0, 255).astype(np.uint8), quality=QUALITY, colorsubsampling="420")


def _pose(rng: Generator, restless: float, motion: Floats) -> Floats:
    """[N, 2, 3] what alignment leaves over: slow rotation, scale and shift, and a trembling of the landmarks."""
    tremble = rng.normal(0, 1, (len(motion), 4))
    angle = np.deg2rad(1.8 * restless * motion[:, 2] + 0.4 * tremble[:, 0])
    scale = ZOOM * (1 + 0.015 * motion[:, 3] + 0.005 * tremble[:, 1])
    linear = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    linear = linear * scale[:, None, None]
    centre = np.array([MIDDLE, MIDDLE])
    shift = centre - linear @ centre + 1.0 * motion[:, 4:6] + 0.4 * tremble[:, 2:4]
    return np.concatenate([linear, shift[..., None]], axis=-1)


def _slope(direction: Floats, exposure: float) -> NDArray[np.float32]:
    """[112, 112, 1] light that falls off along `direction` (right, down), times the exposure."""
    away = (np.arange(SIZE_PX) - MIDDLE) / MIDDLE
    slope = exposure * (1 + direction[0] * away[None, :] + direction[1] * away[:, None])
    return np.clip(slope, 0.25, 1.7)[..., None].astype(np.float32)


def _blur(rng: Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Motion blur over five pixels along one of four directions."""
    upright = np.tile(np.eye(5)[2], (5, 1))
    lines = (np.eye(5), np.eye(5)[::-1], upright, upright.T)
    kernel = lines[rng.integers(len(lines))].ravel().tolist()
    return np.asarray(Image.fromarray(image).filter(ImageFilter.Kernel((5, 5), kernel)))


def _hand_there(rng: Generator, frames: Ints) -> NDArray[np.bool_]:
    """[N] whether a hand is before the face."""
    there = np.zeros(int(frames[-1]) + 1, dtype=bool)
    for start in np.flatnonzero(rng.random(len(there)) < HAND_RATE_PER_FRAME):
        there[start : start + rng.integers(*HAND_FRAMES)] = True
    return there[frames]


def _hand(rng: Generator, person: Person, frames: Ints) -> list[Shape]:
    """Four fingers and a palm, which wander about the cheek, the mouth or the chin."""
    way = slow_noise(rng, int(frames[-1]) + 1, 40.0, 2)[frames]
    side = 1.0 if rng.random() < 0.5 else -1.0
    x, y = MIDDLE + side * (20 + 10 * way[:, :1]), 88 + 9 * way[:, 1:]
    lean = side * rng.uniform(0.2, 0.6)
    shapes = []
    for finger in range(4):
        start = x + side * (7.5 * finger - 10)
        length = (22, 26, 25, 19)[finger]
        line = points(start + np.array([0, -lean * length]), y + np.array([22.0, -length * 0.8]))
        for size, tone in ((8.5, 0.72), (7.0, 0.93)):
            tip = oval(line[:, 1:, 0], line[:, 1:, 1], size / 2, size / 2)
            shapes += [Shape(line, person.skin * tone, size), Shape(tip, person.skin * tone)]
    palm = points(x + side * np.array([-16.0, 20, 24, -18]), y + np.array([14.0, 14, 50, 50]))
    return [*shapes, Shape(palm, person.skin * 0.90)]
