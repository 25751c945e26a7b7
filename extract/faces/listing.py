"""All faces of a folder: image files, members of archives, frames of videos, as paths of a frames table.

Place: above `extract.faces.containers`, below `extract.annotations.readers`.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache.cores import num_cores
from cache.regular import check_regular
from extract.faces.containers import KINDS, find_container, is_face, is_video, new_container
from extract.faces.decoding import is_machines

NUM_THREADS = 8  # at most
ENDINGS = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Listing:
    """`paths` relative to the faces folder, sorted; `faults` are archives and videos not listed whole, and why;
    `repeated` are links to folders that are listed already, and were left out; `unopened` are video files, without
    their endings, whose frames were not asked for."""

    paths: list[str]
    faults: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    unopened: tuple[str, ...] = ()


def list_faces(folder: Path, *, open_videos: bool = True) -> Listing:
    """Every face below `folder` as `VIDEO/00001.jpg`, however it is packed; hidden files are left out.

    A folder is listed once, under its own name where it has one here: a link that leads to it again, or round in a
    circle, is left out.

    The faces of one video have the same paths as files, in an archive and as a video file. Videos are decoded to count
    their frames, since what a file says of their number is often wrong; without `open_videos` they are only named.

    Raises:
        ValueError: there is no such folder, or a folder below cannot be listed: a part would pass for the whole.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such faces folder; name it with --faces or in mtl.toml under [data] faces")
    paths: list[str] = []
    inside: set[str] = set()
    videos: set[str] = set()
    faults: list[str] = []
    repeated: list[str] = []
    for prefix, files in _walk(folder, repeated):
        paths += [prefix + name for name in files if is_face(name)]
        packed_files = [name for name in files if _video_of(name)]
        videos.update(prefix + _video_of(name) for name in packed_files)
        faults += [fault for name in packed_files if (fault := _odd(folder, prefix + name))]
    found = {video: find_container(str(folder), video) for video in sorted(videos)}
    packed = [(video, path) for video, path in found.items() if path is not None]
    unopened = () if open_videos else tuple(video for video, path in packed if is_video(path))
    packed = [(video, path) for video, path in packed if open_videos or not is_video(path)]
    with ThreadPoolExecutor(min(NUM_THREADS, num_cores())) as pool:
        for (video, path), (names, fault) in zip(packed, pool.map(_names, (path for _, path in packed)), strict=True):
            inside.update(f"{video}/{name}" for name in names if is_face(name))
            faults += [f"{os.path.relpath(path, folder)}: {fault}"] if fault else []
    if inside:
        paths = [*inside.union(paths)]
    return Listing(sorted(paths), tuple(faults), tuple(repeated), unopened)


def _walk(folder: Path, repeated: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(prefix of the paths, names of the files) of `folder` and every folder below, without hidden ones; links that
    were left out are added to `repeated`. Folders first, then links to others, so a folder goes by its own name."""
    seen: set[tuple[int, int]] = set()
    todo, links = [""], deque[str]()
    while todo or links:
        prefix = todo.pop() if todo else links.popleft()
        with _listing(folder / prefix):
            status = os.stat(folder / prefix)
            if (status.st_dev, status.st_ino) in seen:
                repeated.append(f"{prefix.removesuffix('/')} -> {os.path.realpath(folder / prefix)}")
                continue
            seen.add((status.st_dev, status.st_ino))
            folders, linked, files = _entries(folder / prefix)
        todo += [f"{prefix}{name}/" for name in reversed(folders)]
        links += [f"{prefix}{name}/" for name in linked]
        yield prefix, files


def _entries(place: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of the folders in `place`, of the links to folders, and of all other files, each in order."""
    kinds: tuple[list[str], list[str], list[str]] = ([], [], [])
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if not entry.name.startswith("."):
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
                kinds[0 if is_folder and not entry.is_symlink() else 1 if is_folder else 2].append(entry.name)
    return kinds


@contextmanager
def _listing(place: Path) -> Iterator[None]:
    """An OSError from inside says that `place` cannot be listed."""
    try:
        yield
    except OSError as error:
        if is_machines(error):
            raise
        raise ValueError(
            f"{place}: cannot be listed ({error.strerror}), so its faces would be missing; give yourself the right to "
            "read it, or move it out of the faces folder"
        ) from None


def _odd(folder: Path, path: str) -> str | None:
    """Why a file named as an archive or video is none, such as a pipe; None where it may be one."""
    try:
        check_regular(folder / path)
    except ValueError as error:
        return str(error).removeprefix(f"{folder}/")
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None


def _video_of(name: str) -> str:
    """The video whose faces a file of this name holds, "" where it is no archive or video."""
    if not name.endswith(ENDINGS):
        return ""
    return name.removesuffix(max((suffix for suffix in KINDS if name.endswith(suffix)), key=len))


def _names(path: str) -> tuple[list[str], str | None]:
    with closing(new_container(path)) as container:
        return container.names()
