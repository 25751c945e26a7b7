"""ONNX models as backbones: checked, and run by onnxruntime inside a torch module.

Loading runs no code: the file is read as bytes, libraries of operators are never loaded, and a model whose weights lie
in other files is refused. Letters: B faces, k the batch a model is fixed to, D width, S side of the input in pixels.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from extract.backbones import onnx_session
from extract.backbones.onnx_session import read_onnx, reason
from extract.backbones.pieces import BYTES_PER_PIXEL, ONNX_BYTES, piece_of
from extract.config import ONNX_MODEL, BackboneConfig, Preprocessing

ARCHITECTURE = POOLING = "onnx"
DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
TRIAL_FACES = 2  # one would hide a model that has room for one only
PREPROCESSING_FIELDS = ("interpolation", "crop_pct", "crop_mode")
SCALES = (
    "[0, 0, 0] and [1, 1, 1] for input of 0 to 1, [0.5, 0.5, 0.5] and [0.5, 0.5, 0.5] for -1 to 1, "
    "[0, 0, 0] and three times 0.00392156862745098 (1/255) for 0 to 255"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """The input of a model: [k, 3, S, S], or [k, S, S, 3] where `channels_last`; k and S None where they are free."""

    name: str
    dtype: torch.dtype
    channels_last: bool
    batch: int | None
    size_px: int | None


class OnnxModel(nn.Module):
    """[B, 3, S, S] -> [B, D] float32, run by onnxruntime in the model's own precision; torch's does not matter."""

    def __init__(self, data: bytes, file_name: str, port: Port, output: str) -> None:
        super().__init__()
        self.data, self.file_name, self.port, self.output = data, file_name, port, output
        self._sessions: dict[torch.device, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        session = self._sessions.get(x.device)
        if session is None:
            session = self._sessions[x.device] = open_session(self.data, x.device, self.file_name)
        ready = _arranged(x, self.port)
        free = piece_of(BYTES_PER_PIXEL * x.shape[-1] ** 2, ONNX_BYTES) if x.device.type == "cpu" else len(ready)
        parts = [self._run(session, part) for part in ready.split(self.port.batch or free)]
        return torch.cat(parts).to(x.device, torch.float32)

    def _run(self, session: Any, part: Tensor) -> Tensor:
        """As many embeddings [., D] as faces; the rest of a fixed batch is filled with zeros."""
        num_lacking = max(0, (self.port.batch or 0) - len(part))
        full = functional.pad(part, (0, 0) * 3 + (0, num_lacking)) if num_lacking else part
        try:
            (found,) = session.run([self.output], {self.port.name: full.numpy()})
        except Exception as error:  # as in `open_session`
            kind = MemoryError if "allocate memory" in str(error) else RuntimeError
            raise kind(f"{self.file_name}: onnxruntime: {reason(error)}") from None
        return torch.from_numpy(found.reshape(len(full), -1)[: len(part)])

    def __getstate__(self) -> dict[str, Any]:
        """A copy opens sessions of its own: those of onnxruntime can be neither copied nor pickled."""
        return self.__dict__ | {"_sessions": {}}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedOnnx:
    """An ONNX model ready to run, what it makes of a face, and the digest of its file and output."""

    module: OnnxModel
    preprocessing: Preprocessing
    width: int
    digest: str


def load_onnx(config: BackboneConfig, folder: Path, where: str) -> LoadedOnnx:
    """The model of a section with `model = "onnx:FILE"`; a relative FILE starts at `folder`.

    Raises:
        ValueError: onnxruntime is not installed; no such file, not ONNX, or not all in the one file; its input is not
            one of square RGB faces; size_px, mean, std or output is lacking or wrong.
    """
    path = folder / config.model.removeprefix(ONNX_MODEL)
    if config.weights != BackboneConfig(model="").weights:
        raise ValueError(f"{where}: {path.name} has its weights in it; take the line weights out")
    data = read_onnx(path, where, 'model = "onnx:FILE"')
    session = open_session(data, torch.device("cpu"), path.name, where)
    port = _port(session.get_inputs(), path.name, where)
    preprocessing = _preprocessing(config, port, path.name, where)
    widths = _widths(session, port, preprocessing.size_px, path.name, where)
    output = _chosen(config.output, widths, session, path.name, where)
    digest = hashlib.blake2b(data, digest_size=16)
    digest.update(f"\noutput {output}".encode())
    return LoadedOnnx(
        module=OnnxModel(data, path.name, port, output).eval(),
        preprocessing=preprocessing,
        width=widths[output],
        digest=digest.hexdigest(),
    )


def open_session(data: bytes, device: torch.device, name: str, where: str = "") -> Any:
    """onnxruntime's session on the device, or on the CPU where this onnxruntime has nothing for it; as many threads as
    torch's."""
    providers = _providers(onnx_session.onnxruntime(where), device)
    session = onnx_session.open_session(data, name, where or name, torch.get_num_threads(), providers)
    if device.type != "cpu" and session.get_providers() == ["CPUExecutionProvider"]:
        log.warning("%s runs on the CPU: this onnxruntime cannot use %s; onnxruntime-gpu may", name, device.type)
    return session


