"""Faces read and decoded ahead of the backbones: threads fill a ring of buffers, batch after batch in order.

simplejpeg, Pillow and the digests let go of Python's lock, so threads do. Each face is read and decoded once, whatever
the number of backbones and views. Extraction asks for batches of consecutive rows, training for any.
Letters: B faces, H and W of most face files, S side of an input in pixels.
"""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.frames_file import Column
from cache.identity import FACE_DIGEST_BYTES
from extract.backbones.resize import MAX_PIXELS
from extract.backbones.transforms import face_transform
from extract.config import Preprocessing
from extract.faces.decoding import Face

# Faces per task at least: a batch is shared among the threads, but a handover costs about 40 µs, half of a small face.
LEAST_CHUNK = 16
NO_DIGEST = bytes(FACE_DIGEST_BYTES)
Alter = Callable[[int, np.ndarray], np.ndarray]  # a face's place in its batch and its pixels; pixels of the same shape


class FaceProvider(Protocol):
    """Provides faces: an `extract.faces.source.FaceSource`, or a class with the same methods."""

    def groups(self, paths: Sequence[str]) -> list[tuple[str | None, range]]: ...

    def read(self, paths: Sequence[str]) -> Iterator[Face | ValueError]: ...


class Asked(Protocol):
    """A batch of faces: how many, which, the inputs wanted of them, and what is done to each as it is decoded."""

    @property
    def inputs(self) -> tuple[Preprocessing, ...]: ...

    @property
    def alter(self) -> Alter | None: ...

    def __len__(self) -> int: ...

    def paths(self, table: Column) -> list[str]: ...


