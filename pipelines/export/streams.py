"""The embeddings that a bundle's heads read, and the ONNX files that make them of aligned faces. D width."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.frames import read_frames
from cache.identity import StreamIdentity
from cache.seals import digest_of
from extract.backbones.build import Backbone
from extract.backbones.portable import Graph, backbone_graphs
from extract.config import FOLLOWED, ORIENTATION
from extract.faces.source import FaceSource
from extract.jobs import native_size, sample_of
from pipelines.config import Config
from pipelines.predict.face_model import common_alignment, trained_backbone
from pipelines.predict.predictor import Predictor

StreamKey = tuple[str, str]  # name and view


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStream:
    """A stream as bundle.json has it, and its ONNX files, in the order they run in; none where the bundle takes its
    embeddings ready-made, and `backbone` is None. `licence` is the note of its backbone's section."""

    key: StreamKey
    identity: StreamIdentity
    backbone: Backbone | None
    graphs: Sequence[Graph]
    licence: str

    def to_json(self) -> dict[str, Any]:
        """Its entry in bundle.json."""
        return {
            "width": self.identity.width,
            "dtype": self.identity.dtype,
            "has_age": self.identity.has_age,
            "graphs": [
                {"file": each.file, "input": each.input, "output": each.output, "batch": each.batch}
                for each in self.graphs
            ],
            "identity": self.identity.to_json(),
            "licence": self.licence,
        }


def bundle_streams(
    predictor: Predictor, config: Config, face_px: int, *, heads_only: bool
) -> dict[StreamKey, BundleStream]:
    """The streams of the predictor with their backbones for faces of `face_px`, as ONNX; streams share files.

    A stream that was imported has no backbone: the bundle then takes embeddings, as with `heads_only`.

    Raises:
        ValueError: a backbone is gone or another than the stream's, or cannot be written as ONNX.
    """
    found, loaded, made = {}, dict[tuple[str, str], Backbone](), dict[str, bytes]()
    files: dict[str, str] = {}  # by content: sections may name one ONNX file
    for key, (run, identity) in predictor.identities.items():
        backbone, graphs = None, list[Graph]()
        if not heads_only and not takes_embeddings(predictor):
            upright = identity.preprocessing.get(ORIENTATION) == FOLLOWED
            backbone = trained_backbone(run, key, identity, config, upright, loaded)
            for each in backbone_graphs(backbone, face_px, *key, made):
                graphs.append(dataclasses.replace(each, file=files.setdefault(digest_of(each.data), each.file)))
        section = config.backbone_of(key[0])
        found[key] = BundleStream(
            key=key,
            identity=identity,
            backbone=backbone,
            graphs=graphs,
            licence="" if section is None else section.licence,
        )
    return found


def takes_embeddings(predictor: Predictor) -> bool:
    """Whether a stream was not made from faces, so that no backbone of it can be exported."""
    return any(not identity.sees_faces for _, identity in predictor.identities.values())


def find_face_px(predictor: Predictor, config: Config) -> int:
    """The side of the faces that the predictor was trained on: that of their alignment, else of a face of the faces
    folder.

    Raises:
        ValueError: neither is known, or that face is not square.
    """
    alignment: Mapping[str, Any] | None = common_alignment(predictor)
    if alignment is not None:
        return int(alignment["template"]["size_px"])
    frames, faces = config.at(config.data.frames), config.at(config.data.faces)
    try:
        size = _size_of_a_face(frames, faces, follow=not config.data.ignore_orientation)
    except ValueError as error:
        raise ValueError(f"{error}; or say how large the faces are: --face-px 112") from None
    if size[0] != size[1]:
        raise ValueError(f"{faces}: faces of {size[1]} x {size[0]} px; a bundle takes square ones: --face-px 112")
    return size[0]


def _size_of_a_face(frames: Path, faces: Path, *, follow: bool) -> tuple[int, int]:
    table = read_frames(frames)
    with contextlib.closing(FaceSource(faces, follow_orientation=follow)) as source:
        paths = sample_of(np.ones(len(table), dtype=bool), table, faces, source)
        size = native_size(paths, source)
    if size is None:
        raise ValueError(f"{faces}: none of {len(paths)} faces tried can be read")
    return size
