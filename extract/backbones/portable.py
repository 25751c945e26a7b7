"""Backbones as ONNX files that take aligned faces as they are: resizing and normalisation are in the files.

Letters: B faces, H side of the face files, D width, S side of the input in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extract.backbones.build import Backbone
from extract.backbones.exact_resize import ExactResize
from extract.backbones.onnx_export import free, to_onnx
from extract.backbones.onnx_model import OnnxModel, Port
from extract.config import Preprocessing
from extract.view_names import BASE, HFLIP, preprocessing_of, recipe

FACES, READY = "faces", "ready"


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


class SplitOutputs(nn.Module):
    """A backbone's input [B, 3, S, S] -> for each of `columns` those of what the module gives [B, D], float32."""

    def __init__(self, module: nn.Module, columns: Sequence[slice]) -> None:
        super().__init__()
        self.module, self.columns = module, tuple(columns)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found: Tensor = self.module(x)
        return tuple(found[:, each].float() for each in self.columns)


class PortInput(nn.Module):
    """Faces [B, H, H, 3] uint8 -> what the ONNX model behind `port` takes."""

    def __init__(self, face_input: FaceInput, port: Port) -> None:
        super().__init__()
        self.face_input, self.port = face_input, port

    def forward(self, faces: Tensor) -> Tensor:
        x: Tensor = self.face_input(faces)
        return (x.permute(0, 2, 3, 1) if self.port.channels_last else x).to(self.port.dtype).contiguous()


def backbone_graphs(
    backbone: Backbone, face_px: int, stream: str, view: str = BASE, made: dict[str, bytes] | None = None
) -> list[Graph]:
    """The two ONNX files, to be run one after the other, that make the vectors of one of the backbone's streams from
    faces of `face_px`: one per view makes the input, one for all views and streams is the backbone; of an ONNX model
    the latter is its own file. `made` has the files of earlier calls by name, and gets those of this one.

    Raises:
        ValueError: a view or a preprocessing that cannot be exported, or as `to_onnx`.
    """
    where, made = f"[backbones.{backbone.name}]", {} if made is None else made
    if recipe(view):
        raise ValueError(f"{where}: the view {view} changes each video in its own way, so it cannot be exported")
    try:
        face_input = FaceInput(backbone.preprocessing, face_px, view)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    # No section's name has a dot, so no two files have one name.
    first = f"input-{backbone.name}{'' if view == BASE else f'.{view}'}.onnx"
    second, module = f"backbone-{backbone.name}.onnx", backbone.module
    port = module.port if isinstance(module, OnnxModel) else None
    if first not in made:
        whole = face_input if port is None else PortInput(face_input, port)
        faces = torch.zeros(2, face_px, face_px, 3, dtype=torch.uint8)
        made[first] = to_onnx(whole, (faces,), [FACES], [READY], (free(0),), where)
    if second not in made:
        made[second] = module.data if isinstance(module, OnnxModel) else _backbone_file(backbone, where)
    output = module.output if isinstance(module, OnnxModel) else backbone.config.streams(backbone.name)[stream]
    name, batch = (READY, None) if port is None else (port.name, port.batch)
    return [
        Graph(file=first, data=made[first], input=FACES, output=READY, batch=batch),
        Graph(file=second, data=made[second], input=name, output=output, batch=batch),
    ]


def _backbone_file(backbone: Backbone, where: str) -> bytes:
    """The backbone without its input, with an output per stream."""
    side, streams = backbone.preprocessing.size_px, backbone.config.streams(backbone.name)
    outputs = SplitOutputs(backbone.module, [backbone.columns(name) for name in streams])
    return to_onnx(outputs, (torch.zeros(2, 3, side, side),), [READY], [*streams.values()], (free(0),), where)
