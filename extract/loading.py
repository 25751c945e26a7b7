"""Faces read and decoded ahead of the backbones: threads fill a ring of buffers, batch after batch in order.

simplejpeg, Pillow and the digests let go of Python's lock, so threads do. Each face is read and decoded once, whatever
the number of backbones. Letters: B faces, S side of the input in pixels.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cache.identity import FACE_DIGEST_BYTES
from extract.config import Preprocessing
from extract.faces import decode, face_digest, read_face_bytes
from extract.transforms import face_transform

CHUNK = 8  # faces a task: enough to make handing it over cheap, few enough to share a batch among threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows [start, stop) of the frames table, all of one shard, and the inputs wanted of their faces."""

    shard: int
    start: int
    stop: int
    inputs: tuple[Preprocessing, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """Buffers for one batch. `faces[input]` is [B, S, S, 3] uint8; rows in `failed` hold anything, and it says why."""

    faces: dict[Preprocessing, Tensor]
    digests: np.ndarray
    failed: dict[int, str] = field(default_factory=dict)


class FaceLoader:
    """Iterates over batches with their faces; at most `num_slots` batches are in memory.

    The consumer gives each slot back with `release` once it no longer needs the faces, and calls `close` at the end,
    also after an error: it returns when no thread is left.
    """

    def __init__(
        self,
        folder: Path,
        paths: pl.Series,
        inputs: Sequence[Preprocessing],
        *,
        batch_size: int,
        num_threads: int,
        num_slots: int,
        pin_memory: bool,
    ) -> None:
        self._folder, self._paths = str(folder), paths
        self._transforms = {each: face_transform(each) for each in inputs}
        self._free = deque(_new_slot(inputs, batch_size, pin_memory) for _ in range(num_slots))
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="faces")

    def load(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Slot]]:
        """Yields each batch in order when all its faces are there.

        Raises:
            OSError: the faces folder is gone; a single face's trouble is only noted in `Slot.failed`.
        """
        todo = iter(batches)
        ahead: deque[tuple[Batch, Slot, list[Future[None]]]] = deque()
        while True:
            while self._free and (batch := next(todo, None)) is not None:
                slot = self._free.popleft()
                ahead.append((batch, slot, self._submit(batch, slot)))
            if not ahead:
                return
            batch, slot, futures = ahead.popleft()
            for future in futures:
                future.result()
            yield batch, slot

    def release(self, slot: Slot) -> None:
        self._free.append(slot)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _submit(self, batch: Batch, slot: Slot) -> list["Future[None]"]:
        slot.failed.clear()
        paths = self._paths.slice(batch.start, batch.stop - batch.start).to_list()
        return [
            self._threads.submit(self._fill, slot, batch.inputs, first, paths[first : first + CHUNK])
            for first in range(0, len(paths), CHUNK)
        ]

    def _fill(self, slot: Slot, inputs: Sequence[Preprocessing], first: int, paths: Sequence[str]) -> None:
        """Loads `paths` into the rows from `first` on."""
        views = [(self._transforms[each], slot.faces[each].numpy()) for each in inputs]
        for row, path in enumerate(paths, first):
            slot.digests[row] = 0
            try:
                data = read_face_bytes(self._folder, path)
                slot.digests[row] = np.frombuffer(face_digest(data), np.uint8)
                # A face that needs no resizing is decoded where it is wanted.
                face = decode(data, out=views[0][1][row])
                for transform, faces in views:
                    faces[row] = transform(face)
            except ValueError as error:
                slot.failed[row] = str(error)


def _new_slot(inputs: Sequence[Preprocessing], batch_size: int, pin_memory: bool) -> Slot:
    faces = {
        each: torch.zeros(batch_size, each.size_px, each.size_px, 3, dtype=torch.uint8, pin_memory=pin_memory)
        for each in inputs
    }
    return Slot(faces=faces, digests=np.zeros((batch_size, FACE_DIGEST_BYTES), np.uint8))
