"""One forward pass of a backbone, in the ways there are: eager, compiled, or as a CUDA graph.

A pass takes faces [B, S, S, 3] uint8 on the device and returns embeddings [B, D] of the backbone's dtype there. Each
function here has one signature: backbone, precision, device and `num_faces`, the most that one pass will be given.
Letters: B faces, D width, S side of the input in pixels.
"""

import platform
import threading
from collections.abc import Callable
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from extract.backbones.build import Backbone
from extract.backbones.compiling import compiling, why_not_compiled
from extract.backbones.pieces import EAGER_BYTES, by_pieces, largest_output, piece_of
from extract.backbones.transforms import normalise

Precision = Literal["float32", "bfloat16"]
ForwardPass = Callable[[Tensor], Tensor]

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WARM_UPS = 3  # forward passes before a CUDA graph is captured: libraries allocate and choose kernels in the first
# Largest activation of one face, by precision and size of the input: trials make the same pass several times.
_FACE_BYTES: WeakKeyDictionary[nn.Module, dict[tuple[Precision, int], int]] = WeakKeyDictionary()
CAPTURE = threading.Lock()  # torch allows one capture at a time in a process


class Unavailable(ValueError):
    """A runtime that cannot be had here: the `reason`, and advice for whoever may still choose another."""

    def __init__(self, reason: str, advice: str = "; run it with --runtime eager") -> None:
        super().__init__(reason + advice)
        self.reason = reason


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself, and may (`ONEDNN_MAX_CPU_ISA`); elsewhere it is imitated, at down to
    a twentieth of the speed."""
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    # oneDNN counts every x86 processor with AVX-512, of ARM's only those with the instructions.
    is_arm = platform.machine() in ("aarch64", "arm64")
    return is_arm or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fast_precision(device: torch.device) -> Precision:
    """The lowest precision that the device has instructions for; whether it pays depends on the model."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    return "bfloat16" if device.type == "cpu" and native_bfloat16() else "float32"


def eager(backbone: Backbone, precision: Precision, device: torch.device, num_faces: int) -> ForwardPass:
    """The module as it is, under autocast where the precision is not float32; on a CPU few faces at a time."""
    forward = _forward(backbone, precision, device)

    def embed(faces: Tensor) -> Tensor:
        with torch.inference_mode():
            return forward(faces)

    if device.type != "cpu" or not backbone.is_torch:  # models of ONNX see to it themselves
        return embed
    return by_pieces(embed, piece_of(_face_bytes(backbone, precision, embed), EAGER_BYTES))


def face_bytes(backbone: Backbone, precision: Precision) -> int:
    """Bytes of the largest activation of one face in an eager pass on the CPU, which has been made before."""
    return _FACE_BYTES[backbone.module][precision, backbone.preprocessing.size_px]


def _face_bytes(backbone: Backbone, precision: Precision, embed: ForwardPass) -> int:
    """`face_bytes`, by a pass of one face where it is not known. Before the first batch, since where that ends must not
    depend on where a run begins."""
    known = _FACE_BYTES.setdefault(backbone.module, {})
    key = precision, backbone.preprocessing.size_px
    if key not in known:
        known[key] = largest_output(backbone.module, lambda: embed(_blank(backbone, torch.device("cpu"), 1)))
    return known[key]


def compiled(backbone: Backbone, precision: Precision, device: torch.device, num_faces: int) -> ForwardPass:
    """Compiled for exactly `num_faces`, here and now; fewer are filled up, so that nothing is compiled again.

    By autocast and not by casting the module: that was no faster (ViT-B, MobileNetV2 and EfficientNet-B0 within 8 % of
    each other, either way round), holds the weights twice, and of 128 real faces the least cosine to float32 was 0.9932
    against 0.9937 for MobileNetV2 but 0.9940 against 0.9923 for EfficientNet-Lite0; eager bfloat16: 0.9935 and 0.9940.

    Raises:
        Unavailable: it cannot be compiled.
    """
    if missing := why_not_compiled(device):
        raise Unavailable(f"{backbone.name} cannot be compiled: {missing}", ", or run it with --runtime eager")
    forward = _forward(backbone, precision, device)
    # torch keeps what it compiled, and counts how often, by code object. With one of its own a backbone cannot use up
    # the limit of another, and its kernels and folded weights go when it goes.
    forward.__code__ = forward.__code__.replace()
    # Freezing folds the weights into the kernels; of this compilation only, the global setting stays off.
    options: dict[str, str | int | bool | Callable[..., object]] = {"freezing": device.type == "cpu"}
    run = torch.compile(forward, dynamic=False, options=options)

    def embed(faces: Tensor) -> Tensor:
        with torch.inference_mode():
            return run(faces)

    try:
        buffer = _blank(backbone, device, num_faces)
        with compiling():
            embed(buffer)
    except Exception as error:  # the compiler, its kernels and the module's own code each raise their own
        if is_out_of_memory(error):
            raise
        raise Unavailable(f"{backbone.name} cannot be compiled ({_reason(error)})") from error
    return _filled_up(embed, buffer)


