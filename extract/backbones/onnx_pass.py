"""One forward pass of a torch backbone by ONNX Runtime, which on a CPU may be the faster of the two.

Letters: B faces, D width, S side of the input in pixels.
"""

from importlib import import_module

import torch
from torch import Tensor

from extract.backbones.build import Backbone
from extract.backbones.onnx_export import traced_onnx
from extract.backbones.onnx_session import INSTALL, open_session, reason
from extract.backbones.passes import ForwardPass, Precision, Unavailable, eager, face_bytes
from extract.backbones.pieces import ONNX_BYTES, by_pieces, piece_of
from extract.backbones.transforms import normalise

INPUT, OUTPUT = "ready", "embedding"
PACKAGES = ("onnx", "onnxruntime")
# Faces that show whether it gives what torch gives, none of the batch that was traced; the largest difference allowed,
# of the largest value. In float32 it is 1e-5 or less.
CHECKED_FACES, TOLERANCE = 3, 1e-3


def onnx(backbone: Backbone, precision: Precision, device: torch.device, num_faces: int) -> ForwardPass:
    """The module exported to ONNX in memory and run by ONNX Runtime in float32, with as many threads as torch's.

    Raises:
        ValueError: not the CPU, another precision, a package is missing, or the module cannot be exported.
    """
    if device.type != "cpu":
        raise Unavailable(f"the runtime onnx needs the CPU, and this is {device.type}", "; run with --device cpu")
    if precision != "float32":
        raise ValueError(f"the runtime onnx has float32 only; leave out --precision {precision}")
    if missing := why_not_onnx():
        raise Unavailable(f"the runtime onnx cannot be had: {missing}", "")
    size_px = backbone.preprocessing.size_px
    module = backbone.module.to(device)
    data = traced_onnx(module, torch.zeros(2, 3, size_px, size_px), INPUT, OUTPUT, backbone.name)
    session = open_session(data, backbone.name, backbone.name, torch.get_num_threads())
    stored = getattr(torch, backbone.dtype)

    def embed(faces: Tensor) -> Tensor:
        x = normalise(faces, backbone.preprocessing, torch.float32).contiguous()
        try:
            (found,) = session.run([OUTPUT], {INPUT: x.numpy()})
        except Exception as error:  # onnxruntime has a kind for each of its states, with no base of its own
            kind = MemoryError if "allocate memory" in str(error) else RuntimeError
            raise kind(f"{backbone.name}: onnxruntime: {reason(error)}") from None
        return torch.from_numpy(found).to(stored)

    _require_same(backbone, embed, device)
    return by_pieces(embed, piece_of(face_bytes(backbone, "float32"), ONNX_BYTES))


def _require_same(backbone: Backbone, embed: ForwardPass, device: torch.device) -> None:
    size_px = backbone.preprocessing.size_px
    generator = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (CHECKED_FACES, size_px, size_px, 3), dtype=torch.uint8, generator=generator)
    try:
        found = embed(faces).float()
    except RuntimeError as error:
        raise Unavailable(f"{backbone.name} cannot be run by onnxruntime ({error})") from None
    expected = eager(backbone, "float32", device, CHECKED_FACES)(faces).float()
    difference = (found - expected).abs().max() if found.shape == expected.shape else torch.tensor(torch.inf)
    if not difference <= TOLERANCE * expected.abs().max() + TOLERANCE * 1e-3:
        raise Unavailable(f"{backbone.name}: onnxruntime gives other embeddings than torch, by {difference:.2g}")


def why_not_onnx() -> str | None:
    """Imports what it needs, which takes half a second; the package that is missing, and None where none is."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            return f"{name} is not installed ({INSTALL})"
    return None
