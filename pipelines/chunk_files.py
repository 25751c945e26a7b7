"""Long work kept in chunks that outlive a kill: a folder of files, each there whole or not at all.

FOLDER/origin.json      what the chunks are made from, sealed
FOLDER/00003-DIGEST     a chunk; the digest is that of its bytes
FOLDER/ended.json       written last: how many chunks there are, and what else is known by then, sealed
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.durable import remove_leftovers, write_durably
from cache.seals import digest_of, read_sealed_json, sealed_json

ORIGIN, ENDED = "origin.json", "ended.json"
CHUNK = re.compile(r"(\d{5})-([0-9a-f]{32})")


class ChunkFolder:
    """The chunks in `folder`; those that were made from anything but `origin` are removed."""

    def __init__(self, folder: Path, origin: Mapping[str, Any]) -> None:
        self.folder = folder
        wanted = json.loads(json.dumps(origin))
        if folder.exists() and _read(folder / ORIGIN) != wanted:
            shutil.rmtree(folder)
        if not folder.exists():
            folder.mkdir(parents=True)
            write_durably(folder / ORIGIN, sealed_json(wanted))
        remove_leftovers(folder)
        self._paths = _whole(folder)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def ended(self) -> dict[str, Any] | None:
        """What `end` was given; None where the work has not come to its end."""
        found = _read(self.folder / ENDED)
        return found["known"] if found and found["num_chunks"] == len(self) else None

    def path(self, index: int) -> Path:
        """The file of the chunk `index`, counted from 0."""
        return self._paths[index]

    def append(self, data: bytes) -> None:
        path = self.folder / f"{len(self):05d}-{digest_of(data)}"
        write_durably(path, data)
        self._paths.append(path)

    def end(self, known: Mapping[str, Any]) -> None:
        write_durably(self.folder / ENDED, sealed_json({"num_chunks": len(self), "known": known}))

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_sealed_json(path, "")
    except ValueError:
        return None


def _whole(folder: Path) -> list[Path]:
    """The chunks from the first up to one that is damaged or missing; those behind it are removed."""
    whole: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if CHUNK.fullmatch(path.name)):
        number, _, digest = path.name.partition("-")
        if int(number) == len(whole) and digest_of(path.read_bytes()) == digest:
            whole.append(path)
        else:
            path.unlink()
    return whole
