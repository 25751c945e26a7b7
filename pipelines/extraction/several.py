"""One extraction by several processes, one a device: each does its own part of the shards, none waits for another.

The first opens or makes the streams and settles their runtime; the others open them when they are there.
"""

import os
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.cores import num_cores
from cache.frames import Frames, open_frames
from cache.store import Cache
from extract.report import Hooks, Report, failures_of
from pipelines.config import Config
from pipelines.extraction.one import Choices, ExtractionBar, extract_on

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Begun:
    """The faces one process will do."""

    count: int


def extract_on_each(
    config: Config,
    names: Sequence[str],
    frames: Frames,
    choices: Choices,
    devices: Sequence[str],
    bar: ExtractionBar,
) -> Report:
    """As `extract_on`, by a process a device.

    Raises:
        ValueError, OSError: as `extract_on`, of the first process that failed; or a process was killed. The others are
            stopped; finished shards stay.
    """
    start = time.monotonic()
    context = get_context("spawn")  # a forked child could not use CUDA, nor torch's threads
    messages, opened = context.Queue(), context.Event()
    threads = choices.num_threads or max(1, num_cores() // len(devices))
    workers: list[BaseProcess] = []
    for index, device in enumerate(devices):
        part = part_of_part(choices.part, index, len(devices))
        own = replace(choices, devices=device, part=part, num_threads=threads)
        workers.append(context.Process(target=_work, args=(config, list(names), own, index, messages, opened)))
    try:
        for worker in workers:
            worker.start()
        reports = _collect(workers, messages, devices, bar)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
    report = together(reports, config, names, frames, choices.views)
    return replace(report, seconds=time.monotonic() - start)


def part_of_part(part: tuple[int, int], index: int, count: int) -> tuple[int, int]:
    """The `index`-th (from 0) of `count` equal pieces of a part."""
    return (part[0] - 1) * count + index + 1, part[1] * count


def _work(config: Config, names: list[str], choices: Choices, index: int, messages: Any, opened: "Event") -> None:
    """What each process does: sends how far it is, then its report or the error that stopped it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of Ctrl-C too, and stops all
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()

    def advance(count: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # killed without a word to us: what is finished stays
        messages.put(count)

    if index:
        while not opened.wait(POLL_S):
            if os.getppid() != parent:
                os._exit(1)
    hooks = Hooks(opened=opened.set, begin=lambda count: messages.put(Begun(count)), advance=advance)
    try:
        frames = open_frames(config.at(config.data.frames), config.schema)
        messages.put((index, extract_on(config, names, frames, choices, choices.devices, hooks)))
    except (ValueError, OSError) as error:
        messages.put((index, error))


def _collect(workers: Sequence[BaseProcess], messages: Any, devices: Sequence[str], bar: ExtractionBar) -> list[Report]:
    """Shows how far all are; their reports, in the order of the processes."""
    begun: list[int] = []
    early = 0
    reports: dict[int, Report] = {}
    while len(reports) < len(workers):
        try:
            message = messages.get(timeout=POLL_S)
        except queue.Empty:
            _require_alive(workers, reports, messages, devices)
            continue
        if isinstance(message, Begun):
            begun.append(message.count)
            if len(begun) == len(workers):
                bar.begin(sum(begun))
                bar.advance(early)
        elif isinstance(message, int):
            early += message
            bar.advance(message)
        elif isinstance(message[1], Report):
            reports[message[0]] = message[1]
        else:
            raise message[1]
    return [reports[index] for index in range(len(workers))]


def _require_alive(
    workers: Sequence[BaseProcess], reports: dict[int, Report], messages: Any, devices: Sequence[str]
) -> None:
    for index, worker in enumerate(workers):
        if index not in reports and worker.exitcode not in (None, 0) and messages.empty():
            raise ValueError(
                f"the process on {devices[index]} ended without a report (exit code {worker.exitcode}, "
                "-9: killed, perhaps for memory); finished shards are kept, the same command resumes from there"
            )


def together(
    reports: Sequence[Report], config: Config, names: Sequence[str], frames: Frames, views: Sequence[str]
) -> Report:
    """One report of all processes; what is left and what failed as the cache has it now."""
    cache = Cache.open(config.cache_location(), read_only=True)
    titles = [stream for name in names for stream in config.backbones[name].streams(name)]
    streams = [cache.stream(title, view) for title in titles for view in views]
    left = np.zeros(len(frames), bool)
    for stream in streams:
        for shard in stream.missing_shards():
            left[slice(*stream.rows(shard))] = True
    num_done, num_elsewhere = sum(each.num_done for each in reports), int(left.sum())
    return Report(
        num_done=num_done,
        num_skipped=len(frames) - num_done - num_elsewhere,
        failed=failures_of(streams, frames),
        seconds=0.0,
        filled=tuple(dict.fromkeys(title for each in reports for title in each.filled)),
        num_elsewhere=num_elsewhere,
        num_redone=sum(each.num_redone for each in reports),
        num_turned=sum(each.num_turned for each in reports),
        notes=tuple(dict.fromkeys(note for each in reports for note in each.notes)),
    )
