"""The extraction of sound: sound tracks of videos in, whole shards of features out, one row per frame.

A frame stands at its number divided by the frames per second. Where its video has no sound at that time the row is
NO_ROW, and the step remains one for heads that read other streams too; of a video that cannot be read, or is not there,
the rows failed. What stands in a row follows from the file and the time alone. Letters: N frames, R rows, D width.
"""

import contextlib
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from cache.frames import frames_digest
from cache.identity import FACE_DIGEST_BYTES, NO_ROW
from cache.locks import WHOLE, Part, part_of
from cache.store import Cache
from cache.stream import is_finite
from extract.audio.backbones import AudioBackbone, Features
from extract.audio.sound import Sound, SoundFiles, read_sound
from extract.faces.decoder import pyav
from extract.report import NO_EMBEDDING, Hooks, Report, failures_of
from extract.upkeep import forget_bad
from extract.view_names import BASE, stream_title

NOT_FINITE = NO_EMBEDDING + "{name} is not a number, or too large for {dtype}; the model, not the sound"
SHOWN = 3  # videos named in a note


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundSettings:
    """How to extract: `videos` is the folder of the videos, `fps` the rate of the frames' numbers. Every view has the
    same rows: sound is not mirrored."""

    videos: Path
    fps: float
    shard_rows: int
    dtype: str
    views: tuple[str, ...] = (BASE,)
    part: Part = WHOLE


def extract_sound(
    frames: pl.DataFrame, cache: Cache, backbone: AudioBackbone, settings: SoundSettings, hooks: Hooks = Hooks()
) -> Report:
    """Fills the stream of `backbone`; shards that are there stay, but for those that lost a file and those with failed
    rows whose video changed.

    Raises:
        ValueError: no folder of videos, none of the table's videos in it, PyAV is not installed, or a stream of that
            name was made from something else; says what to type.
        OSError: the disk; whole shards stay, the same command resumes behind them.
    """
    start = time.monotonic()
    pyav()
    tracks = Tracks(SoundFiles(settings.videos), backbone, settings.fps)
    _require_some(frames, tracks.files, settings.videos)
    digest = frames_digest(frames)
    provenance = {"model": backbone.config.model, "versions": {name: version(name) for name in backbone.packages}}
    streams = [
        cache.create(
            backbone.name,
            backbone.identity(digest, len(frames), view, settings.dtype, settings.fps),
            settings.shard_rows,
            provenance,
        )
        for view in settings.views
    ]
    hooks.opened()
    with contextlib.ExitStack() as stack:
        for stream in streams:
            stack.enter_context(stream.writer_lock(settings.part))
        num_redone = sum(forget_bad(stream, settings.part, frames["video"], tracks.files) for stream in streams)
        missing = {stream.view: set(stream.missing_shards()) for stream in streams}
        mine = set(part_of(settings.part, streams[0].num_shards))
        todo = {shard: streams[0].rows(shard) for shard in sorted(set().union(*missing.values()))}
        num_todo = sum(stop - first for shard, (first, stop) in todo.items() if shard in mine)
        num_elsewhere = sum(stop - first for shard, (first, stop) in todo.items() if shard not in mine)
        hooks.begin(num_todo)
        for shard, (first, stop) in todo.items():
            if shard not in mine:
                continue
            rows, digests, failed = _shard(frames[first:stop], tracks, backbone, settings)
            for stream in streams:
                if shard in missing[stream.view]:
                    stream.write_shard(shard, rows, digests, failed)
            hooks.advance(stop - first)
    return Report(
        num_done=num_todo,
        num_skipped=len(frames) - num_todo - num_elsewhere,
        failed=failures_of(streams, frames),
        seconds=time.monotonic() - start,
        filled=tuple(stream_title(backbone.name, view) for view in settings.views if missing[view] & mine),
        num_elsewhere=num_elsewhere,
        num_redone=num_redone,
        notes=(*cache.notes, *tracks.notes()),
        of_sound=True,
    )


@dataclass(slots=True)
class Tracks:
    """The sound tracks `files` by video, read when asked for; that of the last video is kept."""

    files: SoundFiles
    backbone: AudioBackbone
    fps: float
    silent: dict[str, None] = field(default_factory=dict)
    short: dict[str, None] = field(default_factory=dict)
    _read: Path | None = None
    _sound: Sound | None = None
    _features: Features | None = None

    def rows(self, video: str, numbers: np.ndarray) -> np.ndarray:
        """[R, D + 1] float32 of frames by their numbers, the age last.

        Raises:
            ValueError: there is no file, or it cannot be read; why.
        """
        path = self.files.file(video)
        if path is None:
            raise ValueError("no file of its name in the folder of videos")
        if self._read != path:
            self._read, self._sound, self._features = None, None, None
            self._sound = read_sound(path, self.backbone.rate_hz)
            self._features = None if self._sound is None else self.backbone.features(self._sound)
            self._read = path
        found = np.zeros((len(numbers), self.backbone.width + 1), np.float32)
        found[:, -1] = NO_ROW
        if self._sound is None or self._features is None:
            self.silent[video] = None
            return found
        times_s = numbers / self.fps
        inside = self._sound.covers(times_s)
        if not inside.all():
            self.short[video] = None
        if inside.any():
            found[inside, :-1], found[inside, -1] = self._features(times_s[inside]), 0
        return found

    def notes(self) -> list[str]:
        """Lines on videos that have no sound, or not at all of their frames, among those just read."""
        found = []
        kinds = (("no sound track", self.silent), ("a sound track shorter than its frames", self.short))
        for words, videos in kinds:
            if videos:
                named = ", ".join(list(videos)[:SHOWN]) + (", .." if len(videos) > SHOWN else "")
                count = f"{len(videos):,} video{'s' if len(videos) > 1 else ''}"
                found.append(f"{self.backbone.name}: {count} with {words}; frames without sound have no row: {named}")
        return found


def _shard(
    frames: pl.DataFrame, tracks: Tracks, backbone: AudioBackbone, settings: SoundSettings
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The rows [R, D + 1] of a shard, the digests [R, 16] of their files, and why rows failed."""
    rows = np.zeros((len(frames), backbone.width + 1), settings.dtype)
    digests, failed = np.zeros((len(frames), FACE_DIGEST_BYTES), np.uint8), dict[int, str]()
    first = 0
    for (video,), part in frames.group_by("video", maintain_order=True):
        place = range(first, first + len(part))
        first += len(part)
        digests[place] = np.frombuffer(tracks.files.digest(str(video)) or bytes(FACE_DIGEST_BYTES), np.uint8)
        try:
            found = tracks.rows(str(video), part["frame"].to_numpy())
        except ValueError as error:
            failed |= dict.fromkeys(place, str(error))
            continue
        with np.errstate(over="ignore"):
            rows[place] = found
    wrong = np.flatnonzero(~is_finite(rows).all(axis=1)).tolist()
    return rows, digests, failed | dict.fromkeys(wrong, NOT_FINITE.format(name=backbone.name, dtype=settings.dtype))


def _require_some(frames: pl.DataFrame, files: SoundFiles, folder: Path) -> None:
    """Raises ValueError where not one video of the table has a file: it is another folder."""
    if len(frames) and not any(files.file(video) for video in frames["video"].unique()):
        there = f"it has {min(files.found)}" if files.found else "it has no videos"
        raise ValueError(
            f"{folder}: no video of the frames table is there ({there}, the table {frames['video'][0]}); set videos "
            "under [data] in mtl.toml"
        )
