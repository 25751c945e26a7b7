"""Who is in a made video: a subject's colours and geometry, and the parts of a head that no action unit moves.

Letters: A movements (made_signal.MOVEMENTS). Lengths are pixels of the 112 px crop.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from extract.made.shapes import MIDDLE, Floats, Shape, oval, points
from extract.made.signal import MOVEMENTS

SKINS = (
    (255, 224, 200),
    (246, 205, 175),
    (232, 184, 148),
    (205, 150, 112),
    (164, 112, 78),
    (120, 78, 54),
    (86, 56, 42),
)
HAIRS = ((24, 20, 18), (58, 38, 26), (100, 66, 38), (150, 104, 56), (206, 168, 104), (150, 70, 36), (150, 148, 146))
IRISES = ((70, 46, 28), (92, 64, 36), (86, 112, 76), (90, 130, 164), (60, 60, 66))
STYLES = ("short", "short", "long", "fringe", "bald")
GLASSES = ("none", "none", "none", "none", "none", "none", "round", "square")
BEARDS = ("none", "none", "none", "none", "stubble", "stubble", "full", "moustache")
# By how much (one standard deviation) a resting face looks as if a unit were active or relaxed. One frame cannot tell
# this from the movement itself; the person's own course over time can.
RESTING = {
    "AU1": 0.20,
    "AU2": 0.20,
    "AU4": 0.24,
    "AU6": 0.19,
    "AU7": 0.20,
    "AU10": 0.17,
    "AU12": 0.16,
    "AU15": 0.20,
    "AU23": 0.17,
    "AU24": 0.13,
    "AU25": 0.11,
    "AU26": 0.11,
    "AU5": 0.13,
    "AU9": 0.08,
    "AU20": 0.15,
    "AU45": 0.00,
    "AU53": 0.15,
    "AU54": 0.15,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One subject. Colours are [3] RGB; `rest` [A] are movements that the resting face already seems to make."""

    skin: Floats
    hair: Floats
    iris: Floats
    lips: Floats
    width: float
    chin: float
    jaw: float
    eye_gap: float
    eye_size: float
    eye_open: float
    eye_tilt: float
    brow_height: float
    brow_size: float
    brow_arch: float
    nose_tip: float
    nose_size: float
    mouth_y: float
    mouth_size: float
    lip_upper: float
    lip_lower: float
    hairline: float
    lines: float
    style: str
    beard: str
    glasses: str
    rest: Floats

    def crease(self, strength: Floats | float, tone: float = 0.45) -> Floats:
        """Skin darkened by a crease of `strength` [N, 1] in 0..1: at 0 it cannot be seen."""
        return self.skin * (1 - tone * np.clip(strength, 0, 1) * np.array([0.8, 1.0, 1.05]))


def make_person(rng: Generator) -> Person:
    """A subject, drawn at random."""
    skin = _between(rng, SKINS)
    return Person(
        skin=skin,
        hair=_between(rng, HAIRS),
        iris=np.array(IRISES[rng.integers(len(IRISES))], dtype=float),
        lips=skin * (0.86, 0.60, 0.60) + rng.uniform(-12, 12, 3),
        width=rng.uniform(36, 43),
        chin=rng.uniform(101, 107),
        jaw=rng.uniform(0.55, 0.95),
        eye_gap=rng.uniform(17.5, 19.5),
        eye_size=rng.uniform(7.2, 9.2),
        eye_open=rng.uniform(3.4, 4.8),
        eye_tilt=rng.uniform(-1.2, 1.2),
        brow_height=rng.uniform(10.0, 12.0),
        brow_size=rng.uniform(1.3, 2.6),
        brow_arch=rng.uniform(0.6, 2.6),
        nose_tip=rng.uniform(64, 68),
        nose_size=rng.uniform(6.0, 8.6),
        mouth_y=rng.uniform(82, 86),
        mouth_size=rng.uniform(13.5, 16.5),
        lip_upper=rng.uniform(2.0, 3.2),
        lip_lower=rng.uniform(2.8, 4.2),
        hairline=rng.uniform(14, 21),
        lines=rng.uniform(0, 0.3),
        style=str(rng.choice(STYLES)),
        beard=str(rng.choice(BEARDS)),
        glasses=str(rng.choice(GLASSES)),
        rest=rng.normal(0, [RESTING[name] for name in MOVEMENTS]).clip(-0.45, 0.65),
    )


def behind(person: Person) -> list[Shape]:
    """Long hair, neck, collar and ears."""
    w = person.width
    shapes = []
    if person.style == "long":
        x = MIDDLE + np.array([-0.8, -1.05, -1.2, -1.26, -1.2, 1.2, 1.26, 1.2, 1.05, 0.8]) * w
        y = np.array([12.0, 22, 40, 80, 125, 125, 80, 40, 22, 12])
        shapes.append(Shape(points(x, y), person.hair * 0.8))
    x = MIDDLE + np.array([-0.5, 0.5, 0.58, 1.2, -1.2, -0.58]) * w
    shapes.append(Shape(points(x, np.array([84.0, 84, 108, 125, 125, 108])), person.skin * 0.74))
    shapes += [Shape(oval(MIDDLE + side * (w + 1.5), 56.0, 4.5, 9.0), person.skin * 0.84) for side in (-1, 1)]
    return shapes


def hair(person: Person) -> list[Shape]:
    """The hair on top: from temple to temple over the crown, back along the hairline."""
    if person.style == "bald":
        return []
    w, line = person.width, person.hairline
    crown = np.linspace(-np.pi, 0, 15)
    top = points(MIDDLE + 1.07 * w * np.cos(crown), 44 + (44 - 2.0) * np.sin(crown))
    u = np.linspace(1, -1, 13)
    low = line + 22 * np.abs(u) ** 3.5
    if person.style == "fringe":
        low = line + 9 + 16 * np.abs(u) ** 4 + 1.5 * np.sin(9 * u)
    front = points(MIDDLE + 0.99 * w * u, low)
    parting = points(MIDDLE + w * np.array([-0.35, -0.3, -0.1]), np.array([line + 1, 10.0, 4.0]))
    return [Shape(np.concatenate([top, front], axis=1), person.hair), Shape(parting, person.hair * 1.25, 1.0)]


def glasses(person: Person) -> list[Shape]:
    """Frames around the eyes, bridge and temples."""
    if person.glasses == "none":
        return []
    colour = np.array([40.0, 36, 40])
    shapes = []
    for side in (-1, 1):
        centre = MIDDLE + side * person.eye_gap
        rim = oval(centre, 48.0, 12.0, 9.5)
        if person.glasses == "square":
            x = centre + np.array([-12.0, 12, 11.5, -11.5])
            rim = points(x, np.array([40.0, 40, 57, 57]))
        shapes.append(Shape(np.concatenate([rim, rim[:, :1]], axis=1), colour, 1.3))
        x = np.array([centre + side * 12, MIDDLE + side * person.width])
        shapes.append(Shape(points(x, np.array([46.0, 47.0])), colour, 1.3))
    inner = person.eye_gap - 12
    return [*shapes, Shape(points(MIDDLE + np.array([-inner, 0, inner]), np.array([46.5, 45, 46.5])), colour, 1.3)]


def _between(rng: Generator, palette: tuple[tuple[int, int, int], ...]) -> Floats:
    """A colour between two neighbours of a palette."""
    at = rng.uniform(0, len(palette) - 1.001)
    low, high = np.array(palette[int(at)]), np.array(palette[int(at) + 1])
    return np.asarray(low + (high - low) * (at % 1) + rng.uniform(-6, 6, 3))
