"""Faces kept as they were decoded, so that a training decodes each once: in memory, or in a file without a name.

Place: a source like `extract.faces.source.FaceSource`, between it and `extract.loading`. H and W of a face file.
"""

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from extract.faces.decoding import Face
from extract.loading import FaceProvider


class KeptFaces:
    """The faces of `source`, each read from there the first time it is asked for. Any thread may use it."""

    def __init__(self, source: FaceProvider, folder: Path | None = None) -> None:
        """Kept in memory; in a file under `folder` where one is given, which is gone with the process."""
        self._source = source
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._end, self._lock = 0, threading.Lock()
        self._kept: dict[str, tuple[bytes, np.ndarray | tuple[int, tuple[int, ...]]] | ValueError] = {}

    def groups(self, paths: Sequence[str]) -> list[tuple[str | None, range]]:
        """As `FaceSource.groups`; faces that are kept may be read in any order."""
        if all(path in self._kept for path in paths):
            return [(None, range(len(paths)))]
        return self._source.groups(paths)

    def read(self, paths: Sequence[str]) -> Iterator[Face | ValueError]:
        """As `FaceSource.read`; a face that could not be had is not tried again."""
        for path in paths:
            kept = self._kept.get(path)
            if kept is None:
                yield from (self._keeping(path, face) for face in self._source.read([path]))
            elif isinstance(kept, ValueError):
                yield kept
            else:
                yield Face(kept[0], partial(self._load, kept[1]))

    def close(self) -> None:
        self._kept.clear()
        if self._file is not None:
            self._file.close()

    def _keeping(self, path: str, face: Face | ValueError) -> Face | ValueError:
        """The face, kept as soon as it is decoded."""
        if isinstance(face, ValueError):
            self._kept[path] = face
            return face

        def load(out: np.ndarray | None) -> np.ndarray:
            try:
                pixels = face.load(out)
            except ValueError as error:
                self._kept[path] = error
                raise
            self._kept[path] = (face.digest, self._put(pixels))
            return pixels

        return Face(face.digest, load)

    def _put(self, pixels: np.ndarray) -> np.ndarray | tuple[int, tuple[int, ...]]:
        if self._file is None:
            return pixels.copy()
        with self._lock:
            start, self._end = self._end, self._end + pixels.nbytes
        data = memoryview(pixels.tobytes())
        done = 0
        while done < len(data):  # a full disk raises OSError, which is no face's fault
            done += os.pwrite(self._file.fileno(), data[done:], start + done)
        return start, pixels.shape

    def _load(self, kept: np.ndarray | tuple[int, tuple[int, ...]], out: np.ndarray | None) -> np.ndarray:
        if isinstance(kept, tuple):
            assert self._file is not None
            start, shape = kept
            data = os.pread(self._file.fileno(), int(np.prod(shape)), start)
            kept = np.frombuffer(data, np.uint8).reshape(shape)
        if out is None or out.shape != kept.shape:
            return kept.copy()
        out[:] = kept
        return out
