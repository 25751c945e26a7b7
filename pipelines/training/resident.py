"""Whole streams of the cache as tensors on the device. N frames, D width.

They are read once and shared by everything that trains or predicts: no DataLoader, a batch is an index.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cache.frames import frames_digest
from cache.identity import StreamIdentity
from cache.store import Cache

StreamKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Streams by (name, view): `streams` [N, D] as stored, on `device`, `valid` [N] bool, and what each stream is."""

    streams: Mapping[StreamKey, Tensor]
    valid: Mapping[StreamKey, np.ndarray]
    identities: Mapping[StreamKey, StreamIdentity]
    device: torch.device

    @property
    def device_name(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def widths(self, names: Sequence[str], view: str) -> dict[str, int]:
        """Width D of each stream."""
        return {name: int(self.streams[self._known(name, view)].shape[1]) for name in names}

    def all_valid(self, names: Sequence[str], view: str) -> np.ndarray:
        """[N] bool: rows with an embedding in every one of the streams."""
        return np.logical_and.reduce([self.valid[self._known(name, view)] for name in names])

    def _known(self, name: str, view: str) -> StreamKey:
        if (name, view) not in self.streams:
            raise ValueError(
                f"stream {name} (view {view}) was not loaded; type `mtl extract --backbone {name} --views {view}`"
            )
        return name, view


def load_resident(path: Path, frames: pl.DataFrame, wanted: Iterable[StreamKey], device: torch.device) -> Resident:
    """Reads the streams `wanted`, (name, view) each, of the cache at `path`.

    Raises:
        ValueError: no cache, a stream that is missing, incomplete, or made for another frames table; says which, and
            what to type.
    """
    cache, digest = Cache.open(path, read_only=True), frames_digest(frames)
    streams, valid, identities = {}, {}, {}
    for name, view in dict.fromkeys(wanted):
        stream = cache.stream(name, view)
        if stream.identity.frames != digest:
            raise ValueError(
                f"stream {name} was extracted for another frame list (cached {stream.identity.num_frames} frames, "
                f"wanted {len(frames)}); type {stream.remake_hint}"
            )
        host = torch.empty(stream.num_rows, stream.width, dtype=getattr(torch, stream.dtype.name))
        stream.read(out=host.numpy())
        streams[name, view] = host.to(device)
        valid[name, view] = stream.valid()
        identities[name, view] = stream.identity
    return Resident(streams=streams, valid=valid, identities=identities, device=device)
