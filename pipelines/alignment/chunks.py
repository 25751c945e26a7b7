"""The faces of consecutive frames as one file: their crops as JPEG, and what is known of each.

Letters: F frames, n faces in them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from extract.faces.pictures import jpeg
from extract.video.faces import FrameFaces

ARRAYS = ("frames", "faces", "boxes", "scores", "sizes", "data")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """By face: its frame's number, its id, its box [n, 4], its score, and how many bytes of `data` its JPEG has.
    `words` are the number of frames and of cuts, and the state from which the next chunk follows."""

    frames: np.ndarray
    faces: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    sizes: np.ndarray
    data: np.ndarray
    words: dict[str, Any]

    @classmethod
    def of(cls, found: Sequence[FrameFaces]) -> "Chunk":
        pairs = [(frame.number, face) for frame in found for face in frame.faces]
        pictures = [jpeg(face.crop) for _, face in pairs]
        return cls(
            frames=np.array([number for number, _ in pairs], np.int64),
            faces=np.array([face.face for _, face in pairs], np.int64),
            boxes=np.array([face.box for _, face in pairs], np.float32).reshape(-1, 4),
            scores=np.array([face.score for _, face in pairs], np.float32),
            sizes=np.array([len(picture) for picture in pictures], np.int64),
            data=np.frombuffer(b"".join(pictures), np.uint8),
            words={
                "num_frames": len(found),
                "num_cuts": sum(frame.is_cut for frame in found),
                "state": found[-1].state.to_json(),
            },
        )

    def to_bytes(self) -> bytes:
        words = np.frombuffer(json.dumps(self.words).encode(), np.uint8)
        return save({name: getattr(self, name) for name in ARRAYS} | {"words": words})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Chunk":
        arrays = load(data)
        words = json.loads(arrays.pop("words").tobytes())
        return cls(**arrays, words=words)

    def without_pictures(self) -> "Chunk":
        """What is known of the faces; so small that it may be kept for all frames of a video."""
        return replace(self, data=self.data[:0].copy())

    def pictures(self) -> Iterator[bytes]:
        """The JPEG of each face."""
        ends = np.cumsum(self.sizes)
        for start, end in zip(ends - self.sizes, ends, strict=True):
            yield self.data[start:end].tobytes()
