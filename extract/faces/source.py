"""Where faces come from: image files, an archive of a video's faces, or a video already cropped to the face.

The path `A/B/00001.jpg` of the frames table means, in this order: the file of that name in the faces folder; the member
`00001.jpg` of `A/B.tar` or `A/B.zip`; the first frame of the video file `A/B.mp4` (or another of
`extract.faces.containers.VIDEOS`), decoded frames being counted from 1 as Aff-Wild2's crops are. So a frames table, and
with it a stream's identity, does not depend on how faces are packed; nor do digests, between files and archives. The
path `A/B.mp4/00001.jpg` names the video file outright. Faces are upright as a person sees them: what a picture or a
video notes of its orientation is followed, unless it is told not to.

Place: above `extract.faces.decoding` and `extract.faces.containers`; below all that reads faces.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from extract.faces.containers import OpenContainers, find_container, is_video
from extract.faces.decoder import NoDecoder
from extract.faces.decoding import Face, MissingFace, decode, face_digest, is_inside, read_face_bytes
from extract.faces.orientation import Orientations

NUM_THREADS = 8  # for digests: reading small files waits for the disk
CHUNK = 64  # faces a task
MAX_REMEMBERED = 1 << 14  # videos


class FaceSource:
    """The faces of one folder, however packed. Any thread may use it; `close` when none does.

    Plain files cost one open() each. Where a file is missing, what holds its video's faces is looked for once.
    """

    def __init__(self, folder: Path, num_open: int = 64, follow_orientation: bool = True) -> None:
        self._folder = str(folder)
        self.orientations = Orientations(follow_orientation)
        self._containers = OpenContainers(num_open, self.orientations)
        self._found: dict[str, str | None] = {}

    def groups(self, paths: Iterable[str]) -> list[tuple[str | None, range]]:
        """`paths` as consecutive rows with a key.

        Rows of key None may be read in any order by any thread. Groups of one key are a video file's: these are read
        one after another in the order they were made, else each reading begins at the video's front.
        """
        keyed: list[tuple[str | None, range]] = []
        stop = 0
        for video, same in itertools.groupby(paths, _video_of):
            rows = list(same)
            key, start, stop = self._key(video, rows[0]), stop, stop + len(rows)
            if keyed and keyed[-1][0] == key:
                start = keyed.pop()[1].start
            keyed.append((key, range(start, stop)))
        return keyed

    def read(self, paths: Sequence[str]) -> Iterator[Face | ValueError]:
        """Each face in order, or why it cannot be had in a few words; `MissingFace` where there is none.

        Raises:
            OSError: the faces folder is gone, or the machine is out of memory or open files.
        """
        for path in paths:
            try:
                data = read_face_bytes(self._folder, path)
                yield Face(face_digest(data), partial(decode, data, orientations=self.orientations))
            except MissingFace as error:
                yield self._packed(path, error)
            except ValueError as error:
                yield error

    def exists(self, path: str) -> bool:
        """Whether the face is there; of a video file it is only known that it can be opened."""
        if not is_inside(path):
            return False
        if os.path.isfile(f"{self._folder}/{path}"):
            return True
        container = self._container(_video_of(path))
        if container is None:
            return False
        with self._containers.use(container) as faces:
            return faces.has(_name_of(path))

    def digest(self, path: str) -> bytes | None:
        """That of the face `read` gives, without decoding; None where it gives a ValueError. Raises OSError as it."""
        try:
            return self._digest(path)
        except ValueError:
            return None

    def digests(self, paths: Sequence[str]) -> Iterator[bytes | None]:
        """`digest` of each of `paths` in order, taken by several threads.

        Raises:
            NoDecoder: videos cannot be opened here, which says nothing about their frames.
            OSError: as `read`.
        """
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
            for digests in pool.map(self._digests, chunks):
                yield from digests

    def close(self) -> None:
        self._containers.close()

    def _digests(self, paths: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for path in paths:
            try:
                found.append(self._digest(path))
            except NoDecoder:
                raise
            except ValueError:
                found.append(None)
        return found

    def _digest(self, path: str) -> bytes:
        try:
            return face_digest(read_face_bytes(self._folder, path))
        except MissingFace:
            container = self._container(_video_of(path))
            if container is None:
                raise
        with self._containers.use(container) as faces:
            return faces.digest(_name_of(path))

    def _packed(self, path: str, missing: MissingFace) -> Face | ValueError:
        """The face in a container; `missing` where there is none for its video."""
        container = self._container(_video_of(path))
        if container is None:
            return missing
        try:
            with self._containers.use(container) as faces:
                return faces.face(_name_of(path))
        except ValueError as error:
            return error

    def _key(self, video: str, path: str) -> str | None:
        """The video file that holds `path`, None for a plain file or an archive."""
        if not is_inside(path) or (video not in self._found and os.path.isfile(f"{self._folder}/{path}")):
            return None
        container = self._container(video)
        return container if container is not None and is_video(container) else None

    def _container(self, video: str) -> str | None:
        """What holds the faces of `video`, looked for once; forgotten when these are many."""
        try:
            return self._found[video]
        except KeyError:
            found = find_container(self._folder, video) if video else None
        if len(self._found) >= MAX_REMEMBERED:
            self._found.clear()
        self._found[video] = found
        return found


def _video_of(path: str) -> str:
    return path.rpartition("/")[0]


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]
