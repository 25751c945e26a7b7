"""What a cache holds, stream by stream, without reading rows: for `mtl cache ls` and `mtl cache info`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.frames import frames_digest
from cache.marks import Mark
from cache.names import SPLITS
from cache.store import Cache
from cache.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream.

    `coverage` maps each split to (usable rows, rows); None where no frames table belongs to the stream. `fault` says
    why the stream could not be opened; the numbers are zero then.
    """

    name: str
    view: str
    num_rows: int = 0
    num_done: int = 0
    num_failed: int = 0
    width: int = 0
    dtype: str = ""
    num_bytes: int = 0
    coverage: dict[str, tuple[int, int]] | None = None
    fault: str = ""


def summarise(cache: Cache, frames: pl.DataFrame | None) -> list[StreamSummary]:
    """A summary a stream, sorted by name and view. `frames` is the current frames table, where there is one."""
    digest = None if frames is None else frames_digest(frames)
    return [_summary(cache, name, view, frames, digest) for name, view in cache.streams()]


def describe(stream: Stream) -> dict[str, Any]:
    """All that is recorded about a stream, as JSON values; `failed` maps rows to reasons."""
    missing = stream.missing_shards()
    return {
        "name": stream.name,
        "view": stream.view,
        "identity": stream.identity.to_json(),
        "identity_digest": stream.identity.digest,
        "provenance": stream.provenance,
        "num_rows": stream.num_rows,
        "num_done": stream.num_rows - sum(stop - start for start, stop in map(stream.rows, missing)),
        "shard_rows": stream.shard_rows,
        "num_shards": stream.num_shards,
        "missing_shards": missing,
        "num_bytes": stream.files.total_bytes(),
        "failed": {str(row): reason for row, reason in stream.failed().items()},
    }


def _summary(cache: Cache, name: str, view: str, frames: pl.DataFrame | None, digest: str | None) -> StreamSummary:
    num_bytes = cache.files.total_bytes(f"{name}/{view}")
    try:
        stream = cache.stream(name, view)
        marks = list(stream.done_marks())
    except ValueError as error:
        return StreamSummary(name=name, view=view, num_bytes=num_bytes, fault=str(error))
    coverage = None
    if frames is not None and digest == stream.identity.frames:
        coverage = _coverage(frames["split"], marks)
    return StreamSummary(
        name=name,
        view=view,
        num_rows=stream.num_rows,
        num_done=sum(mark.rows[1] - mark.rows[0] for mark in marks),
        num_failed=sum(len(mark.failed) for mark in marks),
        width=stream.width,
        dtype=stream.identity.dtype,
        num_bytes=num_bytes,
        coverage=coverage,
    )


def _coverage(splits: pl.Series, marks: list[Mark]) -> dict[str, tuple[int, int]]:
    """Split -> (usable rows, rows) of those that have rows; `splits` [N]."""
    usable = np.zeros(len(splits), bool)
    for mark in marks:
        usable[slice(*mark.rows)] = True
        usable[list(mark.failed)] = False
    found = {}
    for split in SPLITS:
        rows = (splits == split).to_numpy()
        if rows.any():
            found[split] = int((rows & usable).sum()), int(rows.sum())
    return found
