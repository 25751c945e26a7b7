"""Which videos are aligned, and what they are called: the name of the file without its ending."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.valid_names import MAX_BYTES, check_encoding
from extract.backbones.origin import file_digest
from extract.faces.containers import is_video
from extract.faces.orientation import Orientations
from extract.video.frames import open_video


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video to be aligned: the digest of its file, and how many frames it says that it has, if it does."""

    name: str
    path: Path
    digest: str
    num_frames: int | None
    orientations: Orientations


def find_videos(given: Sequence[Path], *, follow_orientation: bool) -> list[Video]:
    """The videos `given`, and those in folders among them; each is opened once, so that none fails later.

    Raises:
        ValueError: a file is missing or no video, a folder has none, or two videos have one name.
    """
    paths: dict[str, Path] = {}
    for path in _expanded(given):
        name = _name_of(path)
        if name in paths and paths[name].resolve() != path.resolve():
            raise ValueError(f"{paths[name]} and {path} are both called {name}; rename one of them")
        paths[name] = path
    return [_opened(name, path, follow_orientation) for name, path in paths.items()]


def _name_of(path: Path) -> str:
    """Whatever the file is called, spaces and all: its folder's name is read and never typed."""
    name = path.stem
    check_encoding(str(path))
    if name.startswith(".") or len(name.encode()) > MAX_BYTES:
        raise ValueError(f"{path}: a folder of crops cannot be called {name!r}; rename the video")
    return name


def _expanded(given: Sequence[Path]) -> list[Path]:
    found = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(each for each in path.iterdir() if is_video(each.name) and not each.name.startswith("."))
        if not inside:
            raise ValueError(f"{path}: no videos in this folder (.mp4, .mov, .mkv, .avi, .webm, .m4v)")
        found += inside
    return found


def _opened(name: str, path: Path, follow_orientation: bool) -> Video:
    with open_video(path) as reader:
        num_frames = reader.num_frames
    orientations = Orientations(follow_orientation)
    return Video(name=name, path=path, digest=file_digest(path), num_frames=num_frames, orientations=orientations)
