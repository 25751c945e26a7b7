"""A folder of this machine as a `Storage`: fsync and rename make a write durable and whole."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from cache.durable import sync, write_durably
from cache.storage.base import new_digest


class FolderStorage:
    """Keys are paths below the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, key: str = "") -> str:
        return str(self.path / key)

    def below(self, key: str) -> "FolderStorage":
        return FolderStorage(self.path / key)

    def get(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        for key in keys:
            try:
                yield self.get(key)
            except FileNotFoundError:
                yield None

    def size(self, key: str) -> int | None:
        try:
            return (self.path / key).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, prefixes: Iterable[str]) -> Callable[[str], int | None]:
        return self.size

    def digest(self, key: str) -> tuple[int, str]:
        with open(self.path / key, "rb") as file:
            digest = hashlib.file_digest(file, new_digest)
            return file.tell(), digest.hexdigest()

    def put(self, key: str, data: bytes) -> None:
        path = self.path / key
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            sync(path.parent.parent)
        write_durably(path, data)

    def delete(self, keys: Sequence[str]) -> None:
        paths = [self.path / key for key in keys]
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in paths}:  # also of what was gone before: that may not be durable yet
            if folder.is_dir():
                sync(folder)

    def keys(self, prefix: str) -> Iterator[str]:
        for folder, _, names in os.walk(self.path / prefix):
            for name in names:
                yield (Path(folder) / name).relative_to(self.path).as_posix()

    def folders(self, prefix: str = "") -> list[str]:
        path = self.path / prefix
        if not path.is_dir():
            return []
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def total_bytes(self, prefix: str = "") -> int:
        total = 0
        for path in (self.path / prefix).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a writer's temporary
                status = path.stat()
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
        return total
