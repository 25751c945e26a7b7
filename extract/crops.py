"""Embeddings of crops in memory, made as the engine makes those of face files: resized on the device, changed for the
view, one forward pass per backbone and batch.

Place: beside `extract.engine`, which reads files and fills the cache. Letters: B crops, H and W of a crop, S side of an
input in pixels, D width.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from extract.backbones.build import Backbone
from extract.backbones.resize import MAX_PIXELS, batch_resizer
from extract.backbones.runtime import Embedder, Runtime, embedder, steady
from extract.backbones.transforms import face_transform
from extract.config import Preprocessing
from extract.inputs import by_size
from extract.view_names import preprocessing_of
from extract.views import changed

StreamKey = tuple[str, str]


class CropEmbedder:
    """Crops [B, H, W, 3] uint8 -> embeddings [B, D] of each stream, (name, view), in the backbone's stored dtype; the
    name is one of the streams of its backbone."""

    def __init__(
        self,
        streams: Mapping[StreamKey, Backbone],
        device: torch.device,
        batch_size: int,
        runtime: Runtime = Runtime(),
    ) -> None:
        self._device, self._streams = device, dict(streams)
        made: dict[int, Embedder] = {}
        for backbone in self._streams.values():
            if id(backbone) not in made:
                made[id(backbone)] = embedder(backbone, runtime, device, batch_size)
        self._embed = {key: made[id(backbone)] for key, backbone in self._streams.items()}

    def __call__(self, crops: Sequence[np.ndarray], videos: Sequence[str]) -> dict[StreamKey, np.ndarray]:
        """The embeddings of `crops`, crop i of the video `videos[i]`; the crops may be of several sizes."""
        inputs = {each: self._resized(crops, each) for each in self._preprocessings()}
        done: dict[tuple[Embedder, str], Tensor] = {}
        found = {}
        with steady(self._device):
            for (name, view), backbone in self._streams.items():
                key = (self._embed[name, view], view)
                if key not in done:
                    faces = changed(view, inputs[preprocessing_of(view, backbone.preprocessing)], videos)
                    done[key] = key[0](faces)
                found[name, view] = done[key][:, backbone.columns(name)].cpu().numpy()
        return found

    def _preprocessings(self) -> list[Preprocessing]:
        found = (preprocessing_of(view, each.preprocessing) for (_, view), each in self._streams.items())
        return list(dict.fromkeys(found))

    def _resized(self, crops: Sequence[np.ndarray], wanted: Preprocessing) -> Tensor:
        """[B, S, S, 3] uint8 on the device."""
        side, resizer = wanted.size_px, batch_resizer(wanted)
        faces = torch.zeros(len(crops), side, side, 3, dtype=torch.uint8, device=self._device)
        for rows, batch in by_size(dict(enumerate(crops))):
            if resizer is not None and batch.shape[1] * batch.shape[2] <= MAX_PIXELS:
                faces[rows] = resizer(torch.from_numpy(batch).to(self._device))
            else:
                transform = face_transform(wanted)
                resized = np.stack([transform(crop) for crop in batch])
                faces[rows] = torch.from_numpy(resized).to(self._device)
        return faces