def graph(backbone: Backbone, precision: Precision, device: torch.device, num_faces: int) -> ForwardPass:
    """The module's kernels recorded once for `num_faces` and replayed: the host launches one graph a pass.

    Raises:
        Unavailable: not a CUDA device, or the module cannot be recorded.
    """
    if device.type != "cuda":
        raise Unavailable(f"a CUDA graph needs a CUDA device, and this is {device.type}")
    blank = _blank(backbone, device, num_faces)
    current = torch.cuda.current_stream(device)
    try:
        with CAPTURE, torch.cuda.device(device):
            recording, x, embeddings = _recorded(backbone, precision, device, blank)
    except Exception as error:  # whatever the module does that cannot be recorded
        torch.cuda.set_stream(current)  # where a capture cannot be ended, torch goes on with its stream
        if is_out_of_memory(error):
            raise
        raise Unavailable(f"{backbone.name} cannot be recorded ({_reason(error)})") from error

    def embed(faces: Tensor) -> Tensor:
        x[: len(faces)].copy_(normalise(faces, backbone.preprocessing, torch.float32))
        recording.replay()
        return embeddings[: len(faces)].clone()  # the next replay writes over them

    return embed


def _recorded(
    backbone: Backbone, precision: Precision, device: torch.device, blank: Tensor
) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
    """The graph, its input [B, 3, S, S] float32 and its output [B, D], whose memory never moves."""
    module, stored = _placed(backbone, device), getattr(torch, backbone.dtype)
    # Normalising stays outside: its constants are cached elsewhere, and a graph would go on reading their memory.
    x = normalise(blank, backbone.preprocessing, torch.float32)

    def forward() -> Tensor:
        # Autocast would keep the weights it casts until its outermost context ends; then they are freed while the
        # graph still reads them. Without that cache the casts are a part of the graph.
        autocast = torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32", cache_enabled=False)
        with torch.inference_mode(), autocast:
            return module(x).to(stored)

    # Warming up and recording on one side stream: libraries keep handles and workspaces by stream.
    stream, recording = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            forward()
    torch.cuda.current_stream(device).wait_stream(stream)
    # thread_local: threads that decode may pin memory meanwhile, which "global" takes for an error of this capture.
    with torch.cuda.graph(recording, stream=stream, capture_error_mode="thread_local"):
        embeddings = forward()
    return recording, x, embeddings


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left; on the CPU torch says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _forward(backbone: Backbone, precision: Precision, device: torch.device) -> ForwardPass:
    module, mixed = _placed(backbone, device), precision != "float32"
    stored = getattr(torch, backbone.dtype)

    def forward(faces: Tensor) -> Tensor:
        x = normalise(faces, backbone.preprocessing, torch.float32)
        with torch.autocast(device.type, DTYPES[precision], enabled=mixed):
            return module(x).to(stored)

    return forward


def _placed(backbone: Backbone, device: torch.device) -> nn.Module:
    """The module on the device. Faces come as [B, S, S, 3], channels-last already: convolutions need no reordering."""
    return backbone.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _blank(backbone: Backbone, device: torch.device, num_faces: int) -> Tensor:
    size_px = backbone.preprocessing.size_px
    with torch.inference_mode(False):  # what is made inside inference mode can be written there only
        return torch.zeros(num_faces, size_px, size_px, 3, dtype=torch.uint8, device=device)


def _filled_up(embed: ForwardPass, buffer: Tensor) -> ForwardPass:
    """Runs always on the buffer: fewer faces, or other strides, would be compiled for anew. Behind few faces stand
    those of before, which touch no other row."""

    def filled_up(faces: Tensor) -> Tensor:
        buffer[: len(faces)].copy_(faces)
        return embed(buffer)[: len(faces)]

    return filled_up


def _reason(error: BaseException) -> str:
    """The first line that says something; torch puts "backend='inductor' raised:" before the compiler's own words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
    return (lines or [type(error).__name__])[0][:200]
