"""What a source of faces is: aligned crops, pictures, videos, or a cache; told by what lies there.

    aligned     crops: a folder of VIDEO/00001.jpg or of 00001.jpg, an archive VIDEO.tar or VIDEO.zip, a list of faces
    pictures    a picture, or a folder of them; faces are looked for in each
    videos      a video, or a folder of them; faces are looked for and tracked
    cache       embeddings, of the frames table in mtl.toml

Pictures are taken for aligned crops where those looked at are square, of one size and not larger than a crop. A list,
an archive and a folder with alignment.json always are; videos never, unless they are said to be.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cache.regular import check_regular
from cache.valid_names import check_encoding
from extract.annotations.lists import read_list
from extract.faces.containers import ARCHIVES, is_face, new_container
from extract.faces.listing import list_faces
from extract.faces.pictures import picture_size
from pipelines.faces import FILE as RECORD

Kind = Literal["aligned", "pictures", "videos", "cache"]
CROP_PX = 512  # the largest side of a picture that is taken for a crop
SAMPLE = 64
LISTS = (".txt", ".csv")
ZARR = "zarr.json"
# By which a folder's videos are known; a file that is named itself may have any.
VIDEO_ENDINGS = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".3gp"),
    ".ogv",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`paths`, relative to `folder`, of faces, pictures or videos, sorted. `why` says in words what was recognised.
    `faults` are archives and videos that were not listed whole."""

    given: Path
    kind: Kind
    folder: Path
    paths: Sequence[str] = ()
    why: str = ""
    faults: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What files about it are called."""
        return self.given.resolve().stem or "source"


def find_source(given: Path, aligned: bool | None, faces: Path) -> Source:
    """What lies at `given`; `aligned` is what the user says of it, None for nothing. `faces` is the faces folder from
    which the paths of a list start.

    Raises:
        ValueError: nothing is there, or nothing that faces can be had from; says what can be.
    """
    source = _source(given, aligned, faces)
    for path in (str(given), *source.paths):
        check_encoding(path)
    return source


def _source(given: Path, aligned: bool | None, faces: Path) -> Source:
    if not given.exists():
        raise ValueError(f"{given}: no such file or folder; name faces, pictures, a video, a folder of them or a cache")
    if given.is_dir():
        is_cache = (given / ZARR).is_file()
        return _cache(given, aligned) if is_cache else _folder(given, aligned)
    check_regular(given)
    if given.name.endswith(tuple(ARCHIVES)):
        return _archive(given, aligned)
    if given.suffix.lower() in LISTS:
        return _list(given, aligned, faces)
    if is_face(given.name):
        return _pictures(Source(given=given, kind="pictures", folder=given.parent, paths=[given.name]), aligned)
    return _videos(Source(given=given, kind="videos", folder=given.parent, paths=[given.name]), aligned)


def _cache(given: Path, aligned: bool | None) -> Source:
    if aligned is False:
        raise ValueError(f"{given}: a cache holds embeddings, in which no face can be looked for; leave out --detect")
    return Source(given=given, kind="cache", folder=given, why="a cache of embeddings")


def _folder(given: Path, aligned: bool | None) -> Source:
    listing, videos = list_faces(given, open_videos=False), _video_files(given)
    if listing.paths and videos:
        raise ValueError(
            f"{given}: has both pictures ({listing.paths[0]}) and videos ({videos[0]}); name a folder with one kind"
        )
    source = Source(given=given, kind="pictures", folder=given, paths=listing.paths, faults=listing.faults)
    if videos:
        return _videos(replace(source, kind="videos", paths=videos), aligned)
    if not listing.paths:
        why = f"; {listing.faults[0]}" if listing.faults else ""
        raise ValueError(f"{given}: no picture, no archive of faces and no video in it{why}")
    return _pictures(source, aligned)


def _video_files(folder: Path) -> list[str]:
    """Paths of all video files below `folder`, by their endings; hidden ones are left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        videos = [name for name in names if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")]
        found += [Path(place, name).relative_to(folder).as_posix() for name in videos]
    return sorted(found)


def _archive(given: Path, aligned: bool | None) -> Source:
    if aligned is False:
        raise ValueError(f"{given}: an archive holds aligned faces; unpack it to look for faces in its pictures")
    paths, fault = _inside(str(given), given.name[: -len(_ending(given.name))])
    if not paths:
        raise ValueError(f"{given}: {fault or 'no face in it'}")
    why, faults = "an archive of aligned faces", (f"{given.name}: {fault}",) if fault else ()
    return Source(given=given, kind="aligned", folder=given.parent, paths=paths, why=why, faults=faults)


def _list(given: Path, aligned: bool | None, faces: Path) -> Source:
    if aligned is False:
        raise ValueError(f"{given}: a list names aligned faces; name a folder of pictures to look for faces in them")
    names = read_list(given)
    if names.kind == "videos":
        raise ValueError(
            f"{given}: a list of videos, not of faces (video/00001.jpg); --list {given} takes it for frames of "
            "the cache"
        )
    paths = names.rows["path"].unique().sort().to_list()
    folder = given.parent if (given.parent / paths[0]).exists() else faces
    return Source(given=given, kind="aligned", folder=folder, paths=paths, why=f"a list of aligned faces in {folder}")


def _pictures(source: Source, aligned: bool | None) -> Source:
    if aligned is not None:
        return _told(source, "aligned" if aligned else "pictures")
    if (source.folder / RECORD).is_file():
        return replace(source, kind="aligned", why=f"aligned faces, as {RECORD} beside them says")
    chosen = source.paths[:: -(-len(source.paths) // SAMPLE)]
    plain = [path for path in chosen if (source.folder / path).is_file()]
    if not plain:
        return replace(source, kind="aligned", why="aligned faces in archives")
    sizes = Counter(picture_size(source.folder / path) for path in plain)
    sizes.pop(None, None)
    if not sizes:
        raise ValueError(f"{source.folder / plain[0]}: not a picture, or a damaged one")
    looked = f"{len(plain):,} of {len(source.paths):,} looked at"
    height, width = next(size for size in sizes if size is not None)
    if len(sizes) == 1 and height == width <= CROP_PX:
        return replace(source, kind="aligned", why=f"aligned faces (square, {width} px; {looked})")
    shape = f"{width} x {height} px" if len(sizes) == 1 else "of several sizes"
    return replace(source, kind="pictures", why=f"pictures to look for faces in ({shape}; {looked})")


def _videos(source: Source, aligned: bool | None) -> Source:
    if not aligned:
        num = len(source.paths)
        return replace(source, why="a video to look for faces in" if num == 1 else f"{num} videos to look for faces in")
    paths, faults = [], list(source.faults)
    for video in source.paths:
        inside, fault = _inside(str(source.folder / video), video)
        paths += inside
        faults += [f"{video}: {fault}"] if fault else []
    if not paths:
        raise ValueError(f"{source.given}: {faults[0].partition(': ')[2] if faults else 'no frame in it'}")
    return _told(replace(source, paths=paths, faults=tuple(faults)), "aligned")


def _told(source: Source, kind: Kind) -> Source:
    words = {"aligned": "aligned faces, as --aligned says", "pictures": "pictures to look for faces in, by --detect"}
    return replace(source, kind=kind, why=words[kind])


def _inside(path: str, video: str) -> tuple[list[str], str | None]:
    """The faces in the container at `path` as paths below `video`, and why these may not be all."""
    with closing(new_container(path)) as container:
        names, fault = container.names()
    return sorted(f"{video}/{name}" for name in names if is_face(name)), fault


def _ending(name: str) -> str:
    return max((ending for ending in ARCHIVES if name.endswith(ending)), key=len)
