"""Writing a shard: arrays through zarr, fsync of their files and folders, then the mark.

So a mark means that all the shard's rows are on the disk (zarr itself never syncs), and killing the writer at any
moment costs the shard in hand and nothing else. Letters: R rows of a shard, D width.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache import marks, shards
from cache.durable import naming, remove_leftovers, sync
from cache.locks import WHOLE, Part, writing
from cache.storage.folder import FolderStorage


class ShardWriter:
    """Writes shards of the stream in the folder of `files`, which `where` names in errors."""

    def __init__(self, files: FolderStorage, where: str) -> None:
        self.files, self.folder, self.where = files, files.path, where
        self.marks_folder = files.path / marks.MARKS
        self._depth = 0
        self._arrays: dict[str, Any] = {}
        self._half_written: set[int] = set()

    @contextlib.contextmanager
    def lock(self, part: Part = WHOLE) -> Iterator[None]:
        """Keeps other writers of `part` out; clears away what a killed one left half-written. May be nested.

        Raises:
            ValueError: another process is writing; names it.
        """
        if self._depth:
            yield
            return
        self.marks_folder.mkdir(parents=True, exist_ok=True)
        with writing(self.marks_folder, self.where, part):
            remove_leftovers(self.marks_folder)
            self._half_written = self._half_written_states()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def write(
        self, shard: int, rows: tuple[int, int], arrays: Mapping[str, np.ndarray], failed: dict[int, str]
    ) -> None:
        """Writes `arrays` (name -> [R, ...]) as rows [start, stop) and marks the shard; durable on return.

        Raises:
            OSError: the disk; the shard is not marked, its files are removed, and other shards stay as they were.
        """
        with self.lock():
            marks.remove_marks(self.files, [shard])
            try:
                with naming(self.folder):
                    self._write_arrays(shard, rows, arrays)
                files = {name: marks.FileRecord.read(self.files, name) for name in shards.shard_files(shard)}
                checksum = marks.checksum(arrays[shards.EMBEDDING])
                mark = marks.Mark(rows=rows, checksum=checksum, files=files, failed=failed)
                marks.write_mark(self.files, shard, mark)
            except BaseException:
                with contextlib.suppress(OSError):  # written already, where only its folder's sync failed
                    marks.remove_marks(self.files, [shard])
                with contextlib.suppress(OSError):
                    self._half_written |= {shard}
                    self._remove_files(shard)
                raise

    def forget(self, shard: int) -> None:
        """Removes a shard's mark, so that the next extraction redoes the shard."""
        with self.lock():
            marks.remove_marks(self.files, [shard])

    def _write_arrays(self, shard: int, rows: tuple[int, int], arrays: Mapping[str, np.ndarray]) -> None:
        self._remove_files(shard)  # zarr would merge a part-filled last shard into what it finds, whole or not
        for name, values in arrays.items():
            if name not in self._arrays:
                self._arrays[name] = shards.open_for_writing(self.folder, name)
            self._arrays[name][slice(*rows)] = values
        files = [Path(name) for name in shards.shard_files(shard)]
        folders = {parent for file in files for parent in file.parents if shards.CHUNKS in parent.parts}
        for path in (*files, *sorted(folders, reverse=True)):
            sync(self.folder / path)

    def _remove_files(self, shard: int) -> None:
        """Removes a shard's files and zarr's temporaries beside them."""
        for name in shards.shard_files(shard):
            path = self.folder / name
            if path.parent.name != shards.CHUNKS or shard in self._half_written:
                for leftover in path.parent.glob(f"{path.name}.*.partial"):
                    leftover.unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _half_written_states(self) -> set[int]:
        """Shards with a temporary in the folder that all shards' states share. Listed once: a listing a shard took a
        sixth of the time of writing 8,000 shards. Another part's writer may be at some of them."""
        folder = (self.folder / shards.shard_file(shards.STATE, 0)).parent
        names = [path.name.split(".")[0] for path in folder.glob("*.partial")]
        return {int(name) for name in names if name.isdecimal()}
