"""Faces for training a backbone, by the data path of extraction: its threads, its ring of buffers, its resizing.

So a face has the same pixels here and there, to the bit. The training loop asks for batches of any rows; it does not
know whether their faces wait on the device, in memory or on a disk, or are decoded ahead of it.
R faces held, B of a batch, S the side of a square face in pixels.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import torch
from torch import Tensor

from extract.config import Preprocessing
from extract.engine import default_num_threads
from extract.faces.source import FaceSource
from extract.jobs import native_size
from extract.kept import KeptFaces
from extract.loading import FaceProvider
from pipelines.backbones.augmentation import Augmentation
from pipelines.backbones.distributed import World
from pipelines.backbones.ring import Ring
from pipelines.progress import Advance, progress

RESIDENT_BYTES = 4 << 30
DEVICE_SHARE = 0.25  # of a GPU's free memory; the rest is the training's
CHUNK, SAMPLE = 256, 64
RowGroup = np.ndarray | tuple[np.ndarray, Augmentation]


class Faces:
    """The faces at `paths` under `folder`, uint8 [R, S, S, 3] on `device`; a context manager, for it owns threads.

    A face that cannot be read is in no batch; `unreadable` says which and why, as far as they have been met.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        preprocessing: Preprocessing,
        num_threads: int | None = None,
        *,
        device: torch.device = torch.device("cpu"),
        augmented: bool = False,
        follow_orientation: bool = True,
    ) -> None:
        """`augmented`: batches will come with RandAugment, which begins with the faces as they are in their files."""
        self.folder, self.paths, self.preprocessing = folder, paths, preprocessing
        self.device, self.augmented = device, augmented
        self.unreadable: dict[int, str] = {}
        self._num_threads = num_threads or max(default_num_threads() // processes_here(), 1)
        self._source = FaceSource(folder, follow_orientation=follow_orientation)
        self._kept: KeptFaces | None = None
        self._resident: Tensor | None = None
        self._ring: Ring | None = None

    def __enter__(self) -> "Faces":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close_ring()
        self._resident = None
        if self._kept is not None:
            self._kept.close()
        self._source.close()

    @property
    def num_bytes(self) -> int:
        """What all faces take where `load` keeps them."""
        return self._native_bytes if self._is_native else self._resized_bytes

    def fit_in(self, limit_bytes: int) -> bool:
        """Whether all faces fit on the GPU, or else into `limit_bytes` of the machine's memory."""
        return self._is_on_gpu or self.num_bytes <= limit_bytes

    @property
    def are_in_videos(self) -> bool:
        """Whether some faces are frames of video files, which can only be decoded front to back."""
        return any(key is not None for key, _ in self._source.groups(self.paths))

    def keep(self, limit_bytes: int, scratch: Path) -> None:
        """Decodes every face once and keeps it, under a bar, where all fit; else they are decoded in every epoch.

        Frames of video files that do not fit are kept in a file under `scratch`, for they cannot be read in any order.

        Raises:
            ValueError: frames of video files that fit neither in memory nor on the disk.
        """
        if self.fit_in(limit_bytes):
            spill = None
        elif self.are_in_videos:
            spill = scratch
            self._check_room(scratch)
        else:
            return
        with progress("decode", len(self.paths), "faces") as advance:
            self.load(advance, spill)

    def load(self, advance: Advance, spill: Path | None = None) -> None:
        """Decodes every face once and keeps it; from then on batches come from there.

        Faces are kept as they are trained on, on the device; or, for RandAugment and where the device has no room, as
        they were decoded, in memory or in a file under `spill`, which is gone with the process.
        """
        whole = spill is None and not self._is_native
        self._close_ring()
        if not whole:
            self._kept = KeptFaces(self._source, spill)
        side = self.preprocessing.size_px
        resident = torch.empty(len(self.paths) if whole else 0, side, side, 3, dtype=torch.uint8, device=self.device)
        for batch in self.batches(in_chunks(np.arange(len(self.paths)), CHUNK)):
            if whole:
                resident[torch.from_numpy(batch.rows).to(self.device)] = batch.faces
            advance(batch.num_asked)
        if whole:
            self._close_ring()
            self._resident = resident

    def batches(self, groups: Iterable[RowGroup]) -> Iterator["FaceBatch"]:
        """A batch for each group of rows, in order, decoded by threads a few batches ahead.

        With a group may come its `Augmentation`, face by face: RandAugment is applied here, the rest comes along
        with the batch, for the faces that could be read.
        """
        pairs = (each if isinstance(each, tuple) else (each, None) for each in groups)
        if self._resident is not None:
            for rows, augmentation in pairs:
                assert augmentation is None or not augmentation.rand_augment, (
                    "these faces are kept resized: say `augmented`"
                )
                yield self._batch(rows, augmentation, None)
            return
        if self._ring is None:
            source: FaceProvider = self._kept or self._source
            table = pl.Series(self.paths, dtype=pl.String)
            self._ring = Ring(source, table, self._native_size, self.preprocessing, self.device, self._num_threads)
        with contextlib.closing(self._ring.decoded(pairs)) as found:
            for each in found:
                for place, reason in each.failed.items():
                    self.unreadable.setdefault(int(each.rows[place]), reason)
                yield self._batch(each.rows, each.augmentation, each.faces)

    def _batch(self, rows: np.ndarray, augmentation: Augmentation | None, faces: Tensor | None) -> "FaceBatch":
        """The faces of the rows that can be read; from those that are resident where `faces` [B, S, S, 3] is None."""
        places = np.arange(len(rows))
        if self.unreadable:
            places = places[[row not in self.unreadable for row in rows.tolist()]]
        if faces is None:
            assert self._resident is not None
            faces = self._resident.index_select(0, torch.from_numpy(rows[places]).to(self.device))
        elif len(places) < len(rows):
            faces = faces[torch.from_numpy(places).to(self.device)]
        if augmentation is not None:
            augmentation = (augmentation if len(places) == len(rows) else augmentation.part(places)).to(self.device)
        return FaceBatch(rows=rows[places], faces=faces, num_asked=len(rows), places=places, augmentation=augmentation)

    def _close_ring(self) -> None:
        if self._ring is not None:
            self._ring.close()
        self._ring = None

    def _check_room(self, scratch: Path) -> None:
        free = shutil.disk_usage(scratch).free
        if self._native_bytes > free:
            raise ValueError(
                f"{self.folder}: {self._native_bytes / 2**30:.1f} GiB of faces do not fit in memory, and frames of "
                f"video files cannot be read in the random order of training; {scratch} has room for only "
                f"{free / 2**30:.1f} GiB of them: make room there, unpack the videos into images, or lower size_px"
            )

    @cached_property
    def _native_size(self) -> tuple[int, int]:
        """(H, W) of the first face of a sample that decodes, (0, 0) where none does."""
        sample = self.paths[:: max(-(-len(self.paths) // SAMPLE), 1)]
        return native_size(sample, self._source) or (0, 0)

    @property
    def _native_bytes(self) -> int:
        height, width = self._native_size
        return len(self.paths) * height * width * 3

    @property
    def _resized_bytes(self) -> int:
        return len(self.paths) * self.preprocessing.size_px**2 * 3

    @property
    def _is_native(self) -> bool:
        """Whether faces are to be kept as they are in their files."""
        return self.augmented or not (self._is_on_gpu or self.device.type == "cpu")

    @cached_property
    def _is_on_gpu(self) -> bool:
        """Whether faces are to be kept on a GPU, as they are trained on: where it has room to spare."""
        if self.augmented or self.device.type != "cuda":
            return False
        return self._resized_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceBatch:
    """`faces` [B, S, S, 3] uint8 on the device, of the `rows` [B] that could be read out of `num_asked`.

    `places` [B] is where each of them stood in the group that was asked for, and `augmentation` is that of these faces,
    on the device, where one was given.
    """

    rows: np.ndarray
    faces: Tensor
    num_asked: int
    places: np.ndarray
    augmentation: Augmentation | None = None


def in_chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """`rows` in order in as few chunks of at most `size` as will do, their lengths at most one apart."""
    return np.array_split(rows, -(-len(rows) // size)) if len(rows) else []


def memory_for_faces() -> int:
    """Bytes that this process's faces may take: 4 GiB, or a quarter of the machine's memory where that is less; of
    several processes on the machine each has its part."""
    return min(RESIDENT_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4) // processes_here()


def processes_here() -> int:
    """How many processes `torchrun` started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextlib.contextmanager
def progress_of_first(world: World, title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A progress bar over faces of the first process; the others have none."""
    if not world.is_first:
        yield lambda count: None
        return
    with progress(title, total, "faces", done) as advance:
        yield advance


def first_reason(faces: Faces) -> str:
    """The first unreadable face and what is wrong with it."""
    row = min(faces.unreadable, default=None)
    if row is None:  # another process has met them
        return "look into the other processes' reports"
    return f"{faces.folder / faces.paths[row]}: {faces.unreadable[row]}"
