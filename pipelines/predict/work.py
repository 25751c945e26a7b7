"""The work folder of a prediction: what was observed and embedded so far, in chunks that outlive a kill.

WORK/UNIT/origin.json                what the chunks were made from, sealed
WORK/UNIT/00003-DIGEST.safetensors   the frames of a chunk; the digest is that of its bytes
WORK/UNIT/ended.json                 written last: how many chunks there are, and why the source ended, sealed

A chunk is there whole or not at all. F frames of a chunk, n faces in them, D width.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cache.durable import remove_leftovers, write_durably
from cache.locks import locked
from cache.seals import digest_of, read_sealed_json, sealed_json

FORMAT = 1
ORIGIN, ENDED, LOCK = "origin.json", "ended.json", "writer.lock"
CHUNK = re.compile(r"(\d{5})-([0-9a-f]{32})\.safetensors")
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
        self.folder = folder
        wanted = json.loads(json.dumps({"format": FORMAT, **origin}))
        if folder.exists() and _origin_in(folder) != wanted:
            shutil.rmtree(folder)
        if not folder.exists():
            folder.mkdir(parents=True)
            write_durably(folder / ORIGIN, sealed_json(wanted))
        self._paths = _whole_chunks(folder)
        self.num_frames = sum(len(chunk.frames) for chunk in self.chunks())
        self.why_ended = self._read_end()

    @property
    def state(self) -> Any:
        """What resumes behind the last chunk; None where there is none."""
        return Chunk.read(self._paths[-1]).state if self._paths else None

    def chunks(self) -> Iterator[Chunk]:
        for path in self._paths:
            yield Chunk.read(path)

    def append(self, chunk: Chunk) -> None:
        data = chunk.to_bytes()
        path = self.folder / f"{len(self._paths):05d}-{digest_of(data)}.safetensors"
        write_durably(path, data)
        self._paths.append(path)
        self.num_frames += len(chunk.frames)

    def end(self, why: str) -> None:
        write_durably(self.folder / ENDED, sealed_json({"num_chunks": len(self._paths), "why": why}))
        self.why_ended = why

    def _read_end(self) -> str | None:
        try:
            ended = read_sealed_json(self.folder / ENDED, "predict again")
        except ValueError:
            return None
        return str(ended["why"]) if ended["num_chunks"] == len(self._paths) else None


class WorkFolder:
    """A folder with the work of several units; one process at a time. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "WorkFolder":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder / LOCK, str(self.folder))
        self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def unit(self, index: int, origin: Mapping[str, Any]) -> UnitWork:
        return UnitWork(self.folder / f"{index:05d}", origin)

    def remove(self) -> None:
        """Once the result is written."""
        shutil.rmtree(self.folder)


def _origin_in(folder: Path) -> dict[str, Any] | None:
    try:
        return read_sealed_json(folder / ORIGIN, "")
    except (ValueError, OSError):
        return None


def _whole_chunks(folder: Path) -> list[Path]:
    """The chunks from the first on, up to one that is missing or damaged; those behind it are removed."""
    remove_leftovers(folder)
    named = [(found, path) for path in sorted(folder.iterdir()) if (found := CHUNK.fullmatch(path.name))]
    whole: list[Path] = []
    for found, path in named:
        if int(found[1]) == len(whole) and digest_of(path.read_bytes()) == found[2] and _opens(path):
            whole.append(path)
        else:
            path.unlink()
    return whole


def _opens(path: Path) -> bool:
    try:
        Chunk.read(path)
    except (SafetensorError, ValueError, KeyError):
        return False
    return True
