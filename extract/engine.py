"""The extraction engine: faces in, whole shards of embeddings out, for several backbones in one pass over the faces.

Three things overlap: threads decode the batches ahead, the main thread runs the backbones, one thread writes shards.
Batches are cut at the shards' starts, so an embedding does not depend on where an earlier run was stopped.
Letters: B faces, D width, N frames, R rows of a shard.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cache.store import Cache
from extract.backbones import Backbone
from extract.jobs import Failure, Job, count_rows, failures_of, forget_repaired, job_of, open_stream
from extract.loading import Batch, FaceLoader, Slot
from extract.runtime import Ticket, one_pass, prepared, to_device
from extract.writing import ShardWriter

NUM_SLOTS = 4  # one or two with the backbones, the others being filled
BATCH_SIZES = {"cuda": 256, "cpu": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an extraction did: faces done by it, faces every stream had already, all failed faces, wall time."""

    num_done: int
    num_skipped: int
    failed: list[Failure]
    seconds: float


def extract(
    frames: pl.DataFrame,
    faces: Path,
    cache: Cache,
    backbones: Sequence[Backbone],
    *,
    device: torch.device,
    batch_size: int,
    num_threads: int,
    shard_rows: int,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    advance: Callable[[int], None] = lambda count: None,
) -> Report:
    """Fills the streams of `backbones` over `frames`; shards that are there stay, except where a failed face changed.

    `shard_rows` and `precision` hold for streams made now; a stream that was begun keeps its own. `advance` is told
    the number of faces done, those every stream had already first.

    Raises:
        ValueError: no faces folder, a stream of that name made from something else, or one being written by another
            process; says what to type.
        OSError: the disk; whole shards stay, the same command goes on behind them.
    """
    start = time.monotonic()
    if not len(frames):
        raise ValueError("the frames table has no rows; `mtl prepare` fills it")
    streams = [open_stream(cache, each, frames, faces, device, batch_size, shard_rows, precision) for each in backbones]
    with contextlib.ExitStack() as stack:
        for stream in streams:
            stack.enter_context(stream.writer_lock())
            forget_repaired(stream, frames, faces)
        jobs = [job_of(*each, precision) for each in zip(backbones, streams, strict=True)]
        num_done = count_rows(jobs, frames, faces)
        if num_done < len(frames):
            advance(len(frames) - num_done)
        for rows in sorted({job.stream.shard_rows for job in jobs if job.missing}):
            group = [job for job in jobs if job.missing and job.stream.shard_rows == rows]
            _run(group, frames, faces, device, batch_size, num_threads, advance)
    return Report(
        num_done=num_done,
        num_skipped=len(frames) - num_done,
        failed=failures_of(streams, frames),
        seconds=time.monotonic() - start,
    )


def default_batch_size(device: torch.device) -> int:
    """Faces a batch where nobody says: enough to fill the device, few enough for a ring of them in memory."""
    return BATCH_SIZES.get(device.type, BATCH_SIZES["cpu"])


def default_num_threads() -> int:
    """Decoding threads where nobody says: the processor cores this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


def _run(
    jobs: Sequence[Job],
    frames: pl.DataFrame,
    faces: Path,
    device: torch.device,
    batch_size: int,
    num_threads: int,
    advance: Callable[[int], None],
) -> None:
    """One pass over the faces for `jobs`, whose streams have equal shards."""
    loader = FaceLoader(
        faces,
        frames["path"],
        tuple(dict.fromkeys(job.backbone.preprocessing for job in jobs)),
        batch_size=batch_size,
        num_threads=num_threads,
        num_slots=NUM_SLOTS,
        pin_memory=device.type == "cuda",
    )
    writer = ShardWriter([job.stream for job in jobs])
    try:
        with one_pass(device):
            for batch, slot, embeddings in _embedded(jobs, loader, _batches(jobs, batch_size), device):
                writer.add(batch, slot.digests, slot.failed, embeddings)
                loader.release(slot)
                advance(batch.stop - batch.start)
        writer.finish()
    finally:
        loader.close()
        writer.close()


def _batches(jobs: Sequence[Job], batch_size: int) -> Iterator[Batch]:
    for shard in sorted(frozenset().union(*(job.missing for job in jobs))):
        start, stop = jobs[0].stream.rows(shard)
        inputs = tuple(dict.fromkeys(job.backbone.preprocessing for job in jobs if shard in job.missing))
        for begin in range(start, stop, batch_size):
            yield Batch(shard=shard, start=begin, stop=min(begin + batch_size, stop), inputs=inputs)


def _embedded(
    jobs: Sequence[Job], loader: FaceLoader, batches: Iterator[Batch], device: torch.device
) -> Iterator[tuple[Batch, Slot, dict[str, np.ndarray]]]:
    """Yields each batch with its embeddings {stream: [B, D]}; a GPU has the next batch while one is yielded."""
    embed = {job.stream.name: prepared(job.backbone, job.precision, device) for job in jobs}
    depth = 1 if device.type == "cuda" else 0
    under_way: deque[tuple[Batch, Slot, Ticket]] = deque()
    for batch, slot in loader.load(batches):
        wanted = {each: slot.faces[each] for each in batch.inputs}
        inputs = to_device(wanted, batch.stop - batch.start, device)
        outputs: dict[str, Tensor] = {
            job.stream.name: embed[job.stream.name](inputs[job.backbone.preprocessing])
            for job in jobs
            if batch.shard in job.missing
        }
        under_way.append((batch, slot, Ticket(outputs, device)))
        if len(under_way) > depth:
            yield _landed(under_way.popleft())
    while under_way:
        yield _landed(under_way.popleft())


def _landed(flight: tuple[Batch, Slot, Ticket]) -> tuple[Batch, Slot, dict[str, np.ndarray]]:
    batch, slot, ticket = flight
    return batch, slot, ticket.embeddings()
