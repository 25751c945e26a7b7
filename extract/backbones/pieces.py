"""Forward passes on a CPU by as many faces as its caches hold the activations of. Letters: B faces, D width."""

from collections.abc import Callable

import torch
from torch import Tensor

# Pixels of the faces of one piece on one or two threads, each more pair has as many. EfficientNet-B0 in bfloat16 takes
# 3.7 ms of CPU time per face at 112 px by 32, and 4.5 by 64 (two threads).
EAGER_PIXELS = 32 * 112**2
# ONNX Runtime wants fewer: EfficientNet-B0 takes 3.4 ms per face at 112 px by 8 and 4.1 by 64, at 224 px 12.0 by 2 and
# 18.3 by 16; ConvNeXt-T at 112 px 24.9 by 8 and 29.8 by 64.
ONNX_PIXELS = 8 * 112**2


def piece_of(size_px: int, pixels: int) -> int:
    """How many faces of `size_px` have about so many `pixels`, or those of all threads: a power of two, so that few
    sizes come up."""
    num_faces = pixels * max(1, torch.get_num_threads() // 2) // size_px**2
    return 1 << max(0, num_faces.bit_length() - 1)


def by_pieces(forward: Callable[[Tensor], Tensor], num_faces: int) -> Callable[[Tensor], Tensor]:
    """The pass from faces [B, ..] to [B, D], over at most so many of them at a time."""

    def embed(faces: Tensor) -> Tensor:
        if len(faces) <= num_faces:
            return forward(faces)
        return torch.cat([forward(piece) for piece in faces.split(num_faces)])

    return embed