A = TypeVar("A", bound=Asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows [start, stop) of the frames table, all of one shard, and the inputs wanted of their faces."""

    shard: int
    start: int
    stop: int
    inputs: tuple[Preprocessing, ...]

    @property
    def alter(self) -> None:
        """Nothing: an embedding is one of the face as it is."""

    def __len__(self) -> int:
        return self.stop - self.start

    def paths(self, table: Column) -> list[str]:
        found: list[str] = table.slice(self.start, len(self)).to_list()
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Any `rows` [B] of the table of paths, and the inputs wanted of their faces, changed by `alter` before."""

    rows: np.ndarray
    inputs: tuple[Preprocessing, ...]
    alter: Alter | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def paths(self, table: Column) -> list[str]:
        found: list[str] = table.gather(self.rows).to_list()
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """Buffers for one batch; rows in `failed` hold anything, and it says why.

    `ready[input]` is [B, S, S, 3] uint8, resized by the loader's threads. Inputs that the device resizes find their
    faces in `native` [B, H, W, 3] uint8; in `odd` where they are of another size; in `shrunk`, resized for each input,
    where they are too large to take along.
    """

    digests: np.ndarray
    ready: dict[Preprocessing, Tensor]
    native: Tensor | None
    failed: dict[int, str] = field(default_factory=dict)
    odd: dict[int, np.ndarray] = field(default_factory=dict)
    shrunk: dict[int, dict[Preprocessing, np.ndarray]] = field(default_factory=dict)

    def clear(self) -> None:
        for each in (self.failed, self.odd, self.shrunk):
            each.clear()


class FaceLoader:
    """Iterates over batches with their faces; at most `num_slots` batches are in memory.

    The consumer gives each slot back with `release` once it no longer needs the faces, and calls `close` at the end,
    also after an error: it returns when no thread is left.
    """

    def __init__(
        self,
        source: FaceProvider,
        paths: Column,
        on_host: Collection[Preprocessing],
        on_device: Collection[Preprocessing] = (),
        *,
        native_size: tuple[int, int] | None = None,
        batch_size: int,
        num_threads: int,
        num_slots: int,
        pin_memory: bool,
    ) -> None:
        """`on_host` inputs are resized here, `on_device` ones later; `native_size` (H, W) is that of most faces."""
        self._source, self._paths = source, paths
        self._on_device = frozenset(on_device)
        self._transforms = {each: face_transform(each) for each in (*on_host, *on_device)}

        def buffer(height: int, width: int) -> Tensor:
            return torch.zeros(batch_size, height, width, 3, dtype=torch.uint8, pin_memory=pin_memory)

        def slot() -> Slot:
            return Slot(
                digests=np.zeros((batch_size, FACE_DIGEST_BYTES), np.uint8),
                ready={each: buffer(each.size_px, each.size_px) for each in on_host},
                native=buffer(*native_size) if on_device and native_size else None,
            )

        self._free = deque(slot() for _ in range(num_slots))
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="faces")
        self._chunk = max(LEAST_CHUNK, -(-batch_size // num_threads))
        self._last_of: dict[str, Future[None]] = {}

    def load(self, batches: Iterable[A]) -> Generator[tuple[A, Slot], None, None]:
        """Yields each batch in order when all its faces are there. Left early it gives back what it had begun.

        Raises:
            OSError: the faces folder is gone; a single face's trouble is only noted in `Slot.failed`.
        """
        todo = iter(batches)
        ahead: deque[tuple[A, Slot, list[Future[None]]]] = deque()
        try:
            while True:
                while self._free and (batch := next(todo, None)) is not None:
                    slot = self._free.popleft()
                    ahead.append((batch, slot, self._submit(batch, slot)))
                if not ahead:
                    return
                for future in ahead[0][2]:
                    future.result()
                batch, slot, _ = ahead.popleft()
                yield batch, slot
        finally:
            self._give_up(ahead)

    def release(self, slot: Slot) -> None:
        self._free.append(slot)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _give_up(self, ahead: Iterable[tuple[Asked, Slot, list["Future[None]"]]]) -> None:
        """Takes the slots of batches that nobody will ask for again; no thread writes into one any more."""
        for _, slot, futures in ahead:
            for future in futures:
                future.cancel()
            wait(futures)
            self._free.append(slot)
            self._last_of.clear()

    def _submit(self, batch: Asked, slot: Slot) -> list["Future[None]"]:
        slot.clear()
        paths = batch.paths(self._paths)
        futures = []
        for key, rows in self._source.groups(paths):
            if key is None:
                for first in range(rows.start, rows.stop, self._chunk):
                    chunk = paths[first : min(first + self._chunk, rows.stop)]
                    futures.append(self._threads.submit(self._fill, slot, batch, first, chunk))
            else:
                futures.append(self._submit_in_order(key, slot, batch, rows.start, paths[rows.start : rows.stop]))
        return futures

    def _submit_in_order(self, key: str, slot: Slot, batch: Asked, first: int, paths: Sequence[str]) -> "Future[None]":
        """Behind the last task of the same video: begun earlier, so waiting for it cannot lock up the threads."""
        before = self._last_of.get(key)

        def fill() -> None:
            if before is not None:
                before.result()
            self._fill(slot, batch, first, paths)

        future = self._threads.submit(fill)
        if before is None:
            self._last_of.clear()  # another video: the tables list one after the other
        self._last_of[key] = future
        return future

    def _fill(self, slot: Slot, batch: Asked, first: int, paths: Sequence[str]) -> None:
        """Loads `paths` into the rows from `first` on."""
        inputs, alter = batch.inputs, batch.alter
        ready = {each: slot.ready[each].numpy() for each in inputs if each in slot.ready}
        native = None if slot.native is None else slot.native.numpy()
        digests = []
        for row, face in enumerate(self._source.read(paths), first):
            digests.append(NO_DIGEST if isinstance(face, ValueError) else face.digest)
            try:
                if isinstance(face, ValueError):
                    raise face
                outs = {each: buffer[row] for each, buffer in ready.items()} if ready else ready
                # Decoded where it is wanted, if it is of that size; this saves a third of a small face's time.
                place = native[row] if native is not None else next(iter(outs.values()), None)
                pixels = face.load(place)
                if alter is not None:
                    pixels = _altered(alter, row, pixels, place)
                if outs:
                    self._resize(pixels, outs)
                if native is None or pixels is not place:
                    self._set_aside(slot, inputs, row, pixels)
            except ValueError as error:
                slot.failed[row] = str(error)
        found = np.frombuffer(b"".join(digests), np.uint8)
        slot.digests[first : first + len(paths)] = found.reshape(len(paths), FACE_DIGEST_BYTES)

    def _resize(self, pixels: np.ndarray, outs: Mapping[Preprocessing, np.ndarray]) -> None:
        for each, out in outs.items():
            made = self._transforms[each](pixels)
            if made is not out:
                out[:] = made

    def _set_aside(self, slot: Slot, inputs: Sequence[Preprocessing], row: int, pixels: np.ndarray) -> None:
        """Keeps a face for the device that has no place in the slot's buffer."""
        wanted = [each for each in inputs if each in self._on_device]
        if wanted and pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS:
            slot.odd[row] = pixels
        elif wanted:
            slot.shrunk[row] = {each: self._transforms[each](pixels) for each in wanted}


def _altered(alter: Alter, row: int, pixels: np.ndarray, place: np.ndarray | None) -> np.ndarray:
    """The face changed, and where it was if that is its place."""
    changed = alter(row, pixels)
    if pixels is not place:
        return changed
    pixels[:] = changed
    return pixels