def _providers(runtime: Any, device: torch.device) -> list[Any]:
    """Which parts of onnxruntime may run the model, the preferred one first."""
    found: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        index = torch.cuda.current_device() if device.index is None else device.index
        # As torch's float32 here: no TF32, and the same kernels every time.
        options = {"device_id": index, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
        found.insert(0, ("CUDAExecutionProvider", options))
    return found


def _port(inputs: Sequence[Any], name: str, where: str) -> Port:
    """The one input, if it is of RGB faces; whole numbers in its shape are fixed, everything else is free."""
    if len(inputs) != 1:
        raise ValueError(f"{where}: {name} has {len(inputs)} inputs, wanted one, the faces")
    shape = [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape]
    is_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
    if len(shape) != 4 or shape[3 if is_last else 1] not in (3, None):
        raise ValueError(f"{where}: {name} takes {inputs[0].shape}; wanted [B, 3, S, S] or [B, S, S, 3], RGB faces")
    if inputs[0].type not in DTYPES:
        raise ValueError(f"{where}: {name} takes {inputs[0].type}; wanted {' or '.join(DTYPES)}")
    height, width = shape[1:3] if is_last else shape[2:]
    if None not in (height, width) and height != width:
        raise ValueError(f"{where}: {name} takes faces of {height} x {width} px; faces here are square")
    return Port(
        name=inputs[0].name,
        dtype=DTYPES[inputs[0].type],
        channels_last=is_last,
        batch=shape[0],
        size_px=height or width,
    )


def _preprocessing(config: BackboneConfig, port: Port, name: str, where: str) -> Preprocessing:
    """The section's own: an ONNX file says nothing of it but, at times, the size."""
    size_px = config.size_px or port.size_px
    if size_px is None:
        raise ValueError(f"{where}: {name} takes faces of any size; set size_px to the one it was trained with")
    if port.size_px not in (None, size_px):
        raise ValueError(f"{where}: {name} takes faces of {port.size_px} px, not {size_px}; take size_px out")
    if config.mean is None or config.std is None:
        raise ValueError(f"{where}: {name} does not say how its input is scaled; set mean and std: {SCALES}")
    chosen = {key: getattr(config, key) for key in PREPROCESSING_FIELDS if getattr(config, key) is not None}
    chosen |= {"mean": tuple(map(float, config.mean)), "std": tuple(map(float, config.std))}
    try:
        return Preprocessing(size_px=size_px, **chosen)
    except ValueError as error:
        raise ValueError(f"{where}: this preprocessing cannot be used: {error}") from None


def _widths(session: Any, port: Port, size_px: int, name: str, where: str) -> dict[str, int]:
    """Output -> D, of the outputs that give one vector a face, by running the model once."""
    faces = _arranged(torch.zeros(port.batch or TRIAL_FACES, 3, size_px, size_px), port)
    names = [each.name for each in session.get_outputs()]
    try:
        arrays = dict(zip(names, session.run(names, {port.name: faces.numpy()}), strict=True))
    except Exception as error:  # as in `open_session`
        raise ValueError(f"{where}: {name} cannot take faces of {size_px} px ({reason(error)})") from None
    return {
        each: math.prod(array.shape[1:]) for each, array in arrays.items() if _is_one_vector_a_face(array, len(faces))
    }


def _is_one_vector_a_face(array: Any, num_faces: int) -> bool:
    """Whether `array` is [B, D], or a pooled map [B, D, 1, 1] or [B, 1, 1, D], of floating point."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim not in (2, 4):
        return False
    return array.shape[0] == num_faces and sum(size > 1 for size in array.shape[1:]) <= 1


def _chosen(asked: str, widths: dict[str, int], session: Any, name: str, where: str) -> str:
    """The output asked for, or the only one there is."""
    there = ", ".join(f"{each} ({width} wide)" for each, width in widths.items())
    if not there:
        found = ", ".join(f"{each.name} {each.shape}" for each in session.get_outputs())
        raise ValueError(f"{where}: {name} has no output with one vector a face [B, D]; its outputs: {found}")
    if asked and asked not in widths:
        raise ValueError(f"{where}: {name} has no output {asked!r} with one vector a face; there: {there}")
    if not asked and len(widths) > 1:
        raise ValueError(
            f"{where}: {name} has several outputs with one vector a face: {there}; choose by output = NAME"
        )
    return asked or next(iter(widths))


def _arranged(x: Tensor, port: Port) -> Tensor:
    """[B, 3, S, S] on any device as the model takes it: its order, its type, in the host's memory."""
    ordered = x.permute(0, 2, 3, 1) if port.channels_last else x
    return ordered.to("cpu", port.dtype).contiguous()
