"""What a detector found in a picture, checked; and overlap of boxes. Place: below all of `extract.video`."""

from dataclasses import dataclass

import numpy as np

NUM_POINTS = 5
MOST_PX = 1e6  # off the origin of a picture: farther off are no coordinates of pixels


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """n faces: `boxes` [n, 4] x0 y0 x1 y1, `scores` [n], `points` [n, 5, 2], in pixels, float32."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> "Detections":
        """Those of the indices or the mask `rows`."""
        return Detections(self.boxes[rows], self.scores[rows], self.points[rows])

    def scaled(self, x: float, y: float) -> "Detections":
        """The same in a picture that is so many times as wide and as high."""
        scale = np.array([x, y], np.float32)
        return Detections(self.boxes * np.tile(scale, 2), self.scores, self.points * scale)


NONE = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, NUM_POINTS, 2), np.float32))


def checked(found: Detections, name: str) -> Detections:
    """`found` as float32; raises ValueError where shapes or values are not those of detections: names the detector."""
    try:
        arrays = [np.asarray(each, np.float32) for each in (found.boxes, found.scores, found.points)]
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"detector {name}: gave no boxes, scores and points of numbers") from None
    num = len(arrays[0]) if arrays[0].ndim else 0
    if [each.shape for each in arrays] != [(num, 4), (num,), (num, NUM_POINTS, 2)]:
        raise ValueError(
            f"detector {name}: gave boxes, scores and points of shapes {', '.join(str(each.shape) for each in arrays)};"
            f" wanted [n, 4], [n] and [n, {NUM_POINTS}, 2]"
        )
    if not all((np.abs(each) <= MOST_PX).all() for each in arrays):
        raise ValueError(f"detector {name}: gave values that are not finite, or no pixels")
    boxes, _, points = arrays
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"detector {name}: gave a box that ends before it starts; wanted x0 y0 x1 y1")
    if (np.ptp(points, axis=1) == 0).all(axis=1).any():
        raise ValueError(f"detector {name}: gave {NUM_POINTS} points that all lie in one place")
    return Detections(*arrays)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    union = _areas(a)[:, None] + _areas(b)[None] - both
    return np.where(union > 0, both / np.maximum(union, 1e-9), 0.0)


def without_overlap(found: Detections, most: float) -> Detections:
    """Non-maximum suppression: of boxes that overlap by more than `most` the one of the highest score is kept."""
    order = np.argsort(-found.scores, kind="stable")
    over = overlaps(found.boxes[order], found.boxes[order]) > most
    kept: list[int] = []
    for row in range(len(order)):
        if not over[row, kept].any():
            kept.append(row)
    return found.take(order[kept])


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)
