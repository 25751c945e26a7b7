"""Forward passes on a CPU by as many faces as its caches hold the activations of. Letters: B faces, D width."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Bytes of the largest activation of all faces of a pass on one or two threads; each more pair has as many.
# EfficientNet-B0 at 112 px, two threads, ms of CPU time per face: 5.8 in float32 in place of 8.6 by 64 faces. Light
# models lose by small pieces: MobileNetV3-S/2 takes 0.60 ms by 32 and 0.48 by 64.
EAGER_BYTES = 20_000_000
# ONNX Runtime wants fewer: EfficientNet-B0 takes 3.5 ms by 8 and 4.5 by 64, at 224 px 12.0 by 2 and 18.3 by 16 (one
# thread); ConvNeXt-T at 112 px 24.9 by 8 and 29.8 by 64 (one thread).
ONNX_BYTES = 10_000_000
# Of an ONNX file, whose activations nobody sees: as of EfficientNet-B0, by the faces' size.
BYTES_PER_PIXEL = 96


def piece_of(face_bytes: int, num_bytes: int) -> int:
    """How many faces with `face_bytes` each have at most `num_bytes` per pair of threads: a power of two, so that few
    sizes come up."""
    num_faces = num_bytes * max(1, torch.get_num_threads() // 2) // max(1, face_bytes)
    return 1 << max(0, num_faces.bit_length() - 1)


def by_pieces(forward: Callable[[Tensor], Tensor], num_faces: int) -> Callable[[Tensor], Tensor]:
    """The pass from faces [B, ..] to [B, D], over at most so many of them at a time."""

    def embed(faces: Tensor) -> Tensor:
        if len(faces) <= num_faces:
            return forward(faces)
        return torch.cat([forward(piece) for piece in faces.split(num_faces)])

    return embed


def largest_output(module: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of the largest tensor that a part of the module gives while `forward` runs."""
    sizes = [0]

    def note(part: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [part.register_forward_hook(note) for part in module.modules()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)
