"""The mark of a shard: one line of JSON, written when all else of the shard is on the disk. No mark, not done.

A shard is marked in a small file of its own, which also has the digests of its faces (`embedding/marks/00000012.mark`).
When all shards of a group are marked, their lines move into the group's manifest (`cache.manifests`). Both lie inside
the array's own folder, where a listing of the Zarr group does not come upon files it cannot name.

Letters: R rows of a shard.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.storage.base import Storage, digest_of

EMBEDDING = "embedding"
MARKS = f"{EMBEDDING}/marks"
SUFFIX = ".mark"
DIGEST_KEY, DIGEST_DIGITS = b',"digest":"', 32
# Half of `bytes_digest`: 64 bits miss a changed face once in 1.8e19, and all 16 bytes would be 1.04 % of a 768-wide
# float16 row, where a whole stream may take 1 % more than its embeddings.
KEPT_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and digest of a file."""

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

    `rows` is [start, stop) in the stream, `file` the record of the embeddings' file, `faces` the digest of the shard's
    face digests [R, 8]. `failed` maps rows of the stream to reasons, and `checksum` is `checksum(embeddings)` of the
    real rows, quick enough to compare at every reading.
    """

    rows: tuple[int, int]
    checksum: int
    file: FileRecord
    faces: str
    failed: dict[int, str]

    def to_line(self) -> bytes:
        """One line of JSON, without its end."""
        return sealed_line(
            {
                "rows": self.rows,
                "checksum": f"{self.checksum:016x}",
                "bytes": self.file.num_bytes,
                "blake2b": self.file.blake2b,
                "faces": self.faces,
                "failed": {str(row): reason for row, reason in sorted(self.failed.items())},
            }
        )

    @classmethod
    def from_line(cls, line: bytes) -> "Mark":
        """Raises ValueError where `line` is not a mark as it was written."""
        return cls.from_document(open_line(line))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Mark":
        """Of an opened line; raises ValueError where it is not that of a mark."""
        try:
            start, stop = document["rows"]
            return cls(
                rows=(int(start), int(stop)),
                checksum=int(document["checksum"], 16),
                file=FileRecord(num_bytes=int(document["bytes"]), blake2b=str(document["blake2b"])),
                faces=str(document["faces"]),
                failed={int(row): str(reason) for row, reason in document["failed"].items()},
            )
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not a mark") from None

    @classmethod
    def from_file(cls, data: bytes) -> "tuple[Mark, np.ndarray]":
        """A mark and the face digests [R, 8] behind it; raises ValueError where either is not as it was written."""
        line, _, tail = data.partition(b"\n")
        mark = cls.from_line(line)
        if digest_of(tail) != mark.faces or len(tail) != (mark.rows[1] - mark.rows[0]) * KEPT_DIGEST_BYTES:
            raise ValueError("not the face digests of the mark")
        return mark, np.frombuffer(tail, np.uint8).reshape(-1, KEPT_DIGEST_BYTES)


def sealed_line(document: dict[str, Any]) -> bytes:
    """JSON without an end of line, with a digest of itself: one flipped bit anywhere is found."""
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    return body + DIGEST_KEY + _digits(body) + b'"}'


def open_line(line: bytes) -> dict[str, Any]:
    """What `sealed_line` made a line of; raises ValueError where it is another now."""
    body, end = line[: -DIGEST_DIGITS - len(DIGEST_KEY) - 2], line[-DIGEST_DIGITS - len(DIGEST_KEY) - 2 :]
    if end != DIGEST_KEY + _digits(body) + b'"}':
        raise ValueError("not as it was written")
    document: dict[str, Any] = json.loads(body + b"}")
    return document


def _digits(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_DIGITS // 2).hexdigest().encode()


def mark_key(shard: int) -> str:
    """The key, below its stream, of a shard's mark in a file of its own."""
    return f"{MARKS}/{shard:08d}{SUFFIX}"


def write_mark(files: Storage, shard: int, mark: Mark, face_digests: np.ndarray) -> None:
    """Marks a shard of the stream in `files`, whose `face_digests` are [R, 8]; durable on return."""
    files.put(mark_key(shard), mark.to_line() + b"\n" + face_digests.tobytes())


def faces_digest(face_digests: np.ndarray) -> str:
    """Of a shard's face digests [R, 8], for its mark."""
    return digest_of(face_digests.tobytes())


def single_marks(files: Storage) -> set[int]:
    """Shards whose mark lies in a file of its own, by the names of the files alone."""
    names = (key.rpartition("/")[2] for key in files.keys(MARKS))
    return {int(name[: -len(SUFFIX)]) for name in names if name.endswith(SUFFIX) and name[: -len(SUFFIX)].isdecimal()}


def checksum(values: np.ndarray) -> int:
    """Sum of the bytes of `values` (contiguous) as 64-bit words, modulo 2**64; no single flipped bit leaves it as it
    was. It costs a fifth of a copy where a cryptographic digest costs ten copies."""
    flat = values.reshape(-1).view(np.uint8)
    whole = len(flat) // 8 * 8
    words = int(np.add.reduce(flat[:whole].view(np.uint64), dtype=np.uint64))
    return (words + int.from_bytes(flat[whole:].tobytes(), "little")) % 2**64
