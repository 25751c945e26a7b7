"""Whole streams of the cache as tensors on the device, as far as they fit into memory. N frames, D width.

They are read once and shared by everything that trains or predicts: no DataLoader, a batch is an index. A stream that
does not fit stays in the cache, and a batch is read from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.frames import Frames, frames_digest
from cache.identity import StreamIdentity
from cache.ranges import RowReader, check_shards
from cache.store import Cache
from cache.stream import Stream
from extract.view_names import stream_title
from pipelines.device import free_bytes
from pipelines.training.inputs import Rows
from pipelines.training.stored import StoredRows

StreamKey = tuple[str, str]
SHARE_OF_FREE = 0.6  # for streams, where [train] memory_gb does not say how much
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Streams by (name, view): `streams` [N, D] as stored, on `device` or left in the cache, `valid` [N] bool, and what
    each stream is."""

    streams: Mapping[StreamKey, Rows]
    valid: Mapping[StreamKey, np.ndarray]
    identities: Mapping[StreamKey, StreamIdentity]
    device: torch.device

    @property
    def device_name(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the streams that are left in the cache."""
        return tuple(dict.fromkeys(name for (name, _), rows in self.streams.items() if isinstance(rows, StoredRows)))

    def widths(self, names: Sequence[str], view: str) -> dict[str, int]:
        """Width D of each stream."""
        return {name: int(self.streams[self._known(name, view)].shape[1]) for name in names}

    def all_valid(self, names: Sequence[str], view: str) -> np.ndarray:
        """[N] bool: rows with an embedding in every one of the streams."""
        return np.logical_and.reduce([self.valid[self._known(name, view)] for name in names])

    def _known(self, name: str, view: str) -> StreamKey:
        if (name, view) not in self.streams:
            known = ", ".join(stream_title(*key) for key in self.streams)
            raise ValueError(f"stream {stream_title(name, view)} is not among those that were loaded: {known}")
        return name, view


def load_resident(
    cache: Cache, frames: Frames, wanted: Iterable[StreamKey], device: torch.device, memory_gb: float = 0.0
) -> Resident:
    """The streams `wanted`, (name, view) each, of the cache: read while all of them take `memory_gb` at most,
    0 for `SHARE_OF_FREE` of what is free; the others stay in the cache.

    Raises:
        ValueError: a stream that is missing, incomplete or damaged, or made for another frames table; says
            which, and what to type.
    """
    digest = frames_digest(frames)
    left = memory_gb * GB if memory_gb else free_for_streams(device)
    streams: dict[StreamKey, Rows] = {}
    valid, identities = {}, {}
    for name, view in dict.fromkeys(wanted):
        stream = cache.stream(name, view)
        if stream.identity.frames != digest:
            raise ValueError(
                f"stream {name} was extracted for another frame list (cached {stream.identity.num_frames} frames, "
                f"wanted {len(frames)}); type {stream.remake_hint}"
            )
        num_bytes = stream.num_rows * stream.width * stream.dtype.itemsize
        if num_bytes <= left:
            left -= num_bytes
            streams[name, view] = _read(stream, device)
        else:
            check_shards(stream)
            streams[name, view] = StoredRows(RowReader(stream), device)
        valid[name, view] = stream.valid()
        identities[name, view] = stream.identity
    return Resident(streams=streams, valid=valid, identities=identities, device=device)


def free_for_streams(device: torch.device) -> float:
    """Bytes that streams may take where nothing says how much."""
    return SHARE_OF_FREE * free_bytes(device)


def _read(stream: Stream, device: torch.device) -> Tensor:
    host = torch.empty(stream.num_rows, stream.width, dtype=getattr(torch, stream.dtype.name))
    stream.read(out=host.numpy())
    return host.to(device)
