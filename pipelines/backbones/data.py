"""Labelled faces for training a backbone: decoded by threads, ordered, changed a little. R faces held, B of a batch.

The training loop in `pipelines.backbones.finetune` asks for batches; it does not know whether they wait in memory or
are decoded ahead of it. Letters as everywhere; S here is the side of a square face in pixels.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from extract.backbones.build import face_transform
from extract.config import Preprocessing
from extract.faces.source import FaceSource
from pipelines.config import FinetuneConfig
from pipelines.progress import Advance

RESIDENT_BYTES = 4 << 30
CHUNK = 256


class Faces:
    """The faces at `paths` under `folder`, uint8 [R, S, S, 3]; a context manager, for it owns threads.

    A face that cannot be read is in no batch; `unreadable` says which and why, as far as they have been met.
    """

    def __init__(
        self, folder: Path, paths: Sequence[str], preprocessing: Preprocessing, num_threads: int | None = None
    ) -> None:
        self.folder, self.paths, self.preprocessing = folder, paths, preprocessing
        self.side = preprocessing.size_px
        self.unreadable: dict[int, str] = {}
        self._source = FaceSource(folder)
        self._transform = face_transform(preprocessing)
        self._resident: np.ndarray | None = None
        num_threads = num_threads or os.cpu_count() or 1
        self._ahead = num_threads + 1
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="faces")

    def __enter__(self) -> "Faces":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._source.close()

    @property
    def num_bytes(self) -> int:
        """What all faces take in memory."""
        return len(self.paths) * self.side**2 * 3

    def fit_in(self, limit_bytes: int) -> bool:
        """Whether all faces together take at most `limit_bytes`."""
        return self.num_bytes <= limit_bytes

    @property
    def are_in_videos(self) -> bool:
        """Whether some faces are frames of video files, which can only be decoded front to back."""
        return any(key is not None for key, _ in self._source.groups(self.paths))

    def load(self, advance: Advance) -> None:
        """Decodes every face once and keeps it; from then on batches come from memory."""
        faces = np.empty((len(self.paths), self.side, self.side, 3), dtype=np.uint8)
        for chunk in self.batches(in_chunks(np.arange(len(self.paths)), CHUNK)):
            faces[chunk.rows] = chunk.faces.numpy()
            advance(chunk.num_asked)
        self._resident = faces

    def batches(self, groups: Iterable[np.ndarray]) -> Iterator["FaceBatch"]:
        """A batch for each group of rows, in order, made by threads a few batches ahead."""
        pending: deque[Future[FaceBatch]] = deque()
        for rows in groups:
            pending.append(self._pool.submit(self._read, rows))
            if len(pending) > self._ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _read(self, rows: np.ndarray) -> "FaceBatch":
        if self._resident is not None:
            readable = rows[[row not in self.unreadable for row in rows.tolist()]] if self.unreadable else rows
            return FaceBatch(rows=readable, faces=torch.from_numpy(self._resident[readable]), num_asked=len(rows))
        faces: list[np.ndarray] = []
        found: list[int] = []
        for row, face in zip(rows.tolist(), self._source.read([self.paths[row] for row in rows]), strict=True):
            try:
                if isinstance(face, ValueError):
                    raise face
                faces.append(self._transform(face.pixels()))
                found.append(row)
            except ValueError as error:  # an OSError is the machine's or the folder's, not one face's
                self.unreadable[row] = str(error)
        block = np.stack(faces) if faces else np.empty((0, self.side, self.side, 3), dtype=np.uint8)
        return FaceBatch(rows=np.array(found, dtype=np.int64), faces=torch.from_numpy(block), num_asked=len(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceBatch:
    """`faces` [B, S, S, 3] uint8 of the `rows` [B] that could be read, out of `num_asked`."""

    rows: np.ndarray
    faces: torch.Tensor
    num_asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is changed about each of B faces: mirrored or not, and factors of brightness and contrast around 1."""

    flip: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor

    @classmethod
    def draw(cls, config: FinetuneConfig, num_faces: int, rng: np.random.Generator) -> "Changes":
        """Changes for `num_faces`, drawn on the CPU: the same on every device."""
        flip, brightness, contrast = rng.random((3, num_faces), dtype=np.float32)
        return cls(
            flip=torch.from_numpy(flip < config.flip),
            brightness=torch.from_numpy(1 + config.brightness * (2 * brightness - 1)),
            contrast=torch.from_numpy(1 + config.contrast * (2 * contrast - 1)),
        )

    def to(self, device: torch.device) -> "Changes":
        return Changes(
            flip=self.flip.to(device), brightness=self.brightness.to(device), contrast=self.contrast.to(device)
        )


def mirror(faces: torch.Tensor, changes: Changes) -> torch.Tensor:
    """The faces [B, S, S, 3], those with `flip` mirrored: no label here knows left from right."""
    return torch.where(changes.flip[:, None, None, None], faces.flip(2), faces)


def relight(pixels: torch.Tensor, changes: Changes, preprocessing: Preprocessing) -> torch.Tensor:
    """The normalised `pixels` [B, 3, S, S] as if brightness and then contrast had been changed before normalising.

    With p in 0..1 and m the mean of a face over pixels and channels: b p, then c (b p - b m) + b m; one multiply-add a
    face. Nothing is cut off at 0 and 1.
    """
    mean = pixels.new_tensor(preprocessing.mean)[None, :, None, None]
    std = pixels.new_tensor(preprocessing.std)[None, :, None, None]
    level = (pixels.mean(dim=(2, 3), keepdim=True) * std + mean).mean(dim=1, keepdim=True)
    bright, contrast = changes.brightness[:, None, None, None], changes.contrast[:, None, None, None]
    scale = bright * contrast
    shift = bright * (1 - contrast) * level
    return torch.addcmul((shift + (scale - 1) * mean) / std, pixels, scale)


def epoch_batches(rows: np.ndarray, config: FinetuneConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch's batches of `rows`: a random order, at most `max_faces_per_epoch` of them, batches of even size.

    Even, because a last batch of one face would have no spread for batch normalisation.
    """
    order = rng.permutation(rows)
    return in_chunks(order[: config.max_faces_per_epoch] if config.max_faces_per_epoch else order, config.batch_size)


def in_chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """`rows` in order in as few chunks of at most `size` as will do, their lengths at most one apart."""
    return np.array_split(rows, -(-len(rows) // size)) if len(rows) else []


def memory_for_faces() -> int:
    """Bytes that faces may take: 4 GiB, or a quarter of the machine's memory where that is less."""
    return min(RESIDENT_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
