"""Backbones on a device: the runtime they were given, and the forward pass from uint8 faces to embeddings.

Letters: B faces, D width, S side of the input in pixels.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from extract.backbones import passes
from extract.backbones.build import Backbone
from extract.backbones.onnx_pass import onnx
from extract.backbones.passes import DTYPES, ForwardPass, Precision

Mode = Literal["eager", "compiled", "graph", "onnx"]
KeyT = TypeVar("KeyT", bound=Hashable)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How a backbone runs; part of a stream's provenance, because each way rounds in its own way."""

    precision: Precision = "float32"
    mode: Mode = "eager"

    def __post_init__(self) -> None:
        for value, known, what in ((self.precision, DTYPES, "precision"), (self.mode, MODES, "runtime")):
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"{what} {value!r} is unknown; known: {', '.join(known)}")

    def __str__(self) -> str:
        return f"{self.precision} {self.mode}"

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Runtime":
        """From a stream's provenance; what older streams do not say was eager, and float32.

        Raises:
            ValueError: an unknown precision or mode.
        """
        return cls(precision=values.get("precision", "float32"), mode=values.get("mode", "eager"))


class Embedder:
    """Faces [B, S, S, 3] uint8 on the device -> embeddings [B, D] of the backbone's dtype there; any B.

    `limit` is the number of faces of one forward pass: the batch size, halved each time the device's memory did not
    hold a pass, for good.
    """

    def __init__(self, backbone: Backbone, runtime: Runtime, device: torch.device, batch_size: int) -> None:
        self.limit = batch_size
        self._backbone, self._runtime, self._device = backbone, runtime, device
        self._forward: ForwardPass | None = None
        while self._forward is None:
            self._forward = self._tried(self._build)

    def __call__(self, faces: Tensor) -> Tensor:
        parts: list[Tensor] = []
        done = 0
        while done < len(faces) or not parts:
            part = self._tried(lambda: self._embed(faces[done : done + self.limit]))  # noqa: B023 (called at once)
            if part is not None:
                parts.append(part)
                done += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _build(self) -> ForwardPass:
        return MODES[self._runtime.mode](self._backbone, self._runtime.precision, self._device, self.limit)

    def _embed(self, faces: Tensor) -> Tensor:
        if self._forward is None:  # compiled or recorded for more faces than there is memory for
            self._forward = self._build()
        return self._forward(faces)

    def _tried(self, action: Callable[[], ResultT]) -> ResultT | None:
        """The action's result; None if it ran out of memory, the limit being halved."""
        try:
            return action()
        except (RuntimeError, MemoryError) as error:
            if not passes.is_out_of_memory(error):
                raise
        # Not inside the except clause, where the traceback still holds the tensors of the failed pass.
        self._halve()
        return None

    def _halve(self) -> None:
        if self.limit == 1:
            raise OSError(
                f"{self._backbone.name}: the memory of {self._device} does not hold one face of "
                f"{self._backbone.preprocessing.size_px} px; end other programs, lower --batch-size, or take a smaller "
                "model or size_px"
            )
        self.limit //= 2
        self._forward = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


# What was compiled, exported or recorded, from its calibration to the end of the extraction: again takes a minute.
_KEPT: dict[tuple[Backbone, Runtime, torch.device, int], Embedder] = {}


def embedder(backbone: Backbone, runtime: Runtime, device: torch.device, batch_size: int) -> Embedder:
    """Moves the backbone to the device and makes it ready, which compiles or records it where the runtime says so.

    Raises:
        Unavailable: it cannot be compiled, recorded or exported.
        OSError: the device's memory does not hold it.
    """
    if runtime.mode == "eager":
        return Embedder(backbone, runtime, device, batch_size)
    key = (backbone, runtime, device, batch_size)
    if key not in _KEPT:
        _KEPT[key] = Embedder(*key)
    return _KEPT[key]


def forget(backbone: Backbone, runtime: Runtime, device: torch.device) -> None:
    """Lets go what was compiled or recorded for this backbone in this way."""
    for key in [key for key in _KEPT if key[:3] == (backbone, runtime, device)]:
        _KEPT.pop(key, None)


def release(device: torch.device) -> None:
    """Lets go all that was compiled or recorded for the device."""
    for key in [key for key in _KEPT if key[2] == device]:
        _KEPT.pop(key, None)


@contextlib.contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """Around all forward passes of a part: weights are cast once and not each batch; on CUDA the kernels are the same
    every time, and there is no TF32 behind the name float32."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))  # autocast forgets its casts at the outermost
        if device.type == "cuda":
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(flags)
        yield


class Ticket(Generic[KeyT]):
    """Embeddings on their way back to the host; on a GPU the copy runs while the next batch is handed over."""

    def __init__(self, outputs: Mapping[KeyT, Tensor], device: torch.device) -> None:
        pin_memory = device.type == "cuda"
        self._host = {
            name: torch.empty(output.shape, dtype=output.dtype, pin_memory=pin_memory).copy_(output, non_blocking=True)
            for name, output in outputs.items()
        }
        self._event = torch.cuda.current_stream(device).record_event() if pin_memory else None

    def embeddings(self) -> dict[KeyT, np.ndarray]:
        """Waits; key of the outputs -> [B, D]. From here on the batch's buffers may be filled again."""
        if self._event is not None:
            self._event.synchronize()
        return {name: host.numpy() for name, host in self._host.items()}


MODES: dict[Mode, Callable[[Backbone, Precision, torch.device, int], ForwardPass]] = {
    "eager": passes.eager,
    "compiled": passes.compiled,
    "graph": passes.graph,
    "onnx": onnx,
}
