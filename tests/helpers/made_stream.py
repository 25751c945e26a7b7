"""A small stream with known rows: four shards, of which the first three are a group and the last one another."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from cache import shards
from cache.frames import conform, frames_digest
from cache.identity import StreamIdentity, bytes_digest
from cache.locks import WHOLE, Part, part_of
from cache.store import Cache
from cache.stream import Stream

NUM_ROWS, WIDTH, SHARD_ROWS, GROUP_SHARDS = 150, 12, 40, 3
PROVENANCE = {"precision": "float32", "torch": "2.6"}
FAILED = {41: "empty file", 149: "not an image"}


def make_frames(num_rows: int = NUM_ROWS) -> pl.DataFrame:
    video = [f"v{row // 50}" for row in range(num_rows)]
    path = [f"{name}/{row:05d}.jpg" for row, name in enumerate(video)]
    split = ["train" if row < 100 else "val" for row in range(num_rows)]
    return conform(pl.DataFrame({"video": video, "frame": range(num_rows), "path": path, "split": split}), "test")


def make_identity(table: pl.DataFrame, **changes: object) -> StreamIdentity:
    values: dict = {
        "backbone": "vit_tiny",
        "weights": hashlib.blake2b(b"weights", digest_size=16).hexdigest(),
        "preprocessing": {"size_px": 112, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
        "pooling": "token",
        "dtype": "float16",
        "view": "base",
        "frames": frames_digest(table),
        "num_frames": len(table),
        "width": WIDTH,
    }
    return StreamIdentity(**(values | changes))


def face_bytes(row: int) -> bytes:
    return f"face {row}".encode()


def embeddings_of(start: int, stop: int, width: int = WIDTH) -> np.ndarray:
    """[stop - start, D] float16; row i is the same however it is asked for. Row 7 is all zero."""
    rows = np.arange(start, stop)[:, None] * np.arange(1, width + 1)[None]
    return (np.sin(rows) * (np.arange(start, stop)[:, None] != 7)).astype(np.float16)


def digests_of(start: int, stop: int) -> np.ndarray:
    return np.stack([np.frombuffer(bytes_digest(face_bytes(row)), np.uint8) for row in range(start, stop)])


def fill(stream: Stream, numbers: Sequence[int] | None = None, part: Part = WHOLE) -> None:
    """Writes shards, by default the missing ones of `part`, as an extraction would."""
    with stream.writer_lock(part):
        own = part_of(part, stream.num_shards)
        for shard in [each for each in stream.missing_shards() if each in own] if numbers is None else numbers:
            start, stop = stream.rows(shard)
            failed = {row - start: why for row, why in FAILED.items() if start <= row < stop}
            stream.write_shard(shard, embeddings_of(start, stop), digests_of(start, stop), failed)


def expected_rows() -> np.ndarray:
    rows = embeddings_of(0, NUM_ROWS)
    rows[list(FAILED)] = 0
    return rows


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, the lock aside."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if not name.endswith(".lock")}


@contextlib.contextmanager
def small_groups() -> Iterator[None]:
    """Streams that are made inside have groups of `GROUP_SHARDS`."""
    before, shards.GROUP_SHARDS = shards.GROUP_SHARDS, GROUP_SHARDS
    try:
        yield
    finally:
        shards.GROUP_SHARDS = before


def extract_into(path: Path | str, part: Part = WHOLE) -> Stream:
    """What `mtl extract` does: makes the stream or resumes it."""
    with small_groups():
        stream = Cache.open(path, create=True).create("expr", make_identity(make_frames()), SHARD_ROWS, PROVENANCE)
    fill(stream, part=part)
    return stream
