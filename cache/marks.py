"""The mark of a shard: a small JSON file written when all else of the shard is on the disk. No mark, not done.

Marks live inside the array's own folder (`embedding/marks/00000012.json`), where a listing of the Zarr group does not
come upon files it cannot name.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.storage.base import Storage, digest_of

EMBEDDING = "embedding"
MARKS = f"{EMBEDDING}/marks"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and digest of one shard file."""

    num_bytes: int
    blake2b: str

    @classmethod
    def of(cls, data: bytes) -> "FileRecord":
        return cls(num_bytes=len(data), blake2b=digest_of(data))

    @classmethod
    def read(cls, files: Storage, key: str) -> "FileRecord":
        """Of what is there; raises FileNotFoundError where there is nothing."""
        num_bytes, digest = files.digest(key)
        return cls(num_bytes=num_bytes, blake2b=digest)

    def size_fault(self, size: int | None) -> str | None:
        """ "is missing" or "is 5 bytes long, not 9"; None where `size` is the recorded one."""
        if size is None:
            return "is missing"
        return None if size == self.num_bytes else f"is {size} bytes long, not {self.num_bytes}"

    def fault(self, files: Storage, key: str) -> str | None:
        """As `size_fault`, or "has changed since extraction"; reads the file."""
        try:
            found = FileRecord.read(files, key)
        except FileNotFoundError:
            return self.size_fault(None)
        return self.size_fault(found.num_bytes) or (None if found == self else "has changed since extraction")


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


def mark_key(shard: int) -> str:
    """The key of a shard's mark below its stream."""
    return f"{MARKS}/{shard:08d}.json"


def write_mark(files: Storage, shard: int, mark: Mark) -> None:
    """Marks a shard of the stream in `files`; durable on return."""
    files.put(mark_key(shard), mark.to_bytes())


def read_mark(files: Storage, shard: int) -> Mark:
    """Raises ValueError where the mark is missing or damaged; says which."""
    try:
        data = files.get(mark_key(shard))
    except FileNotFoundError:
        data = None
    return parse_mark(files, shard, data)


def parse_mark(files: Storage, shard: int, data: bytes | None) -> Mark:
    """The mark `data` of a shard, None where there is none; raises as `read_mark`."""
    where = files.name(mark_key(shard))
    if data is None:
        raise ValueError(f"{where}: the shard has no mark")
    try:
        return Mark.from_bytes(data)
    except ValueError:
        raise ValueError(f"{where}: the shard's mark is damaged") from None


def remove_marks(files: Storage, shards: Sequence[int]) -> None:
    """From here on the shards count as not done, also after a crash."""
    files.delete([mark_key(shard) for shard in shards])


def marked_shards(files: Storage) -> set[int]:
    """Shards with a mark, by the names of the marks alone."""
    names = (key.rpartition("/")[2] for key in files.keys(MARKS))
    return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal()}


def checksum(values: np.ndarray) -> int:
    """Sum of the bytes of `values` (contiguous) as 64-bit words, modulo 2**64; no single flipped bit leaves it as it
    was. It costs a fifth of a copy where a cryptographic digest costs ten copies."""
    flat = values.reshape(-1).view(np.uint8)
    whole = len(flat) // 8 * 8
    words = int(np.add.reduce(flat[:whole].view(np.uint64), dtype=np.uint64))
    return (words + int.from_bytes(flat[whole:].tobytes(), "little")) % 2**64
