"""`mtl align`: the faces of videos as aligned crops, NAME/00001.jpg, with alignment.json beside them.

A video's faces are kept in chunks until its end is known, since only then it shows how many people there are; then its
folders are put in place, and alignment.json names it. What was killed resumes behind its last chunk.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.durable import remove_leftovers
from cache.locks import locked
from extract.video.alignment import Alignment
from extract.video.faces import START, FrameFaces, VideoState, found_faces
from extract.video.finder import FaceFinder
from pipelines.alignment.chunks import Chunk
from pipelines.alignment.people import People, endings
from pipelines.alignment.placing import place
from pipelines.alignment.videos import Video, find_videos
from pipelines.chunk_files import ChunkFolder
from pipelines.config import Config
from pipelines.faces import FILE, face_finder, read_record, write_record
from pipelines.progress import Advance, progress, total_of

CHUNK_FRAMES = 256
FORMAT = 1
WORK, LOCK = ".work-", ".align.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignRequest:
    """What `mtl align` was asked for."""

    videos: Sequence[Path]
    out: Path
    people: People = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedVideo:
    """A video in alignment.json: of which file, its numbers, why it ended before its end (or ""), and how many crops
    went into which folders."""

    file: str
    digest: str
    people: People
    num_frames: int
    num_cuts: int
    num_faces: int
    why_ended: str
    folders: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """The videos by name; those in `found` had been finished before, the others took `seconds`."""

    out: Path
    alignment: Alignment
    videos: dict[str, AlignedVideo]
    found: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "alignment": self.alignment.to_json(),
            "videos": {name: asdict(video) for name, video in self.videos.items()},
            "found": list(self.found),
            "seconds": round(self.seconds, 3),
        }


def align_videos(config: Config, request: AlignRequest) -> Aligned:
    """Makes the crops of all videos that `request.out` does not have yet.

    Raises:
        ValueError: a file is no video, two have one name, the detector is missing, or the folder holds other crops;
            found before anything is made, except in a video that is damaged from its first frame on.
    """
    began = time.monotonic()
    finder, out = face_finder(config), request.out
    videos = find_videos(request.videos, follow_orientation=not config.data.ignore_orientation)
    with _writing(out):
        record = _record(out, finder.alignment)
        found = tuple(video.name for video in videos if _is_done(record, video, request.people))
        for name in found:  # left where a command was killed at its very end
            shutil.rmtree(out / f"{WORK}{name}", ignore_errors=True)
        todo = [_Making(video, finder, out, request.people) for video in videos if video.name not in found]
        done, total = sum(making.state.number for making in todo), total_of(each.video.num_frames for each in todo)
        with progress("align", total, "frames", done) as bar:
            for making in todo:
                making.detect(bar)
                name = making.video.name
                earlier = record["videos"].get(name, {})
                record["videos"][name] = asdict(making.place(earlier.get("folders", {})))
                write_record(out, record)
                making.work.remove()
    made = {video.name: AlignedVideo(**record["videos"][video.name]) for video in videos}
    seconds = time.monotonic() - began
    return Aligned(out=out, alignment=finder.alignment, videos=made, found=found, seconds=seconds)


class _Making:
    """One video on its way to crops."""

    def __init__(self, video: Video, finder: FaceFinder, out: Path, people: People) -> None:
        self.video, self.finder, self.out, self.people = video, finder, out, people
        origin = {
            "format": FORMAT,
            "video": video.digest,
            "alignment": finder.alignment.to_json(),
            "min_score": finder.min_score,
            "follow_orientation": video.orientations.follow,
        }
        self.work = ChunkFolder(out / f"{WORK}{video.name}", origin)

    @property
    def state(self) -> VideoState:
        """Behind the last chunk."""
        return VideoState.from_json(self._chunk(len(self.work) - 1).words["state"]) if len(self.work) else START

    def detect(self, advance: Advance) -> None:
        """Fills the chunks to the video's end; `advance` is called for each frame."""
        if self.work.ended is None:
            with found_faces(self.video.path, self.finder, self.state, self.video.orientations) as found:
                for frames in _in_chunks(found, advance):
                    self.work.append(Chunk.of(frames).to_bytes())
            self.work.end({"why": found.why_ended or ""})

    def place(self, before: dict[str, int]) -> AlignedVideo:
        """Puts the folders in place, in place of those that are there from `before`."""
        chunks = [self._chunk(index) for index in range(len(self.work))]
        frames, faces, boxes = (
            np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("frames", "faces", "boxes")
        )
        ends = endings(self.people, frames, faces, boxes)
        counts = place(self.work, self.out, self.video.name, ends, before)
        ended = self.work.ended
        assert ended is not None
        return AlignedVideo(
            file=self.video.path.name,
            digest=self.video.digest,
            people=self.people,
            num_frames=sum(chunk.words["num_frames"] for chunk in chunks),
            num_cuts=sum(chunk.words["num_cuts"] for chunk in chunks),
            num_faces=len(frames),
            why_ended=ended["why"],
            folders=dict(sorted(counts.items())),
        )

    def _chunk(self, index: int) -> Chunk:
        """Without its pictures, which are most of it."""
        return Chunk.from_bytes(self.work.path(index).read_bytes()).without_pictures()


def _in_chunks(found: Iterable[FrameFaces], advance: Advance) -> Iterator[list[FrameFaces]]:
    frames: list[FrameFaces] = []
    for frame in found:
        frames.append(frame.without_pixels())
        advance(1)
        if len(frames) == CHUNK_FRAMES:
            yield frames
            frames = []
    if frames:
        yield frames


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Makes the folder `out` where it is missing; one process at a time writes to it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file; --out names the folder of the crops")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, f"{out}"):
        remove_leftovers(out)
        yield


def _record(out: Path, alignment: Alignment) -> dict[str, Any]:
    """alignment.json of `out`, written where it is new. Raises ValueError where its crops are of another alignment."""
    record = read_record(out)
    if record is None:
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise ValueError(f"{out}: has files of another origin and no {FILE}; --out names a new or empty folder")
        record = {"alignment": alignment.to_json(), "videos": {}}
        write_record(out, record)
    differences = alignment.differences(Alignment.from_json(record["alignment"]))
    if differences:
        raise ValueError(
            f"{out}: its crops are of another alignment: {'; '.join(differences)}; set [faces] to it, or name another "
            "folder with --out"
        )
    return record


def _is_done(record: dict[str, Any], video: Video, people: People) -> bool:
    """Whether the crops of the video are there. Raises ValueError where another video of its name is."""
    done = record["videos"].get(video.name)
    if done is not None and done["digest"] != video.digest:
        raise ValueError(
            f"{video.path}: the folder has crops of another video called {video.name} ({done['file']}); rename one, or "
            "name another folder with --out"
        )
    return done is not None and done["people"] == people
