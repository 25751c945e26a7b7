"""Backbones as ONNX files that take aligned faces as they are: resizing and normalisation are in the files.

Letters: B faces, H side of the face files, D width, S side of the input in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extract.backbones.build import Backbone
from extract.backbones.exact_resize import ExactResize
from extract.backbones.onnx_export import free, to_onnx
from extract.backbones.onnx_model import OnnxModel, Port
from extract.config import Preprocessing
from extract.view_names import BASE, HFLIP, preprocessing_of, recipe

FACES, EMBEDDING, READY = "faces", "embedding", "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX file `data`, to be called `file`: `input` is what it is given, `output` what it gives; it runs on
    `batch` faces at a time, None for any number."""

    file: str
    data: bytes
    input: str
    output: str
    batch: int | None = None


class FaceInput(nn.Module):
    """Faces [B, H, H, 3] uint8 -> a backbone's input [B, 3, S, S] float32, as extraction makes it for `view`;
    `preprocessing` is that of the whole face."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing, face_px: int, view: str = BASE) -> None:
        super().__init__()
        self.resize = ExactResize(preprocessing_of(view, preprocessing), face_px)
        self.flip = view == HFLIP
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))

    def forward(self, faces: Tensor) -> Tensor:
        x: Tensor = self.resize(faces)
        x = x.flip(2) if self.flip else x
        return ((x / 255 - self.mean) / self.std).permute(0, 3, 1, 2)


class WholeBackbone(nn.Module):
    """Faces [B, H, H, 3] uint8 -> embeddings [B, D] float32, the `columns` of what the module gives."""

    def __init__(self, face_input: FaceInput, module: nn.Module, columns: slice) -> None:
        super().__init__()
        self.face_input, self.module, self.columns = face_input, module, columns

    def forward(self, faces: Tensor) -> Tensor:
        embeddings: Tensor = self.module(self.face_input(faces).contiguous())
        return embeddings[:, self.columns].float()


class PortInput(nn.Module):
    """Faces [B, H, H, 3] uint8 -> what the ONNX model behind `port` takes."""

    def __init__(self, face_input: FaceInput, port: Port) -> None:
        super().__init__()
        self.face_input, self.port = face_input, port

    def forward(self, faces: Tensor) -> Tensor:
        x: Tensor = self.face_input(faces)
        return (x.permute(0, 2, 3, 1) if self.port.channels_last else x).to(self.port.dtype).contiguous()


def backbone_graphs(backbone: Backbone, face_px: int, stream: str, view: str = BASE) -> list[Graph]:
    """The ONNX files, to be run one after the other, that make the vectors of one of the backbone's streams from faces
    of `face_px`; one for a torch model, for an ONNX model its own file behind one that makes its input.

    Raises:
        ValueError: a view or a preprocessing that cannot be exported, or as `to_onnx`.
    """
    where = f"[backbones.{backbone.name}]"
    if recipe(view):
        raise ValueError(f"{where}: the view {view} changes each video in its own way, so it cannot be exported")
    try:
        face_input = FaceInput(backbone.preprocessing, face_px, view)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    name = stream if view == BASE else f"{stream}-{view}"
    example = (torch.zeros(2, face_px, face_px, 3, dtype=torch.uint8),)
    module = backbone.module
    if isinstance(module, OnnxModel):
        data = to_onnx(PortInput(face_input, module.port), example, [FACES], [READY], (free(0),), where)
        batch = module.port.batch
        return [
            Graph(file=f"input-{name}.onnx", data=data, input=FACES, output=READY, batch=batch),
            Graph(
                file=f"backbone-{name}.onnx",
                data=module.data,
                input=module.port.name,
                output=module.output,
                batch=batch,
            ),
        ]
    data = to_onnx(
        WholeBackbone(face_input, module, backbone.columns(stream)), example, [FACES], [EMBEDDING], (free(0),), where
    )
    return [Graph(file=f"backbone-{name}.onnx", data=data, input=FACES, output=EMBEDDING)]
