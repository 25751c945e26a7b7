"""timm's evaluation transform on the device: whole batches of uint8 faces resized as Pillow does, to a level or two.

Pillow rounds to whole levels between its two passes; so does this, which is most of the agreement: one pass in floats
is off by 11 levels where two are off by 2. Letters: B faces, H and W of the face files, S side of the input in pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from torchvision.transforms.v2.functional import center_crop, resize

from extract.backbones.transforms import is_untouched, timm_steps
from extract.config import Preprocessing

Resizer = Callable[[Tensor], Tensor]
# Larger faces are resized one by one while they are loaded: a batch of them would take gigabytes.
MAX_PIXELS = 512 * 512
MODES = {InterpolationMode.BICUBIC: "bicubic", InterpolationMode.BILINEAR: "bilinear"}


def batch_resizer(preprocessing: Preprocessing) -> Resizer | None:
    """Faces [B, H, W, 3] uint8 to [B, S, S, 3] uint8 on their device; None where only timm's own transform will do
    (nearest neighbours, borders)."""
    found = _size_and_mode(timm_steps(preprocessing))
    if found is None:
        return None
    size, mode = found

    def run(faces: Tensor) -> Tensor:
        if is_untouched(preprocessing, (faces.shape[1], faces.shape[2])):
            return faces
        x = faces.permute(0, 3, 1, 2)
        x = resize(x, size, mode, antialias=True) if x.device.type == "cpu" else _in_two_passes(x, size, MODES[mode])
        return center_crop(x, [preprocessing.size_px, preprocessing.size_px]).permute(0, 2, 3, 1).contiguous()

    return run


def resized_side(preprocessing: Preprocessing, face_px: int) -> tuple[int, str] | None:
    """The side to which a square face of `face_px` is resized before its middle is cut out, and the interpolation; None
    where `batch_resizer` is."""
    found = _size_and_mode(timm_steps(preprocessing))
    return None if found is None else (_target(face_px, face_px, found[0])[0], MODES[found[1]])


def _size_and_mode(steps: list[Any]) -> tuple[list[int], InterpolationMode] | None:
    """What a Resize followed by a CenterCrop resizes to: the shorter side, or both."""
    if [type(step) for step in steps] != [Resize, CenterCrop] or steps[0].interpolation not in MODES:
        return None
    size = steps[0].size
    return [size] if isinstance(size, int) else list(size), steps[0].interpolation


def _in_two_passes(x: Tensor, size: list[int], mode: str) -> Tensor:
    """[B, 3, H, W] uint8 resized across, rounded, resized down, rounded; for devices without a kernel for uint8."""
    height, width = _target(x.shape[2], x.shape[3], size)
    across = _rounded(x.to(torch.float32), (x.shape[2], width), mode)
    return _rounded(across, (height, width), mode).to(torch.uint8)


def _rounded(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    out = functional.interpolate(x, size, mode=mode, antialias=True, align_corners=False)
    return out.round_().clamp_(0, 255)


def _target(height: int, width: int, size: list[int]) -> tuple[int, int]:
    """Both sides after resizing; the longer one is cut to a whole pixel, as torchvision does."""
    if len(size) == 2:
        return size[0], size[1]
    short, long = sorted((height, width))
    longer = int(size[0] * long / short)
    return (size[0], longer) if height <= width else (longer, size[0])
