"""The streams of a cache in a folder: one appears, and goes, in one step.

A stream is made whole under a temporary name and then renamed; it is renamed to a temporary name and then deleted.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cache.durable import TEMPORARY, remove_leftovers, sync, sync_tree, temporary_beside
from cache.marks import EMBEDDING
from cache.storage.folder import FolderStorage
from cache.writing.folder_place import FolderPlace


class FolderStreams:
    """The streams of the cache in `files`."""

    notes: tuple[str, ...] = ()  # for the user; a folder has none

    def __init__(self, files: FolderStorage) -> None:
        self.files, self._path = files, files.path

    def is_vacant(self) -> bool:
        """Nothing there, or only what a process killed while making a cache may have left."""
        if not self._path.exists():
            return True
        return self._path.is_dir() and all(entry.name.startswith(TEMPORARY) for entry in self._path.iterdir())

    def found(self, group: bytes) -> None:
        """Makes the empty cache, whose group is `group`."""
        self._path.mkdir(parents=True, exist_ok=True)
        self.files.put("zarr.json", group)
        sync(self._path.parent)

    def streams(self) -> list[tuple[str, str]]:
        """(name, view), sorted."""
        return [(name, view) for name in self.files.folders() for view in self.files.folders(name)]

    def names_with_arrays(self) -> list[str]:
        """Names of streams that have an embedding array, sorted."""
        files = self._path.glob(f"*/*/{EMBEDDING}/zarr.json")
        return sorted({file.parts[-4] for file in files if not file.parts[-4].startswith(".")})

    def make(self, name: str, view: str, where: str, group: bytes, fill: Callable[[Path], None]) -> None:
        """Puts what `fill` writes into the folder it is given as the stream; `group` is that of its name. Where another
        process was quicker, its stream stays."""
        remove_leftovers(self._path)
        temporary = temporary_beside(self._path / name)
        try:
            temporary.mkdir()
            (temporary / "zarr.json").write_bytes(group)
            fill(temporary / view)
            sync_tree(temporary)
            target = self._path / name
            _rename_if_absent(temporary, target)
            _rename_if_absent(temporary / view, target / view)
            if temporary.exists():  # beside what a killed removal left of the folder
                _rename_if_absent(temporary / "zarr.json", target / "zarr.json")
            sync(target)
            sync(self._path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def remove(self, name: str, view: str, where: str) -> None:
        """Removes a stream; the folder of its name with its last view.

        Raises:
            BeingWritten: a process is writing it.
        """
        folder = self._path / name / view
        with FolderPlace(FolderStorage(folder), where).held():
            temporary = temporary_beside(self._path / f"{name}-{view}")
            os.rename(folder, temporary)
        sync(folder.parent)
        shutil.rmtree(temporary)
        if not self.files.folders(name):
            shutil.rmtree(self._path / name, ignore_errors=True)


def _rename_if_absent(source: Path, target: Path) -> None:
    """Renames a folder; does nothing where `target` is there already or `source` has gone with its parent."""
    if target.exists():
        return
    try:
        os.rename(source, target)
    except OSError:
        if not target.exists():
            raise
