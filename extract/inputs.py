"""What the backbones see of a batch: faces brought to the device, resized there, and changed for each view.

Letters: B faces, H and W of a face file, S side of an input in pixels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from extract.backbones.resize import Resizer
from extract.config import Preprocessing
from extract.loading import Asked, Slot
from extract.views import changed

Input = tuple[Preprocessing, str]


class Inputs:
    """Makes the inputs [B, S, S, 3] uint8 of a batch on `device`, each once, whoever asks for it.

    `resizers` are those of the inputs that the device resizes; what comes out for a face does not depend on the other
    faces of its batch.
    """

    def __init__(self, resizers: Mapping[Preprocessing, Resizer], device: torch.device) -> None:
        self._resizers, self._device = resizers, device

    def of(self, batch: Asked, slot: Slot, wanted: Sequence[Input], videos: Sequence[str]) -> dict[Input, Tensor]:
        """The inputs `wanted`, (preprocessing, view) each, of a batch whose face i is of the video `videos[i]`."""
        count = len(batch)
        native = None if slot.native is None else self._moved(slot.native[:count])
        base = {each: self._base(each, slot, native, count) for each in dict.fromkeys(key for key, _ in wanted)}
        return {(each, view): changed(view, base[each], videos) for each, view in dict.fromkeys(wanted)}

    def _base(self, wanted: Preprocessing, slot: Slot, native: Tensor | None, count: int) -> Tensor:
        if wanted in slot.ready:
            return self._moved(slot.ready[wanted][:count])
        side, resizer = wanted.size_px, self._resizers[wanted]
        if native is None:
            faces = torch.zeros(count, side, side, 3, dtype=torch.uint8, device=self._device)
        else:
            faces = resizer(native)
            if faces is native and slot.odd:  # another input may have these for its own
                faces = faces.clone()
        for rows, odd in by_size(slot.odd):
            faces[rows] = resizer(self._moved(torch.from_numpy(odd)))
        for row, made in slot.shrunk.items():
            faces[row] = self._moved(torch.from_numpy(made[wanted].copy()))
        return faces

    def _moved(self, faces: Tensor) -> Tensor:
        return faces.to(self._device, non_blocking=True)


def by_size(faces: Mapping[int, np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
    """Faces of one size together: their rows, and [b, H, W, 3]."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in sorted(faces):
        groups.setdefault(faces[row].shape, []).append(row)
    return [(rows, np.stack([faces[row] for row in rows])) for rows in groups.values()]
