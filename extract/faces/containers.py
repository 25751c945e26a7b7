"""Files that hold a video's faces in one: which kinds there are, how they are found, and how few are open at once.

Place: above `extract.faces.archives` and `extract.faces.video`, below `extract.faces.source`.
"""

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from extract.faces.archives import TarArchive, ZipArchive
from extract.faces.decoding import FOLLOW, Face
from extract.faces.orientation import Orientations
from extract.faces.video import Video


class Container(Protocol):
    """The faces of one video, each named as the file it would be unpacked to, such as `00001.jpg`.

    Nothing is opened before the first question. Any thread may ask.
    """

    def face(self, name: str) -> Face:
        """Raises ValueError: a short reason why it cannot be had; OSError: the machine's trouble."""

    def digest(self, name: str) -> bytes:
        """That of `face`, without decoding; raises as it does."""

    def has(self, name: str) -> bool: ...

    def names(self) -> tuple[list[str], str | None]:
        """All faces, and where these may not be all of them, why."""

    def close(self) -> None: ...


New = Callable[[str, Orientations], Container]


class OpenContainers:
    """At most `limit` containers are open: the least recently used goes first, one in use stays."""

    def __init__(self, limit: int, orientations: Orientations = FOLLOW) -> None:
        self._limit, self._orientations = limit, orientations
        self._open: OrderedDict[str, Container] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def use(self, path: str) -> Iterator[Container]:
        """The container at `path`, which no other thread closes meanwhile; waits while all are in use.

        Never used inside itself: two threads could wait for one another.
        """
        container = self._take(path)
        try:
            yield container
        finally:
            with self._changed:
                self._users[path] -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Closes all, once none is in use."""
        with self._changed:
            while self._open:
                if not self._close_idle():
                    self._changed.wait()

    def _take(self, path: str) -> Container:
        with self._changed:
            while path not in self._open and len(self._open) >= self._limit and not self._close_idle():
                self._changed.wait()
            if path not in self._open:
                self._open[path] = new_container(path, self._orientations)
            self._open.move_to_end(path)
            self._users[path] += 1
            return self._open[path]

    def _close_idle(self) -> bool:
        """Closes the least recently used container that nobody uses; whether there was one."""
        path = next((path for path in self._open if not self._users[path]), None)
        if path is None:
            return False
        self._open.pop(path).close()
        del self._users[path]
        return True


def find_container(folder: str, video: str) -> str | None:
    """The file that holds the faces of `video`, a path without an ending, in the faces folder; None for none.

    The first of `KINDS` decides, but pictures beside a folder of faces are no faces: where a folder of the video's
    name has faces, a video file beside it is likely what they were cropped from, and is left alone.
    """
    place = f"{folder}/{video}"
    if is_video(video) and os.path.isfile(place):
        return place
    kinds = ARCHIVES if has_faces(place) else KINDS
    return next((place + suffix for suffix in kinds if os.path.isfile(place + suffix)), None)


def has_faces(folder: str) -> bool:
    """Whether image files lie in `folder` itself."""
    try:
        with os.scandir(folder) as entries:
            return any(is_face(entry.name) for entry in entries)
    except OSError:
        return False


def is_face(name: str) -> bool:
    return name.lower().endswith(FACE_SUFFIXES) and not name.startswith(".")


def is_video(path: str) -> bool:
    """Whether a container's path, by its ending, is a video's."""
    return path.endswith(tuple(VIDEOS))


def new_container(path: str, orientations: Orientations = FOLLOW) -> Container:
    return next(kind for suffix, kind in KINDS.items() if path.endswith(suffix))(path, orientations)


def _both_cases(kinds: dict[str, New]) -> dict[str, New]:
    return {name: kind for suffix, kind in kinds.items() for name in (suffix, suffix.upper())}


FACE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# In the order in which they are looked for. A compressed tar is found in order to say what to do about it.
ARCHIVES = _both_cases({".tar": TarArchive, ".zip": ZipArchive, ".tar.gz": TarArchive, ".tgz": TarArchive})
VIDEOS = _both_cases(dict.fromkeys((".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"), Video))
KINDS = ARCHIVES | VIDEOS
