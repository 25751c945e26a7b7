"""One extraction by the workers of a Ray cluster, each part of the shards by whichever worker is free.

Every worker locks the part it writes, as the processes of one machine do. The first one opens or makes the streams and
settles their runtime. N frames.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.frames import Frames, open_frames, read_frames
from cache.locks import Part, part_of
from cache.store import Cache
from cache.stream import Stream
from extract.backbones.origin import FETCHED, ONNX
from extract.report import Hooks, Report
from extract.view_names import stream_title
from pipelines.cluster.connection import connected
from pipelines.cluster.pool import Lost, Pool
from pipelines.cluster.requirements import requirements
from pipelines.cluster.worker import Place
from pipelines.config import Config
from pipelines.extraction.one import Choices, ExtractionBar, loaded
from pipelines.extraction.several import part_of_part, together

if TYPE_CHECKING:
    from extract.engine import Extraction

PARTS_PER_WORKER = 8  # the last one to end keeps the others waiting for an eighth of its work at most


class PartJob:
    """What a worker does for an extraction: the backbones `names` over the parts of the shards that it is given."""

    def __init__(self, config: Config, names: Sequence[str], choices: Choices) -> None:
        self.config, self.names, self.choices = config, list(names), choices
        self._run: Callable[[Part, Hooks], Report] | None = None

    def prepare(self, place: Place) -> None:
        choices = replace(self.choices, num_threads=self.choices.num_threads or place.num_cores)
        if self.config.backbones[self.names[0]].is_audio:
            self._run = self._of_sound(choices, place.device)
        else:
            self._run = self._of_faces(choices, place.device).run

    def do(self, part: Part, tell: Callable[[int], None], check: Callable[[], None]) -> Report:
        assert self._run is not None
        return self._run(part, Hooks(advance=tell))

    def _of_faces(self, choices: Choices, device: str) -> "Extraction":
        from extract.engine import Extraction

        config = self.config
        frames = open_frames(config.at(config.data.frames), config.schema)
        return Extraction(frames, config.at(config.data.faces), *loaded(config, self.names, choices, device))

    def _of_sound(self, choices: Choices, device: str) -> Callable[[Part, Hooks], Report]:
        from pipelines.extraction.sound import sound_extraction

        config = self.config
        return sound_extraction(
            config, self.names[0], read_frames(config.at(config.data.frames), config.schema), choices, device
        )


def extract_on_ray(
    config: Config, names: Sequence[str], frames: Frames, choices: Choices, bar: ExtractionBar
) -> Report:
    """As `extract_on`, by the workers of a cluster; `names` are backbones of faces, or one of sound.

    Raises:
        ValueError, OSError: as `extract_on`, of any worker; no cluster, a worker that differs from this process, or
            shards that no worker survives. Finished shards stay.
    """
    assert choices.cluster is not None
    start = time.monotonic()
    cache = Cache.open(config.cache_location(), create=True)
    of_sound = config.backbones[names[0]].is_audio
    inputs = config.data.videos if of_sound else config.data.faces
    shared = cache.location if isinstance(cache.location, Path) else None
    needed = requirements(_files(config, names), [config.at(inputs)], shared)
    progress = _Progress(bar)
    with (
        connected(choices.cluster, choices.devices) as cluster,
        Pool(cluster, PartJob(config, names, choices), needed, progress) as pool,
    ):
        pool.start()
        titles = [stream for name in names for stream in config.backbones[name].streams(name)]
        streams = [cache.stream(title, view) for title in titles for view in choices.views]
        num_parts = min(max(each.num_shards for each in streams), PARTS_PER_WORKER * max(cluster.capacity(), 1))
        parts = [part_of_part(choices.part, index, num_parts) for index in range(num_parts)]
        progress.begin(streams, parts)
        reports = [_report(part, found, progress) for part, found in pool.map(iter(parts))]
    report = together(reports, config, names, frames, choices.views)
    num_skipped = report.num_skipped + report.num_done - progress.num_done
    return replace(
        report,
        num_done=progress.num_done,
        num_skipped=num_skipped,
        filled=tuple(dict.fromkeys((*progress.filled, *report.filled))),
        seconds=time.monotonic() - start,
        of_sound=of_sound,
    )


def _files(config: Config, names: Sequence[str]) -> Iterator[Path]:
    """The files that decide what an embedding is."""
    yield config.at(config.data.frames)
    for name in names:
        backbone = config.backbones[name]
        if backbone.is_onnx:
            yield config.at(backbone.model.removeprefix(ONNX))
        elif not backbone.is_audio and backbone.weights not in FETCHED:
            yield config.at(backbone.weights)


def _report(part: Part, found: Any, progress: "_Progress") -> Report:
    if isinstance(found, Lost):
        raise ValueError(
            f"--engine ray: part {part[0]} of {part[1]} of the shards: its workers were lost again and again "
            f"({found.reason}; perhaps for memory: lower --batch-size); finished shards are kept, the same command "
            "resumes"
        )
    progress.finish(part, found.value)
    report: Report = found.value
    return report


class _Progress:
    """How many rows are done: those of finished parts, and what workers tell of theirs."""

    def __init__(self, bar: ExtractionBar) -> None:
        self._bar = bar
        self._missing: dict[Part, int] = {}
        self._told: dict[Part, int] = {}
        self.num_done = 0
        self.filled: list[str] = []

    def begin(self, streams: Sequence[Stream], parts: Sequence[Part]) -> None:
        missing = [(stream, frozenset(stream.missing_shards())) for stream in streams]
        for part in parts:
            own = ((stream, sorted(shards.intersection(_own(stream, part)))) for stream, shards in missing)
            self._missing[part] = num_rows(stream.rows(shard) for stream, found in own for shard in found)
        self.filled = [
            stream_title(stream.name, stream.view)
            for stream, shards in missing
            if any(shards.intersection(_own(stream, part)) for part in parts)
        ]
        self._bar.begin(sum(self._missing.values()))

    def on_told(self, part: Part, event: int) -> None:
        self._told[part] = self._told.get(part, 0) + event
        self._show()

    def on_lost(self, part: Part) -> None:
        self._told.pop(part, None)
        self._show()

    def finish(self, part: Part, report: Report) -> None:
        """Rows that a lost worker had finished count too, as do those of shards that were damaged."""
        self._told.pop(part, None)
        self.num_done += max(self._missing[part], report.num_done)
        self._show()

    def _show(self) -> None:
        self._bar.reach(self.num_done + sum(self._told.values()))


def _own(stream: Stream, part: Part) -> range:
    return part_of(part, stream.num_shards)


def num_rows(ranges: Iterable[tuple[int, int]]) -> int:
    """How many rows are in any of the `ranges` [start, stop)."""
    total, reached = 0, 0
    for start, stop in sorted(ranges):
        total += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
