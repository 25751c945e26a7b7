"""The extraction engine: faces in, whole shards of embeddings out, for several backbones and views in one pass.

Three things overlap: threads decode the batches ahead, the main thread runs the backbones, one thread writes shards.
Batches are cut at the shards' starts, so an embedding does not depend on where an earlier run was stopped.
Letters: B faces, D width, N frames, R rows of a shard.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cache.cores import num_cores
from cache.frames_file import Frames
from cache.locks import Part
from cache.store import Cache
from cache.stream import Stream
from extract import jobs as planning
from extract.backbones.build import Backbone
from extract.backbones.passes import Unavailable
from extract.backbones.resize import MAX_PIXELS, Resizer, batch_resizer
from extract.backbones.runtime import Embedder, Ticket, embedder, release, steady
from extract.backbones.trials import Allowance
from extract.config import Preprocessing
from extract.faces.source import FaceSource
from extract.inputs import Inputs
from extract.jobs import Job, Settings
from extract.loading import Batch, FaceLoader, Slot
from extract.report import Hooks, Report, failures_of
from extract.upkeep import forget_bad
from extract.view_names import stream_title
from extract.writing import ShardBuffer, StreamKey

NUM_SLOTS = 4  # one or two with the backbones, the others being filled
BATCH_SIZES = {"cuda": 256, "cpu": 64}


def extract(
    frames: Frames,
    faces: Path,
    cache: Cache,
    backbones: Sequence[Backbone],
    settings: Settings,
    hooks: Hooks = Hooks(),
) -> Report:
    """Fills the streams of `backbones` over `frames`; shards that are there stay, but for those that lost a file and
    those where a failed face changed.

    Raises:
        ValueError: no faces folder, a stream of that name made from something else, or one being written by another
            process; says what to type.
        OSError: the disk; whole shards stay, the same command resumes behind them.
    """
    start = time.monotonic()
    with contextlib.closing(Extraction(frames, faces, cache, backbones, settings)) as extraction:
        hooks.opened()
        report = extraction.run(settings.part, hooks)
        failed = failures_of(extraction.streams, frames)
    return dataclasses.replace(report, failed=failed, seconds=time.monotonic() - start)


class Extraction:
    """The streams of `backbones` over `frames`, opened or made, to be filled part after part.

    Runtimes are settled, and what was compiled or recorded for them is kept until `close`.
    """

    def __init__(
        self, frames: Frames, faces: Path, cache: Cache, backbones: Sequence[Backbone], settings: Settings
    ) -> None:
        """Raises as `extract`, but for what writing raises."""
        if not len(frames):
            raise ValueError("the frames table has no rows; `mtl prepare` fills it")
        there = set(cache.streams())
        names = [name for each in backbones for name in each.streams]
        if any((name, view) not in there for name in names for view in settings.views):
            planning.require_folder(faces)
        self._frames, self._faces, self._settings = frames, faces, settings
        allowance = Allowance(len({(each.architecture, each.preprocessing.size_px) for each in backbones}))
        opened = [planning.open_streams(cache, each, frames, settings, allowance) for each in backbones]
        self._streams = [(each, stream) for each, (found, _) in zip(backbones, opened, strict=True) for stream in found]
        self._notes = (*cache.notes, *(note for _, about in opened for note in about))  # for the first part that is run
        self._source = FaceSource(faces, follow_orientation=settings.follow_orientation)

    @property
    def streams(self) -> list[Stream]:
        return [stream for _, stream in self._streams]

    def run(self, part: Part, hooks: Hooks = Hooks()) -> Report:
        """Fills what is missing of `part`; the report names no failed faces. Raises as `extract`."""
        start, frames, source = time.monotonic(), self._frames, self._source
        settings = dataclasses.replace(self._settings, part=part)
        with contextlib.ExitStack() as stack:
            for stream in self.streams:
                stack.enter_context(stream.writer_lock(part))
            paths = frames["path"] if self._faces.is_dir() else None
            num_redone = sum(forget_bad(stream, part, paths, source) for stream in self.streams)
            jobs = [planning.job_of(each, stream, settings) for each, stream in self._streams]
            todo = planning.todo_of(jobs, len(frames), part)
            found = planning.sample_of(todo.missing, frames, self._faces, source)
            hooks.begin(todo.num_missing)
            size = planning.native_size(found, source)
            source.orientations.num_turned = 0  # the sample is decoded again
            notes = (*self._notes, *_run_all(jobs, frames, source, size, settings, hooks.advance))
            self._notes = ()
        return Report(
            num_done=todo.num_missing,
            num_skipped=len(frames) - todo.num_missing - todo.num_elsewhere,
            failed=[],
            seconds=time.monotonic() - start,
            filled=tuple(stream_title(*job.key) for job in jobs if job.missing),
            num_elsewhere=todo.num_elsewhere,
            num_redone=num_redone,
            num_turned=source.orientations.num_turned,
            notes=notes,
        )

    def close(self) -> None:
        self._source.close()
        release(self._settings.device)


def default_batch_size(device: torch.device) -> int:
    """Faces per batch by default: enough to fill the device, few enough for a ring of them in memory."""
    return BATCH_SIZES.get(device.type, BATCH_SIZES["cpu"])


def default_num_threads() -> int:
    """Decoding threads by default: the processor cores this process may use, at most 16."""
    return min(16, num_cores())


def _run_all(
    jobs: Sequence[Job],
    frames: Frames,
    source: FaceSource,
    size: tuple[int, int] | None,
    settings: Settings,
    advance: Callable[[int], None],
) -> list[str]:
    """A pass over the faces for all streams with equal shards and faces resized alike; returns notes for the user."""
    groups: dict[tuple[int, str], list[Job]] = {}
    for job in jobs:
        if job.missing:
            groups.setdefault((job.stream.shard_rows, job.transform), []).append(job)
    notes: dict[str, None] = {}
    with steady(settings.device):
        for _, group in sorted(groups.items()):
            notes |= dict.fromkeys(Pass(group, frames, source, size, settings).run(advance))
    return list(notes)


class Pass:
    """One pass over the faces for `jobs`, whose streams have equal shards and want their faces resized alike."""

    def __init__(
        self,
        jobs: Sequence[Job],
        frames: Frames,
        source: FaceSource,
        size: tuple[int, int] | None,
        settings: Settings,
    ) -> None:
        """`size` (H, W) is that of most faces, where it is known."""
        self._jobs, self._frames, self._device = jobs, frames, settings.device
        self._batch_size = settings.batch_size
        resizers = _resizers(jobs)
        every = dict.fromkeys(job.preprocessing for job in jobs)
        self._loader = FaceLoader(
            source,
            frames["path"],
            [each for each in every if each not in resizers],
            list(resizers),
            native_size=size if size is not None and size[0] * size[1] <= MAX_PIXELS else None,
            batch_size=settings.batch_size,
            num_threads=settings.num_threads,
            num_slots=NUM_SLOTS,
            pin_memory=settings.device.type == "cuda",
        )
        self._inputs = Inputs(resizers, settings.device)

    def run(self, advance: Callable[[int], None]) -> list[str]:
        """Fills the missing shards; returns notes for the user."""
        writer = ShardBuffer([job.stream for job in self._jobs])
        try:
            embed = self._embedders()
            for batch, slot, embeddings in self._embedded(embed):
                writer.add(batch, slot.digests, slot.failed, embeddings)
                self._loader.release(slot)
                advance(batch.stop - batch.start)
            writer.finish()
        finally:
            self._loader.close()
            writer.close()
        return writer.notes() + [
            f"{name}: memory holds no more than {each.limit} faces at once, of batches of {self._batch_size}"
            for (name, _), each in embed.items()
            if each.limit < self._batch_size
        ]

    def _embedders(self) -> dict[StreamKey, Embedder]:
        """One a backbone and runtime, shared by its outputs and views."""
        made: dict[object, Embedder] = {}
        found = {}
        for job in self._jobs:
            key = (job.backbone.name, job.runtime)
            if key not in made:
                made[key] = self._embedder(job)
            found[job.key] = made[key]
        return found

    def _embedder(self, job: Job) -> Embedder:
        try:
            return embedder(job.backbone, job.runtime, self._device, self._batch_size)
        except Unavailable as error:  # that of a new stream was made ready when it was chosen
            raise ValueError(
                f"{error.reason}; {job.stream.where} was begun with runtime {job.runtime.mode}: resume where that can "
                f"be had, or type {job.stream.remake_hint}"
            ) from None

    def _batches(self) -> Iterator[Batch]:
        for shard in sorted(frozenset().union(*(job.missing for job in self._jobs))):
            start, stop = self._jobs[0].stream.rows(shard)
            inputs = tuple(dict.fromkeys(job.preprocessing for job in self._jobs if shard in job.missing))
            for begin in range(start, stop, self._batch_size):
                yield Batch(shard=shard, start=begin, stop=min(begin + self._batch_size, stop), inputs=inputs)

    def _embedded(self, embed: dict[StreamKey, Embedder]) -> Iterator[tuple[Batch, Slot, dict[StreamKey, np.ndarray]]]:
        """Yields each batch with its embeddings [B, D]; a GPU has the next batch while one is yielded."""
        depth = 1 if self._device.type == "cuda" else 0
        under_way: deque[tuple[Batch, Slot, Ticket]] = deque()
        for batch, slot in self._loader.load(self._batches()):
            jobs = [job for job in self._jobs if batch.shard in job.missing]
            videos = self._frames["video"].slice(batch.start, batch.stop - batch.start).to_list()
            wanted = [(job.preprocessing, job.stream.view) for job in jobs]
            inputs = self._inputs.of(batch, slot, wanted, videos)
            outputs = _outputs(jobs, [inputs[each] for each in wanted], embed)
            under_way.append((batch, slot, Ticket(outputs, self._device)))
            if len(under_way) > depth:
                yield _landed(under_way.popleft())
        while under_way:
            yield _landed(under_way.popleft())


def _outputs(
    jobs: Sequence[Job], inputs: Sequence[Tensor], embed: Mapping[StreamKey, Embedder]
) -> dict[StreamKey, Tensor]:
    """[B, D] for each job, whose input is `inputs[i]`; a backbone runs once on an input, for all of its outputs."""
    done: dict[tuple[Embedder, int], Tensor] = {}
    found = {}
    for job, faces in zip(jobs, inputs, strict=True):
        key = (embed[job.key], id(faces))
        if key not in done:
            done[key] = key[0](faces)
        found[job.key] = done[key][:, job.columns]
    return found


def _resizers(jobs: Sequence[Job]) -> dict[Preprocessing, Resizer]:
    """Of the inputs that the device resizes."""
    inputs = dict.fromkeys(job.preprocessing for job in jobs if job.transform == "device")
    found = {each: batch_resizer(each) for each in inputs}
    return {each: resizer for each, resizer in found.items() if resizer is not None}


def _landed(flight: tuple[Batch, Slot, Ticket]) -> tuple[Batch, Slot, dict[StreamKey, np.ndarray]]:
    batch, slot, ticket = flight
    return batch, slot, ticket.embeddings()
