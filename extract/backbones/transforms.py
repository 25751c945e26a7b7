"""From pixels to a backbone's input: timm's own evaluation transform, cut in two where the device begins.

Letters: B faces, S side of the input in pixels, H and W those of the face file.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from extract.config import Preprocessing


def face_transform(preprocessing: Preprocessing) -> Callable[[np.ndarray], np.ndarray]:
    """timm's own evaluation transform up to the tensor: [H, W, 3] uint8 to [S, S, 3] uint8."""
    steps = timm_steps(preprocessing)

    def transform(face: np.ndarray) -> np.ndarray:
        if is_untouched(preprocessing, face.shape[:2]):
            return face
        image = Image.fromarray(face)
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return transform


def timm_steps(preprocessing: Preprocessing) -> list[Any]:
    """The steps of timm's evaluation transform before the picture becomes a tensor."""
    size_px = preprocessing.size_px
    compose = create_transform(
        input_size=(3, size_px, size_px),
        is_training=False,
        use_prefetcher=True,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    return list(compose.transforms[:-1])


def is_untouched(preprocessing: Preprocessing, size: tuple[int, int]) -> bool:
    """Whether a face of `size` (H, W) goes through the transform as it is."""
    side = preprocessing.size_px
    return size == (side, side) and math.floor(side / preprocessing.crop_pct) == side


def normalise(batch: Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> Tensor:
    """Faces [B, S, S, 3] uint8 as the backbone's input [B, 3, S, S], on their device, in channels-last memory.

    The operations and their order are those of torchvision's ToTensor and Normalize, in float32, so the bits are too.
    They run over whole lines of pixels: three values at a time take five times as long on a CPU.
    """
    num_faces, height, width, _ = batch.shape
    mean, std = _colours(preprocessing.mean, preprocessing.std, width, batch.device)
    lines = batch.reshape(num_faces, height, width * 3).to(torch.float32)
    lines.div_(255).sub_(mean).div_(std)
    return lines.view(num_faces, height, width, 3).permute(0, 3, 1, 2).to(dtype)


@functools.lru_cache(maxsize=32)
def _colours(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each value of a line [S * 3], kept on the device: copying them would stall a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(mean, device=device).repeat(width), torch.tensor(std, device=device).repeat(width)
