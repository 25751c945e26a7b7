"""The units of sources whose faces need no detector: aligned crops, read ahead by threads."""

import hashlib
import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.cores import num_cores
from extract.annotations.columns import frame_in, video_in
from extract.faces.containers import find_container
from extract.faces.source import FaceSource
from pipelines.predict.observed import ObservedFace, ObservedFrame
from pipelines.predict.sources import Source

READ_AT_ONCE = 32  # faces of a task
TASKS_AHEAD = 8


class AlignedFaces:
    """All crops of a source, one face per frame. Heads count time in the frame numbers of their names."""

    time_unit = "frames"
    is_detected = False

    def __init__(self, source: Source, follow_orientation: bool) -> None:
        self._source, self._follow = source, follow_orientation
        self.name = str(source.given)
        self.rows = face_rows(source)
        self.num_frames: int | None = len(self.rows)
        self.why_ended = "; ".join(source.faults)
        self.origin: Mapping[str, Any] = {
            "faces": str(source.folder.resolve()),
            "files": stamp(source.folder, self.rows["path"].to_list()),
            "follow_orientation": follow_orientation,
        }

    def frames(self, done: int, state: Any) -> Generator[ObservedFrame, None, None]:
        rows = self.rows.slice(done)
        paths = rows["path"].to_list()
        with reading(self._source.folder, self._follow) as source, closing(read_ahead(source, paths)) as crops:
            for (video, frame), crop in zip(rows.select("video", "frame").iter_rows(), crops, strict=True):
                face = (
                    ObservedFace(crop=None, fault=str(crop))
                    if isinstance(crop, ValueError)
                    else ObservedFace(crop=crop)
                )
                yield ObservedFrame(video=video, frame=frame, faces=(face,))


def face_rows(source: Source) -> pl.DataFrame:
    """video, frame and path of each face of an aligned source, sorted. A picture in no folder is of the video that the
    source is named after; where a name has no number, each picture is a video of its own."""
    rows = pl.DataFrame({"path": list(source.paths)}, schema={"path": pl.String})
    rows = rows.with_columns(
        video=video_in(pl.col("path")).fill_null(source.name), frame=frame_in(pl.col("path"))
    ).with_columns(
        alone=pl.col("frame").is_null().any().over("video")
        | pl.struct("video", "frame").is_duplicated().any().over("video")
    )
    stem = pl.col("path").str.replace(r"\.[^./]*$", "")
    alone = pl.col("alone")
    rows = rows.with_columns(
        video=pl.when(alone).then(stem).otherwise("video"), frame=pl.when(alone).then(1).otherwise("frame")
    ).drop("alone")
    return rows.select("video", "frame", "path").sort("video", "frame", "path")


def stamp(folder: Path, paths: Sequence[str]) -> str:
    """A digest over the paths, sizes and times of change of files, and of what holds those that are packed."""
    digest = hashlib.blake2b(digest_size=16)
    packed: set[str] = set()
    for path in paths:
        digest.update(f"{path}\0".encode(errors="surrogatepass"))
        place = folder / path
        if not place.is_file():
            container = find_container(str(folder), path.rpartition("/")[0])
            if container is None or container in packed:
                continue
            packed.add(container)
            place = Path(container)
        status = os.stat(place)
        digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def reading(folder: Path, follow_orientation: bool) -> AbstractContextManager[FaceSource]:
    """The faces of a folder, to be closed."""
    return closing(FaceSource(folder, follow_orientation=follow_orientation))


def read_ahead(source: FaceSource, paths: Sequence[str]) -> Generator[np.ndarray | ValueError, None, None]:
    """Each face's pixels in order, or why there are none; some tasks are read ahead. A video's frames are read by one
    thread after another."""
    is_ordered = any(key is not None for key, _ in source.groups(paths))
    with ThreadPoolExecutor(1 if is_ordered else min(4, num_cores())) as pool:
        under_way: deque[Future[list[np.ndarray | ValueError]]] = deque()
        for start in range(0, len(paths), READ_AT_ONCE):
            under_way.append(pool.submit(_read, source, paths[start : start + READ_AT_ONCE]))
            if len(under_way) > TASKS_AHEAD:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


def _read(source: FaceSource, paths: Sequence[str]) -> list[np.ndarray | ValueError]:
    found: list[np.ndarray | ValueError] = []
    for face in source.read(paths):
        try:
            if isinstance(face, ValueError):
                raise face
            found.append(face.pixels())
        except ValueError as error:
            found.append(error)
    return found
