"""Pixels as the bytes of a picture file, for reports."""

import io

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
