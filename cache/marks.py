"""The mark of a shard: a small JSON file written when all else of the shard is on the disk. No mark, not done.

Marks live inside the array's own folder (`embedding/marks/00000012.json`), where a listing of the Zarr group does not
come upon files it cannot name.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.durable import sync, write_durably

EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and digest of one shard file."""

    num_bytes: int
    blake2b: str

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """Reads the file."""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            return cls(num_bytes=file.tell(), blake2b=digest.hexdigest())

    def size_fault(self, path: Path) -> str | None:
        """ "is missing" or "is 5 bytes long, not 9"; None where `path` is a file of the recorded size."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return "is missing"
        return None if size == self.num_bytes else f"is {size} bytes long, not {self.num_bytes}"

    def fault(self, path: Path) -> str | None:
        """As `size_fault`, or "has changed since extraction"; reads the file."""
        fault = self.size_fault(path)
        return fault or (None if FileRecord.of(path) == self else "has changed since extraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a finished shard holds.

    `rows` is [start, stop) in the stream, `files` maps paths inside the stream's folder to their records, `failed` maps
    rows of the stream to reasons, and `checksum` is `checksum(embeddings)` of the real rows, quick enough to compare
    at every reading.
    """

    rows: tuple[int, int]
    checksum: int
    files: dict[str, FileRecord]
    failed: dict[int, str]

    def to_bytes(self) -> bytes:
        """JSON, with a digest of itself: one flipped bit anywhere is found."""
        document = self._to_json()
        return _dump(document | {"digest": hashlib.blake2b(_dump(document), digest_size=16).hexdigest()})

    def _to_json(self) -> dict[str, Any]:
        files = {name: {"bytes": record.num_bytes, "blake2b": record.blake2b} for name, record in self.files.items()}
        failed = {str(row): reason for row, reason in sorted(self.failed.items())}
        return {"rows": self.rows, "checksum": f"{self.checksum:016x}", "files": files, "failed": failed}

    @classmethod
    def from_bytes(cls, data: bytes) -> "Mark":
        """Raises ValueError where `data` is not a mark."""
        try:
            document = json.loads(data)
            start, stop = document["rows"]
            mark = cls(
                rows=(int(start), int(stop)),
                checksum=int(document["checksum"], 16),
                files={
                    name: FileRecord(num_bytes=int(record["bytes"]), blake2b=str(record["blake2b"]))
                    for name, record in document["files"].items()
                },
                failed={int(row): str(reason) for row, reason in document["failed"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ValueError("not a mark") from None
        if data != mark.to_bytes() and data != _dump(mark._to_json()):  # the first marks had no digest
            raise ValueError("not a mark as it was written")
        return mark


def _dump(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()


def marks_folder(stream: Path) -> Path:
    """Where the marks of the stream in the folder `stream` are."""
    return stream / EMBEDDING / "marks"


def mark_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:08d}.json"


def write_mark(folder: Path, shard: int, mark: Mark) -> None:
    """Durable on return."""
    write_durably(mark_path(folder, shard), mark.to_bytes())


def read_mark(folder: Path, shard: int) -> Mark:
    """Raises ValueError where the mark is missing or damaged; says which."""
    path = mark_path(folder, shard)
    try:
        return Mark.from_bytes(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: the shard has no mark") from None
    except ValueError:
        raise ValueError(f"{path}: the shard's mark is damaged") from None


def remove_mark(folder: Path, shard: int) -> None:
    """From here on the shard counts as not done, also after a crash."""
    path = mark_path(folder, shard)
    if path.exists():
        path.unlink()
        sync(folder)


def marked_shards(folder: Path) -> set[int]:
    """Shards with a mark, by the names in `folder` alone."""
    if not folder.is_dir():
        return set()
    return {int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()}


def checksum(values: np.ndarray) -> int:
    """Sum of the bytes of `values` (contiguous) as 64-bit words, modulo 2**64; no single flipped bit leaves it as it
    was. It costs a fifth of a copy where a cryptographic digest costs ten copies."""
    flat = values.reshape(-1).view(np.uint8)
    whole = len(flat) // 8 * 8
    words = int(np.add.reduce(flat[:whole].view(np.uint64), dtype=np.uint64))
    return (words + int.from_bytes(flat[whole:].tobytes(), "little")) % 2**64
