"""Writing to a folder: embeddings through zarr, then fsync of their file and folders, as zarr itself never syncs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cache import marks, shards
from cache.durable import naming, remove_leftovers, sync
from cache.locks import WHOLE, Part, in_turn_by, writing
from cache.storage.folder import FolderStorage

MOVING = "moving.lock"


class FolderPlace:
    """The folder of `files`, a stream that `where` names in errors. A `cache.writing.shard_writer.Place`."""

    def __init__(self, files: FolderStorage, where: str) -> None:
        self._files, self._folder, self._where = files, files.path, where
        self._marks = files.path / marks.MARKS
        self._array: Any = None

    @contextlib.contextmanager
    def held(self, part: Part = WHOLE) -> Iterator[None]:
        """Also clears away what a killed writer left half-written."""
        self._marks.mkdir(parents=True, exist_ok=True)
        with writing(self._marks, self._where, part):
            small = (self._folder / name / shards.CHUNKS for name in (shards.STATE, shards.FACE_DIGEST))
            for folder in (self._marks, *(each for top in small for each in (top, *top.glob("*")))):
                remove_leftovers(folder)
            sync(self._marks)  # a killed writer may have removed marks that a crash would bring back
            yield

    @contextlib.contextmanager
    def moving(self) -> Iterator[Callable[[], None]]:
        with in_turn_by(self._marks / MOVING):
            yield self.check

    def check(self) -> None:
        pass  # the system keeps the lock of a process that stands still

    def put_embeddings(self, shard: int, rows: tuple[int, int], values: np.ndarray) -> marks.FileRecord:
        with naming(self._folder):
            self._remove_file(shard)  # zarr would merge a part-filled last shard into what it finds, whole or not
            if self._array is None:
                self._array = shards.open_for_writing(self._folder, shards.EMBEDDING)
            self._array[slice(*rows)] = values
            path = self._folder / shards.shard_file(shards.EMBEDDING, shard)
            for each in (path, path.parent, path.parent.parent):
                sync(each)
        return marks.FileRecord.read(self._files, shards.shard_file(shards.EMBEDDING, shard))

    def undo(self, shard: int) -> None:
        with contextlib.suppress(OSError):  # written already, where only its folder's sync failed
            self._files.delete([marks.mark_key(shard)])
        with contextlib.suppress(OSError):
            self._remove_file(shard)

    def _remove_file(self, shard: int) -> None:
        """Removes a shard's file and zarr's temporaries beside it."""
        path = self._folder / shards.shard_file(shards.EMBEDDING, shard)
        for leftover in path.parent.glob(f"{path.name}.*.partial"):
            leftover.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
