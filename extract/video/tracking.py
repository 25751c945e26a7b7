"""Tracking: which box of a frame is the same face as in the frames before.

Boxes are matched to tracks so that the sum of their overlaps is greatest (the Hungarian method). A track whose face is
missed waits for `MAX_MISSED` frames; a cut ends all tracks. Ids count from 1 and are never used again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from extract.video.found import overlaps

MIN_OVERLAP = 0.3  # intersection over union; less is another face
MAX_MISSED = 15  # frames: half a second at 30 per second


@dataclass(frozen=True, slots=True)
class Track:
    """A face that is followed: its id, its last box, and for how many frames it has been missed."""

    id: int
    box: tuple[float, float, float, float]
    missed: int = 0


class Tracker:
    """The tracks of one video."""

    def __init__(self, tracks: tuple[Track, ...] = (), num_ids: int = 0) -> None:
        """Raises ValueError where scipy, which matches boxes, is not installed."""
        self.tracks, self.num_ids = tracks, num_ids
        self._assign = _hungarian_method()

    def update(self, boxes: np.ndarray, is_cut: bool) -> list[int]:
        """The ids of the `boxes` [n, 4] of the next frame; `is_cut` where another scene begins with it."""
        before = () if is_cut else self.tracks
        matched = self._matched(before, boxes)
        ids = []
        for row in range(len(boxes)):
            if row in matched:
                ids.append(before[matched[row]].id)
            else:
                self.num_ids += 1
                ids.append(self.num_ids)
        seen = tuple(Track(each, _box(box)) for each, box in zip(ids, boxes, strict=True))
        rest = [track for index, track in enumerate(before) if index not in matched.values()]
        missed = (Track(track.id, track.box, track.missed + 1) for track in rest if track.missed < MAX_MISSED)
        self.tracks = (*seen, *missed)
        return ids

    def _matched(self, tracks: tuple[Track, ...], boxes: np.ndarray) -> dict[int, int]:
        """Row of `boxes` -> index of its track."""
        if not tracks or not len(boxes):
            return {}
        overlap = overlaps(boxes, np.array([track.box for track in tracks]))
        # What overlaps too little counts nothing, so that it takes no box from a track that overlaps enough.
        rows, indices = self._assign(np.where(overlap >= MIN_OVERLAP, overlap, 0.0), maximize=True)
        pairs = zip(rows.tolist(), indices.tolist(), strict=True)
        return {row: index for row, index in pairs if overlap[row, index] >= MIN_OVERLAP}

    def to_json(self) -> dict[str, Any]:
        return {"num_ids": self.num_ids, "tracks": [[each.id, list(each.box), each.missed] for each in self.tracks]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Tracker":
        return cls(tuple(Track(id_, _box(box), missed) for id_, box, missed in values["tracks"]), values["num_ids"])


def _hungarian_method() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """scipy's; imported here, since few need it and it need not be installed."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ValueError('tracking faces needs scipy: pip install "mtl-affect[faces]"') from None
    return linear_sum_assignment


def _box(values: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in values)
    return x0, y0, x1, y1
