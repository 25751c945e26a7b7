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
        self._num = _num_whole(folder)

    def __len__(self) -> int:
        return self._num

    @property
    def ended(self) -> dict[str, Any] | None:
        """What `end` was given; None where the work has not come to its end."""
        found = _read(self.folder / ENDED)
        return found["known"] if found and found["num_chunks"] == self._num else None

    def read(self, index: int) -> bytes:
        """The chunk `index`, counted from 0."""
        return next(self.folder.glob(f"{index:05d}-*")).read_bytes()

    def append(self, data: bytes) -> None:
        write_durably(self.folder / f"{self._num:05d}-{digest_of(data)}", data)
        self._num += 1

    def end(self, known: Mapping[str, Any]) -> None:
        write_durably(self.folder / ENDED, sealed_json({"num_chunks": self._num, "known": known}))

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_sealed_json(path, "")
    except ValueError:
        return None


def _num_whole(folder: Path) -> int:
    """How many chunks there are one after the other; what lies behind a damaged or missing one is removed."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := CHUNK.fullmatch(path.name))}
    num = 0
    while num in found and digest_of(found[num].read_bytes()) == found[num].name.partition("-")[2]:
        num += 1
    for index, path in found.items():
        if index >= num:
            path.unlink()
    return num
