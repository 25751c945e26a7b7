"""The streams of a cache in an object store, where nothing can be renamed: order stands in place of it.

A stream is there when its group's metadata are, which are written last and deleted after marks and shards; or when it
has a mark, so that one that lost its metadata is not passed over.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cache.locks import BeingWritten
from cache.marks import MARKS
from cache.storage.claims import CLAIMS, claimed
from cache.storage.objects import ObjectStorage

GROUP_KEY = "zarr.json"
MAKING_S = 120.0  # how long another process may take to make the same stream
POLL_S = 0.5


class StoreStreams:
    """The streams of the cache in `files`."""

    def __init__(self, files: ObjectStorage, group: bytes, read_only: bool) -> None:
        """`group` is the cache's own; by writing it a second time a store is asked whether it keeps conditions."""
        self.files, self._group, self._read_only = files, group, read_only
        self.notes: tuple[str, ...] = ()

    def is_vacant(self) -> bool:
        return self.files.size(GROUP_KEY) is None and not self.files.folders()

    def found(self, group: bytes) -> None:
        self.files.put(GROUP_KEY, group)

    def probe(self) -> None:
        """Notes where the store ignores the condition by which a claim is made."""
        if not self._read_only and not self.files.has_conditions(GROUP_KEY, self._group):
            self.notes = (
                f"{self.files.name()}: this store ignores conditional writes (If-None-Match), so two writers are not "
                "kept apart; run one command at a time that writes to it",
            )

    def streams(self) -> list[tuple[str, str]]:
        """(name, view), sorted."""
        return [
            (name, view) for name in self.files.folders() for view in self.files.folders(name) if self._has(name, view)
        ]

    def _has(self, name: str, view: str) -> bool:
        files = self.files.below(f"{name}/{view}")
        return files.size(GROUP_KEY) is not None or bool(files.entries(MARKS))

    def names_with_arrays(self) -> list[str]:
        """Names of streams, sorted."""
        return sorted({name for name, _ in self.streams()})

    def make(self, name: str, view: str, where: str, group: bytes, fill: Callable[[Path], None]) -> None:
        """As `FolderStreams.make`; waits while another process makes the same stream.

        Raises:
            BeingWritten: it takes too long.
        """
        end_s = time.monotonic() + MAKING_S
        while not self._has(name, view):
            try:
                with claimed(self.files.below(f"{name}/{view}"), where):
                    if not self._has(name, view):
                        self._upload(name, view, group, fill)
            except BeingWritten:
                if time.monotonic() > end_s:
                    raise
                time.sleep(POLL_S)

    def _upload(self, name: str, view: str, group: bytes, fill: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder))
            made = {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.json")}
        self.files.put(f"{name}/{GROUP_KEY}", group)
        for key in sorted(made, key=lambda key: (key == GROUP_KEY, key)):
            self.files.put(f"{name}/{view}/{key}", made[key])

    def remove(self, name: str, view: str, where: str) -> None:
        """Removes a stream. One that is killed under way can be typed again: until it ends the stream is there.

        Raises:
            BeingWritten: a process is writing it.
        """
        files = self.files.below(f"{name}/{view}")
        with claimed(files, where):
            keys = [entry.key for entry in files.entries("") if not entry.key.startswith(f"{CLAIMS}/")]
            for kind in range(4):
                files.delete([key for key in keys if _rank(key) == kind])
        if not self.files.folders(name):
            self.files.delete([f"{name}/{GROUP_KEY}"])


def _rank(key: str) -> int:
    """When a key goes: marks first, so that what is left is a stream without rows; the arrays' metadata last."""
    if key.startswith(f"{MARKS}/"):
        return 0
    if key == GROUP_KEY:
        return 2
    return 3 if key.endswith("/zarr.json") else 1
