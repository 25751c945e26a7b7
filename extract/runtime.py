"""Backbones on a device: which precision pays, and the forward pass from uint8 faces to float16 embeddings.

Letters: B faces, D width, S side of the input in pixels.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones import Backbone
from extract.config import Preprocessing
from extract.transforms import normalise

Precision = Literal["float32", "bfloat16"]

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Below this many faces the trial costs more than it saves; above, bfloat16 must save this much to be worth its
# rounding, and enough for the answer to be the same each time.
CALIBRATION_FACES, CALIBRATION_BATCH, CALIBRATION_GAIN = 2000, 8, 1.3


def choose_precision(backbone: Backbone, num_faces: int, device: torch.device) -> Precision:
    """bfloat16 where it pays: on GPUs made for it, and on CPUs where a short trial shows it."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    if num_faces < CALIBRATION_FACES:
        return "float32"
    gain = _seconds(backbone, "float32", device) / _seconds(backbone, "bfloat16", device)
    return "bfloat16" if gain >= CALIBRATION_GAIN else "float32"


def _seconds(backbone: Backbone, precision: Precision, device: torch.device) -> float:
    """The shortest of three forward passes after one to warm up."""
    size_px = backbone.preprocessing.size_px
    embed = prepared(backbone, precision, device)
    faces = torch.zeros(CALIBRATION_BATCH, size_px, size_px, 3, dtype=torch.uint8)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        embed(faces)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def prepared(backbone: Backbone, precision: Precision, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Moves the backbone to the device; returns faces [B, S, S, 3] uint8 there -> embeddings [B, D] float16."""
    # Faces come as [B, S, S, 3], which is channels-last already: convolutions on it need no reordering.
    module: nn.Module = backbone.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mixed = precision != "float32"

    def embed(faces: Tensor) -> Tensor:
        x = normalise(faces, backbone.preprocessing, torch.float32)
        with torch.inference_mode(), torch.autocast(device.type, DTYPES[precision], enabled=mixed):
            return module(x).to(torch.float16)

    return embed


@contextlib.contextmanager
def one_pass(device: torch.device) -> Iterator[None]:
    """Around all forward passes of an extraction: weights are cast once and not each batch; on CUDA the kernels are
    the same every time, and there is no TF32 behind the name float32."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))  # autocast forgets its casts at the outermost
        if device.type == "cuda":
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(flags)
        yield


class Ticket:
    """Embeddings on their way back to the host; on a GPU the work goes on while the next batch is handed over."""

    def __init__(self, outputs: Mapping[str, Tensor], device: torch.device) -> None:
        pin_memory = device.type == "cuda"
        self._host = {
            name: torch.empty(output.shape, dtype=output.dtype, pin_memory=pin_memory).copy_(output, non_blocking=True)
            for name, output in outputs.items()
        }
        self._event = torch.cuda.current_stream(device).record_event() if pin_memory else None

    def embeddings(self) -> dict[str, np.ndarray]:
        """Waits; name of the backbone -> [B, D] float16. From here on the batch's buffers may be filled again."""
        if self._event is not None:
            self._event.synchronize()
        return {name: host.numpy() for name, host in self._host.items()}


def to_device(faces: Mapping[Preprocessing, Tensor], count: int, device: torch.device) -> dict[Preprocessing, Tensor]:
    """The first `count` faces of each input on the device; on the CPU without copying."""
    return {key: tensor[:count].to(device, non_blocking=True) for key, tensor in faces.items()}
