"""Alignment: where the five points of a face lie in its crop, and the crop.

A crop is the picture under the similarity transform (turn, scale, shift) that brings the detected points nearest to the
template's, by least squares (Umeyama 1991), sampled bilinearly as OpenCV's warpAffine does; black outside the picture.
Pixel centres are whole numbers. Letters: S side of a crop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from extract.video.found import NUM_POINTS

Points = tuple[tuple[float, float], ...]
ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
# Of crops of 112 px; other sizes are multiples.
TEMPLATES: dict[str, Points] = {"arcface": ARCFACE}
TEMPLATE_PX = 112
SAME_PX = 0.05  # points that differ by less are the same
MIN_SIDE_PX, MAX_SIDE_PX = 16, 1024


@dataclass(frozen=True, slots=True)
class Template:
    """The side of the crops, and where the points lie in them: 5 times x, y in pixels."""

    size_px: int = TEMPLATE_PX
    points: Points = ARCFACE

    def __post_init__(self) -> None:
        if not MIN_SIDE_PX <= self.size_px <= MAX_SIDE_PX:
            raise ValueError(f"a crop of {self.size_px} px; expected {MIN_SIDE_PX} to {MAX_SIDE_PX}")
        if np.shape(self.points) != (NUM_POINTS, 2) or not np.isfinite(self.points).all():
            raise ValueError(f"a template is {NUM_POINTS} points, each [x, y] in pixels of the crop")
        if np.linalg.norm(np.ptp(self.points, axis=0)) < 1:
            raise ValueError("the points of the template all lie in one place")

    @classmethod
    def named(cls, name: str, size_px: int = TEMPLATE_PX) -> "Template":
        """The template of that name, for crops of `size_px`."""
        if name not in TEMPLATES:
            raise ValueError(f"template {name!r} is unknown; known: {', '.join(TEMPLATES)}, or 5 points [x, y]")
        scale = size_px / TEMPLATE_PX
        return cls(size_px, tuple((x * scale, y * scale) for x, y in TEMPLATES[name]))

    @property
    def name(self) -> str | None:
        """That of the known template it is."""
        known = (name for name in TEMPLATES if self.distance_px(Template.named(name, self.size_px)) < SAME_PX)
        return next(known, None)

    def distance_px(self, other: "Template") -> float:
        """The greatest distance of two points, in pixels of crops of 112 px."""
        mine, others = (np.array(each.points) * TEMPLATE_PX / each.size_px for each in (self, other))
        return float(np.linalg.norm(mine - others, axis=1).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """All that decides which crops come of a picture: two crops are comparable where this is the same. A digest is ""
    where nobody knows the detector's weights."""

    template: Template
    detector: str
    detector_digest: str
    long_side_px: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "template": {"size_px": self.template.size_px, "points": [list(each) for each in self.template.points]}
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Alignment":
        """What `to_json` gave. Raises ValueError where it is not that."""
        try:
            template = Template(
                int(values["template"]["size_px"]),
                tuple((float(x), float(y)) for x, y in values["template"]["points"]),
            )
            rest = {key: str(values[key]) for key in ("detector", "detector_digest")}
            return cls(template=template, long_side_px=int(values["long_side_px"]), **rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an alignment: {type(error).__name__} {error}") from None

    def differences(self, other: "Alignment") -> list[str]:
        """What differs in `other`, each in a few words; empty where crops of both may be mixed."""
        found = []
        if self.template.size_px != other.template.size_px:
            found.append(f"crops of {self.template.size_px} px, not {other.template.size_px}")
        distance_px = self.template.distance_px(other.template)
        if distance_px >= SAME_PX:
            found.append(f"templates that differ by up to {distance_px:.1f} px at {TEMPLATE_PX} px")
        if self.detector != other.detector:
            found.append(f"detector {self.detector}, not {other.detector}")
        elif self.detector_digest != other.detector_digest and self.detector_digest and other.detector_digest:
            found.append(f"other weights of the detector {self.detector}")
        if self.long_side_px != other.long_side_px:
            found.append(f"detection at {self.long_side_px} px, not {other.long_side_px}")
        return found


def similarity(points: np.ndarray, onto: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """[2, 3]: the turn, scale and shift that bring `points` [n, 2] nearest to `onto` [n, 2], by least squares."""
    source, target = np.asarray(points, np.float64), np.asarray(onto, np.float64)
    middle, goal = source.mean(0), target.mean(0)
    (x, y), (u, v) = (source - middle).T, (target - goal).T
    square = (x * x + y * y).sum()
    if square <= 0:
        raise ValueError("points that all lie in one place have no alignment")
    a, b = (x * u + y * v).sum() / square, (x * v - y * u).sum() / square
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, goal - turn @ middle])


def align(rgb: np.ndarray, points: np.ndarray, template: Template) -> np.ndarray:
    """The crop [S, S, 3] uint8 of the face whose `points` [5, 2] lie in the picture `rgb` [H, W, 3] uint8."""
    inverse = _inverse(similarity(points, template.points))
    size = template.size_px
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    # Only the part of the picture that the crop shows is handed over; Pillow would copy all of it.
    low = np.clip(np.floor(corners.min(0)).astype(int) - 2, 0, None)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 3, (rgb.shape[1], rgb.shape[0]))
    if (high <= low).any():
        return np.zeros((size, size, 3), np.uint8)
    part = Image.fromarray(rgb[low[1] : high[1], low[0] : high[0]])
    # Pillow's coordinates are of corners of pixels, half a pixel off those of centres.
    shift = inverse[:, 2] - low - inverse[:, :2] @ (0.5, 0.5) + 0.5
    matrix = np.column_stack([inverse[:, :2], shift]).reshape(-1).tolist()
    made = part.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.array(made)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])
