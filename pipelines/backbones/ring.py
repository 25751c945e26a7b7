"""The loader and the resizing of extraction, for groups of any rows: decoded by threads a few groups ahead.

B faces of a group, H and W of most face files, S the side of a square face in pixels.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from extract.backbones.resize import MAX_PIXELS, batch_resizer
from extract.config import Preprocessing
from extract.engine import NUM_SLOTS
from extract.inputs import Inputs
from extract.loading import FaceLoader, FaceProvider, Rows, Slot
from extract.view_names import BASE
from pipelines.backbones.augmentation import Augmentation

Pair = tuple[np.ndarray, Augmentation | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`faces` [B, S, S, 3] uint8 on the device of `rows` [B]; those at the places `failed` names hold anything."""

    rows: np.ndarray
    augmentation: Augmentation | None
    faces: Tensor
    failed: dict[int, str]


class Ring:
    """Decodes faces of the `table` of paths from `source`; `size` (H, W) is that of most of them, 0 if unknown.

    A loader is kept from one iteration to the next; one within another has a loader of its own.
    """

    def __init__(
        self,
        source: FaceProvider,
        table: pl.Series,
        size: tuple[int, int],
        preprocessing: Preprocessing,
        device: torch.device,
        num_threads: int,
    ) -> None:
        self._source, self._table, self._size = source, table, size
        self._preprocessing, self._device, self._num_threads = preprocessing, device, num_threads
        resizer = batch_resizer(preprocessing)
        self._on_device = {} if resizer is None else {preprocessing: resizer}
        self._inputs = Inputs(self._on_device, device)
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._idle: tuple[int, FaceLoader] | None = None

    def close(self) -> None:
        if self._idle is not None:
            self._idle[1].close()
        self._idle = None

    def decoded(self, pairs: Iterator[Pair]) -> Generator[Decoded, None, None]:
        """Each pair of rows and their augmentation, in order; RandAugment is applied, the rest is not."""
        first = next(pairs, None)
        while first is not None:
            larger: list[Pair] = []
            with contextlib.closing(self._through_one(first, pairs, larger)) as found:
                yield from found
            first = larger[0] if larger else None

    def _through_one(self, first: Pair, pairs: Iterator[Pair], larger: list[Pair]) -> Generator[Decoded, None, None]:
        """`first` and `pairs` through one loader, up to a group that is larger than all before: it goes to `larger`."""
        capacity, loader = self._take(len(first[0]))
        drawn: deque[Augmentation | None] = deque()

        def asked() -> Iterator[Rows]:
            for rows, augmentation in itertools.chain([first], pairs):
                if len(rows) > capacity:
                    larger.append((rows, augmentation))
                    return
                drawn.append(augmentation)
                alter = None if augmentation is None else augmentation.alter(self._preprocessing)
                yield Rows(rows=rows, inputs=(self._preprocessing,), alter=alter)

        try:
            with contextlib.closing(loader.load(asked())) as loaded:
                for rows, slot in loaded:
                    augmentation = drawn.popleft()
                    faces, copied = self._brought(rows, slot)
                    found = Decoded(rows=rows.rows, augmentation=augmentation, faces=faces, failed=dict(slot.failed))
                    if copied is None:
                        loader.release(slot)
                        yield found
                        continue
                    try:
                        yield found  # the copy runs while the training step is being queued
                    finally:
                        copied.synchronize()
                        loader.release(slot)
        finally:
            self.close()
            self._idle = capacity, loader

    def _brought(self, rows: Rows, slot: Slot) -> tuple[Tensor, torch.cuda.Event | None]:
        """The inputs [B, S, S, 3] of a group on the device; on a GPU also the moment from which the slot is free.

        A GPU copies and resizes beside the training step, not behind it.
        """
        wanted = (self._preprocessing, BASE)
        if self._copying is None:
            faces = self._inputs.of(rows, slot, [wanted], ())[wanted]
            buffers = [each for each in (slot.native, *slot.ready.values()) if each is not None]
            return (faces.clone() if any(_shared(faces, each) for each in buffers) else faces), None
        with torch.cuda.stream(self._copying):
            faces = self._inputs.of(rows, slot, [wanted], ())[wanted]
            copied = torch.cuda.Event()
            copied.record(self._copying)
        using = torch.cuda.current_stream(self._device)
        using.wait_event(copied)
        faces.record_stream(using)
        return faces, copied

    def _take(self, batch_size: int) -> tuple[int, FaceLoader]:
        """A loader that nobody uses, and the largest group it has room for, `batch_size` or more."""
        if self._idle is not None and self._idle[0] >= batch_size:
            found, self._idle = self._idle, None
            return found
        loader = FaceLoader(
            self._source,
            self._table,
            [] if self._on_device else [self._preprocessing],
            list(self._on_device),
            native_size=self._size if 0 < self._size[0] * self._size[1] <= MAX_PIXELS else None,
            batch_size=batch_size,
            num_threads=self._num_threads,
            num_slots=NUM_SLOTS,
            pin_memory=self._device.type == "cuda",
        )
        return batch_size, loader


def _shared(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
