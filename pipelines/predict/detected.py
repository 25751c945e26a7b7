"""The units of sources in which faces are looked for: a video, whose faces are tracked, and pictures by themselves."""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from extract.faces.orientation import Orientations
from extract.video.faces import START, FrameFaces, VideoState, found_faces
from extract.video.finder import FaceFinder
from extract.video.frames import open_video
from pipelines.predict.observed import ObservedFace, ObservedFrame
from pipelines.predict.sources import Source
from pipelines.predict.units import read_ahead, reading, stamp


class VideoFaces:
    """One video: a face keeps its number until it is gone or the scene is cut. Heads count time in its seconds."""

    time_unit = "seconds"
    is_detected = True

    def __init__(self, path: Path, name: str, finder: FaceFinder, follow_orientation: bool) -> None:
        self.name, self.why_ended = str(path), ""
        self._path, self._video = path, name
        self._finder, self._follow = finder, follow_orientation
        self.num_frames = _estimate(path)
        self.origin: Mapping[str, Any] = {
            "video": str(path.resolve()),
            "file": stamp(path.parent, [path.name]),
            "follow_orientation": follow_orientation,
            **finder_json(finder),
        }

    def frames(self, done: int, state: Any) -> Generator[ObservedFrame, None, None]:
        resume = START if state is None else VideoState.from_json(state)
        with found_faces(self._path, self._finder, resume, Orientations(self._follow)) as found:
            for frame in found:
                yield ObservedFrame(
                    video=self._video,
                    frame=frame.number,
                    time_s=frame.time_s,
                    faces=_observed(frame),
                    state=frame.state.to_json,
                )
            self.why_ended = found.why_ended or ""


class PictureFaces:
    """Pictures that have nothing to do with each other: each is a video of one frame, its faces numbered by score."""

    time_unit = "frames"
    is_detected = True

    def __init__(self, source: Source, finder: FaceFinder, follow_orientation: bool) -> None:
        self._source, self._finder, self._follow = source, finder, follow_orientation
        self.name, self.why_ended = str(source.given), "; ".join(source.faults)
        self.num_frames: int | None = len(source.paths)
        self.origin: Mapping[str, Any] = {
            "pictures": str(source.folder.resolve()),
            "files": stamp(source.folder, source.paths),
            "follow_orientation": follow_orientation,
            **finder_json(finder),
        }

    def frames(self, done: int, state: Any) -> Generator[ObservedFrame, None, None]:
        paths = self._source.paths[done:]
        with reading(self._source.folder, self._follow) as source, closing(read_ahead(source, paths)) as pictures:
            for path, picture in zip(paths, pictures, strict=True):
                yield ObservedFrame(video=os.path.splitext(path)[0], frame=1, faces=tuple(self._faces(picture)))

    def _faces(self, picture: np.ndarray | ValueError) -> Iterator[ObservedFace]:
        if isinstance(picture, ValueError):
            yield ObservedFace(crop=None, fault=str(picture))
            return
        found = self._finder.find(picture)
        for number, (box, score, points) in enumerate(zip(found.boxes, found.scores, found.points, strict=True), 1):
            crop = self._finder.crop(picture, points)
            yield ObservedFace(crop=crop, face=number, box=_box(box), score=float(score))


def finder_json(finder: FaceFinder) -> dict[str, Any]:
    """What decides which faces are found in a picture, and their crops."""
    return {"alignment": finder.alignment.to_json(), "min_score": finder.min_score}


def _observed(frame: FrameFaces) -> tuple[ObservedFace, ...]:
    return tuple(
        ObservedFace(crop=each.crop, face=each.face, box=_box(each.box), score=each.score) for each in frame.faces
    )


def _box(values: np.ndarray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in values)
    return x0, y0, x1, y1


def _estimate(path: Path) -> int | None:
    """How many frames the file says it has; None where it does not say, or cannot be opened: reading it says why."""
    try:
        with open_video(path) as reader:
            return reader.num_frames
    except ValueError:
        return None
