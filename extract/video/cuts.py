"""Cuts: where a frame shows another scene than the one before, by the mean difference of pictures of 64 x 36 px."""

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 36
CUT = 27.0  # mean absolute difference of values 0 to 255, as PySceneDetect's threshold for content


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    """[36, 64, 3] uint8 of a picture [H, W, 3] uint8."""
    small = Image.fromarray(rgb).resize((WIDTH, HEIGHT), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(small)


def is_cut(before: np.ndarray | None, now: np.ndarray) -> bool:
    """Whether a cut lies between the frames of two thumbnails; not where there is no frame before."""
    return before is not None and difference(before, now) > CUT


def difference(before: np.ndarray, now: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails, 0 to 255."""
    return float(np.abs(before.astype(np.int16) - now).mean())
