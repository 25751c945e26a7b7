"""`extract.backbones.resize` for faces of one size as two matrix products, to the level: what an ONNX file can hold.

torch resizes uint8 in whole numbers: across, rounded, then down, rounded, each with weights of 16 bits (ATen's
UpSampleKernel), and Pillow, for faces above `MAX_PIXELS`, with weights of 22 bits after the point (Resample.c). The
sums of such products are exact in float64, so the levels are the same.
Letters: B faces, H side of the face files, S side of the input in pixels.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones.resize import MAX_PIXELS, resized_side
from extract.backbones.transforms import is_untouched
from extract.config import Preprocessing

PILLOW_BITS = 22  # of a weight, after the point
TOO_LARGE = 2**15  # for torch's weights


class ExactResize(nn.Module):
    """Faces [B, H, H, 3] uint8 -> [B, S, S, 3] float32 of whole levels."""

    weights: Tensor

    def __init__(self, preprocessing: Preprocessing, face_px: int) -> None:
        """Raises ValueError for a preprocessing that is no resizing by such weights (nearest neighbours, borders)."""
        super().__init__()
        found = resized_side(preprocessing, face_px)
        if found is None:
            raise ValueError(
                f"interpolation {preprocessing.interpolation!r} with crop_mode {preprocessing.crop_mode!r} cannot be "
                "exported; make the faces of the backbone's own size, or use bicubic or bilinear with center or squash"
            )
        side, interpolation = found
        self.is_needed = not is_untouched(preprocessing, (face_px, face_px))
        weights, bits = whole_weights(face_px, side, interpolation, by_pillow=face_px**2 > MAX_PIXELS)
        self.unit = 2.0**bits
        self.register_buffer("weights", torch.from_numpy(cut(weights, preprocessing.size_px)).double())

    def forward(self, faces: Tensor) -> Tensor:
        if not self.is_needed:
            return faces.float()
        x = faces.permute(0, 3, 1, 2).double()
        across = self._levels(x @ self.weights.T)
        return self._levels(self.weights @ across).float().permute(0, 2, 3, 1)

    def _levels(self, sums: Tensor) -> Tensor:
        return (sums / self.unit + 0.5).floor().clamp(0, 255)


def whole_weights(old: int, new: int, interpolation: str, *, by_pillow: bool) -> tuple[np.ndarray, int]:
    """Weights [new, old] of an antialiased resizing as whole numbers, and by how many bits they are shifted."""
    kernel, reach = KERNELS[interpolation]
    scale = old / new
    stretch = max(scale, 1.0)
    support = reach * stretch
    weights = np.zeros((new, old))
    for place in range(new):
        centre = scale * (place + 0.5)
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), old)
        values = np.array([kernel((each - centre + 0.5) / stretch) for each in range(first, last)])
        weights[place, first:last] = values / values.sum()
    bits, largest = PILLOW_BITS if by_pillow else 0, weights.max()
    while bits < PILLOW_BITS and int(0.5 + largest * 2 ** (bits + 1)) < TOO_LARGE:
        bits += 1
    return np.trunc(weights * 2**bits + np.copysign(0.5, weights)), bits


def cut(weights: np.ndarray, size: int) -> np.ndarray:
    """The middle `size` rows of `weights`, as torchvision's CenterCrop takes them; zeros where there are fewer."""
    if len(weights) < size:
        before = (size - len(weights)) // 2
        return np.pad(weights, ((before, size - len(weights) - before), (0, 0)))
    first = round((len(weights) - size) / 2.0)
    return weights[first : first + size]


def _bilinear(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _bicubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


KERNELS: dict[str, tuple[Callable[[float], float], float]] = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}
