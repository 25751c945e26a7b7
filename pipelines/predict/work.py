"""The work folder of a prediction: what was observed and embedded so far, in chunks that outlive a kill.

WORK/UNIT is a `ChunkFolder` of chunks of frames as safetensors, which ends with why the source ended. F frames of a
chunk, n faces in them, D width.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from cache.locks import locked
from pipelines.chunk_files import CHUNK, ChunkFolder

FORMAT = 1
LOCK = "writer.lock"
EMBEDDING = "embedding:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive frames of a unit. By frame [F]: `videos`, `frames`, `times_s` (NaN: unknown). By face [n]: `of`, its
    frame's place in the chunk, `faces`, `boxes` [n, 4] and `scores` (NaN: none), `valid`, and `embeddings` [n, D] by
    stream, zeros where not valid. `faults` are why faces are not valid, by their place; `state` resumes behind it."""

    videos: list[str]
    frames: np.ndarray
    times_s: np.ndarray
    of: np.ndarray
    faces: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    valid: np.ndarray
    embeddings: Mapping[str, np.ndarray]
    faults: Mapping[int, str] = field(default_factory=dict)
    state: Any = None

    def to_bytes(self) -> bytes:
        tensors = {name: getattr(self, name) for name in ARRAYS}
        tensors |= {EMBEDDING + name: values for name, values in self.embeddings.items()}
        words = {
            "videos": self.videos,
            "faults": {str(place): why for place, why in self.faults.items()},
            "state": self.state,
        }
        return save(
            {name: np.ascontiguousarray(values) for name, values in tensors.items()}, {"words": json.dumps(words)}
        )

    @classmethod
    def read(cls, path: Path) -> "Chunk":
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            words = json.loads(file.metadata()["words"])
        embeddings = {
            name.removeprefix(EMBEDDING): each for name, each in tensors.items() if name.startswith(EMBEDDING)
        }
        faults = {int(place): why for place, why in words["faults"].items()}
        arrays = {name: tensors[name] for name in ARRAYS}
        return cls(**arrays, videos=words["videos"], embeddings=embeddings, faults=faults, state=words["state"])


ARRAYS = ("frames", "times_s", "of", "faces", "boxes", "scores", "valid")


class UnitWork:
    """The chunks of one unit, in the folder `folder`; those made from anything but `origin` are removed.

    `num_frames` are in chunks. `why_ended` is None until the source was read to its end, then why these may not be all
    of its frames; "" where they are.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]) -> None:
        self._files = ChunkFolder(folder, {"format": FORMAT, **origin})
        self.num_frames = sum(len(chunk.frames) for chunk in self.chunks())
        ended = self._files.ended
        self.why_ended = None if ended is None else str(ended["why"])

    @property
    def state(self) -> Any:
        """What resumes behind the last chunk; None where there is none."""
        return Chunk.read(self._files.path(len(self._files) - 1)).state if len(self._files) else None

    def chunks(self) -> Iterator[Chunk]:
        for index in range(len(self._files)):
            yield Chunk.read(self._files.path(index))

    def append(self, chunk: Chunk) -> None:
        self._files.append(chunk.to_bytes())
        self.num_frames += len(chunk.frames)

    def end(self, why: str) -> None:
        self._files.end({"why": why})
        self.why_ended = why


class WorkFolder:
    """A folder with the work of several units; one process at a time. A context manager, which leaves no folder where
    nothing was done."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._is_removed = folder, False

    def __enter__(self) -> "WorkFolder":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder / LOCK, str(self.folder))
        self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._is_removed and not any(CHUNK.fullmatch(path.name) for path in self.folder.rglob("*")):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.__exit__(*error)

    def unit(self, index: int, origin: Mapping[str, Any]) -> UnitWork:
        return UnitWork(self.folder / f"{index:05d}", origin)

    def remove(self) -> None:
        """Once the result is written."""
        shutil.rmtree(self.folder)
        self._is_removed = True
