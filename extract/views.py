"""Views: the same faces changed before the backbone, so that heads can train on augmented embeddings.

Crops are no change of an input: their preprocessing cuts them out (`extract.view_names.preprocessing_of`).
An augmentation changes all faces of a video alike, so that it adds no motion that is not there.
Letters: B faces, S side of the input in pixels.
"""

import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from extract.view_names import BASE, HFLIP, RECIPE, crop_share, seed_of

ZOOM, TURN_DEGREES, BRIGHTNESS, CONTRAST = 0.15, 8.0, 0.2, 0.2
MIDDLE_LEVEL = 127.5


def changed(view: str, faces: Tensor, videos: Sequence[str]) -> Tensor:
    """The view of `faces` [B, S, S, 3] uint8, face i of the video `videos[i]`; same shape, same device. They have been
    through the view's own preprocessing."""
    if view == BASE or crop_share(view) < 1:
        return faces
    if view == HFLIP:
        return faces.flip(2)
    draws = np.array([_draws(seed_of(view), video) for video in videos], np.float32)
    return _augmented(faces, torch.from_numpy(draws).to(faces.device, non_blocking=True))


@functools.lru_cache(maxsize=4096)
def _draws(seed: int, video: str) -> tuple[float, ...]:
    """What one augmentation does to one video: a 2 x 3 map of coordinates, then brightness and contrast."""
    digest = hashlib.blake2b(f"{RECIPE} {seed} {video}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    scale = 1 - ZOOM * rng.random()
    turn = math.radians(TURN_DEGREES) * rng.uniform(-1, 1)
    shift_x, shift_y = (1 - scale) * rng.uniform(-1, 1, 2)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    brightness, contrast = 1 + BRIGHTNESS * rng.uniform(-1, 1), 1 + CONTRAST * rng.uniform(-1, 1)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    return (mirror * cos, -sin, shift_x, mirror * sin, cos, shift_y, brightness, contrast)


def _augmented(faces: Tensor, draws: Tensor) -> Tensor:
    """`faces` [B, S, S, 3] uint8 turned, zoomed, shifted, mirrored and in other light, as `draws` [B, 8] say."""
    x = faces.permute(0, 3, 1, 2).to(torch.float32)
    grid = functional.affine_grid(draws[:, :6].view(-1, 2, 3), list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast = draws[:, 6].view(-1, 1, 1, 1), draws[:, 7].view(-1, 1, 1, 1)
    x = ((x - MIDDLE_LEVEL) * contrast + MIDDLE_LEVEL) * brightness
    return x.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
