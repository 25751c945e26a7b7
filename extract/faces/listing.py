"""All faces of a folder: image files, members of archives, frames of videos, as paths of a frames table.

Place: above `extract.faces.containers`, below `extract.annotations.readers`.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from extract.faces.containers import KINDS, find_container, is_face, new_container

NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Listing:
    """`paths` relative to the faces folder, sorted; `faults` are archives and videos not listed whole, and why."""

    paths: list[str]
    faults: tuple[str, ...]


def list_faces(folder: Path) -> Listing:
    """Every face below `folder` as `VIDEO/00001.jpg`, however it is packed; hidden files are left out.

    The faces of one video have the same paths as files, in an archive and as a video file. Videos are decoded to count
    their frames, since what a file says of their number is often wrong.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such faces folder; name it with --faces or in mtl.toml under [data] faces")
    paths: set[str] = set()
    videos: set[str] = set()
    for prefix, files in _walk(folder):
        paths.update(prefix + name for name in files if is_face(name))
        videos.update(prefix + video for name in files if (video := _video_of(name)))
    found = {video: find_container(str(folder), video) for video in sorted(videos)}
    packed = [(video, path) for video, path in found.items() if path is not None]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        faults = []
        for (video, path), (names, fault) in zip(packed, pool.map(_names, (path for _, path in packed)), strict=True):
            paths.update(f"{video}/{name}" for name in names if is_face(name))
            faults += [f"{os.path.relpath(path, folder)}: {fault}"] if fault else []
    return Listing(sorted(paths), tuple(faults))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(prefix of the paths, names of the files) of `folder` and every folder below, without hidden ones."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(place, folder).replace(os.sep, "/") + "/"
        yield "" if prefix == "./" else prefix, [name for name in files if not name.startswith(".")]


def _video_of(name: str) -> str:
    """The video whose faces a file of this name holds, "" where it is no archive or video."""
    suffix = max((suffix for suffix in KINDS if name.endswith(suffix)), key=len, default=name)
    return name.removesuffix(suffix)


def _names(path: str) -> tuple[list[str], str | None]:
    with closing(new_container(path)) as container:
        return container.names()
