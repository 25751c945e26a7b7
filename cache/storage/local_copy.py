"""Objects kept in a folder of this machine, by the digest of their bytes: what was fetched once is not fetched again.

A file is there whole or not at all, and one whose object has changed since is another file. Where they would be more
than the limit, those that were not used for longest go. Several processes may share the folder.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cache.durable import TEMPORARY, remove_leftovers, write_whole
from cache.storage.base import digest_of

SLACK = 0.1


class LocalCopy:
    """The files in `folder`, at most `max_bytes` of them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._room = 0  # bytes that may be added before the folder is looked through

    def path(self, digest: str, num_bytes: int, fetch: Callable[[], bytes]) -> Path | None:
        """The file of `num_bytes` with that digest, hexadecimal; fetched where it is not there yet. None where what was
        fetched has another digest.

        Raises:
            ValueError: `num_bytes` alone are more than the limit, or the folder cannot be used.
        """
        path = self._folder / digest[:2] / digest
        with self._naming():
            if self._is_there(path, num_bytes):
                return path
        if num_bytes > self._max_bytes:
            raise ValueError(
                f"{self._folder}: holds {self._max_bytes:,} bytes, one shard has {num_bytes:,}; raise local_gb"
            )
        data = fetch()
        if digest_of(data) != digest:
            return None
        with self._lock, self._naming():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            write_whole(path, data)
        return path

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Says which setting a folder comes from that cannot be made, read or written."""
        try:
            yield
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise ValueError(
                f"[cache] local = {self._folder}: {(error.strerror or str(error)).lower()}; name a folder that can be "
                "written to"
            ) from None

    def drop(self, digest: str) -> bool:
        """Removes a file that was found damaged; whether it was there."""
        path = self._folder / digest[:2] / digest
        found = path.exists()
        path.unlink(missing_ok=True)
        return found

    def _is_there(self, path: Path, num_bytes: int) -> bool:
        """Also notes that it is in use."""
        try:
            if path.stat().st_size != num_bytes:
                return False
            with contextlib.suppress(PermissionError):  # another user's
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _make_room(self, num_bytes: int) -> None:
        """Removes files, if need be, so that `num_bytes` more are within the limit, and SLACK of it besides: looking
        through the folder takes long where it has many."""
        if num_bytes <= self._room:
            self._room -= num_bytes
            return
        found = []
        for folder in self._folder.iterdir():
            if folder.is_dir():
                remove_leftovers(folder)
                for path in folder.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        status = path.stat()
                        found.append((path.name.startswith(TEMPORARY), status.st_mtime_ns, status.st_size, path))
        total = num_bytes + sum(size for _, _, size, _ in found)
        if total > self._max_bytes:
            for is_temporary, _, size, path in sorted(found):
                if total <= (1 - SLACK) * self._max_bytes:
                    break
                if not is_temporary:
                    path.unlink(missing_ok=True)
                    total -= size
        self._room = int(min(max(self._max_bytes - total, 0), SLACK * self._max_bytes))
