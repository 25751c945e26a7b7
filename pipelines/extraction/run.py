"""From mtl.toml to filled streams: what `mtl extract` and other programs call.

A command that finds nothing to do loads neither torch nor a backbone, and writes nothing.
"""

import contextlib
import time
from collections.abc import Sequence

import polars as pl

from cache.frames import Frames, frames_digest, open_frames, read_frames
from cache.labels import nearest
from cache.store import Cache
from cache.stream import Stream
from extract.backbones.origin import origin_of
from extract.config import FOLLOWED, ORIENTATION
from extract.faces.source import FaceSource
from extract.report import Report, failures_of
from extract.upkeep import is_settled
from extract.view_names import recipe, stream_title
from pipelines.config import Config
from pipelines.extraction.one import Choices, ExtractionBar, extract_on
from pipelines.extraction.several import extract_on_each
from pipelines.extraction.sound import sound_extraction
from pipelines.torch_import import import_torch

NEED_NO_CHECK = ("auto", "cpu")
LONGEST_TITLE = 16  # characters


Done = tuple[list[str], Report]


def run_extraction(config: Config, names: Sequence[str] = (), choices: Choices = Choices()) -> list[Done]:
    """Extracts the backbones `names` of `config`, or all of them, with a progress bar.

    Returns:
        Of all backbones of faces, then of each of sound: the streams' titles, `name` or `name/view`, and what was done.

    Raises:
        ValueError: a name, the frames table, a folder, weights, a device or a stream is not as it must be.
    """
    chosen = choose(config, names)
    if choices.cluster is None and choices.devices not in NEED_NO_CHECK:
        _resolved(choices.devices)
    path = config.at(config.data.frames)
    of_sound = [name for name in chosen if config.backbones[name].is_audio]
    of_faces = [name for name in chosen if name not in of_sound]
    found = [_extract_faces(config, of_faces, open_frames(path, config.schema), choices)] if of_faces else []
    if not of_sound:
        return found
    frames = read_frames(path, config.schema)
    return found + [_extract_sound(config, name, frames, choices) for name in of_sound]


def _titles(config: Config, names: Sequence[str], choices: Choices) -> list[str]:
    streams = [stream for name in names for stream in config.backbones[name].streams(name)]
    return [stream_title(name, view) for name in streams for view in choices.views]


def _short(titles: Sequence[str]) -> str:
    """The names of few streams, the number of many, so that rate and time left have room beside them."""
    names = ", ".join(titles)
    return names if len(titles) == 1 or len(names) <= LONGEST_TITLE else f"{len(titles)} streams"


def _extract_sound(config: Config, name: str, frames: pl.DataFrame, choices: Choices) -> Done:
    titles = _titles(config, [name], choices)
    with ExtractionBar(f"extract {_short(titles)}", "frames") as bar:
        if choices.cluster is not None:
            return titles, _on_ray(config, [name], frames, choices, bar)
        return titles, sound_extraction(config, name, frames, choices, choices.devices)(choices.part, bar.hooks())


def _extract_faces(config: Config, chosen: Sequence[str], frames: Frames, choices: Choices) -> Done:
    settled = _settled(config, chosen, frames, choices)
    titles = _titles(config, chosen, choices)
    if settled is not None:
        return titles, settled
    faces = config.at(config.data.faces)
    if not faces.is_dir():  # the engine would say so too, but after minutes of fetching weights
        raise ValueError(f"{faces}: no such folder of faces; set faces under [data] in mtl.toml")
    with ExtractionBar(f"extract {_short(titles)}") as bar:
        if choices.cluster is not None:
            return titles, _on_ray(config, chosen, frames, choices, bar)
        devices = _resolved(choices.devices)
        if len(devices) == 1:
            report = extract_on(config, chosen, frames, choices, devices[0], bar.hooks())
        else:
            report = extract_on_each(config, chosen, frames, choices, devices, bar)
    return titles, report


def _on_ray(config: Config, names: Sequence[str], frames: Frames, choices: Choices, bar: ExtractionBar) -> Report:
    from pipelines.extraction.on_ray import extract_on_ray

    return extract_on_ray(config, names, frames, choices, bar)


def _resolved(devices: str) -> list[str]:
    import_torch()
    from pipelines.device import resolve_devices

    return resolve_devices(devices)


def _settled(config: Config, names: Sequence[str], frames: Frames, choices: Choices) -> Report | None:
    """A report of nothing done, where that can be told from mtl.toml, files and cache alone; else None."""
    start = time.monotonic()
    if not len(frames):
        return None
    try:
        cache = Cache.open(config.cache_location(), read_only=True)
    except ValueError:  # none yet, or a group's file is lost: the extraction makes it, or says what is wrong
        return None
    digest = frames_digest(frames)
    named = [stream for name in names for stream in config.backbones[name].streams(name)]
    streams = [_known(cache, config, name, view, digest) for name in named for view in choices.views]
    whole = [stream for stream in streams if stream is not None]
    if len(whole) < len(streams):
        return None
    faces = config.at(config.data.faces)
    with contextlib.closing(FaceSource(faces)) as source:
        if not all(is_settled(stream, choices.part, frames, faces, source) for stream in whole):
            return None
    left = max(sum(stop - start for start, stop in map(each.rows, each.missing_shards())) for each in whole)
    return Report(
        num_done=0,
        num_skipped=len(frames) - left,
        failed=failures_of(whole, frames),
        seconds=time.monotonic() - start,
        num_elsewhere=left,
    )


def _known(cache: Cache, config: Config, name: str, view: str, digest: str) -> Stream | None:
    """The stream, if it is there and was certainly made from what mtl.toml says now."""
    if (name, view) not in cache.streams():
        return None
    stream, section = cache.stream(name, view), config.streams[name]
    backbone = config.backbones[section]
    origin = origin_of(backbone, config.folder, backbone.streams(section)[name])
    same = origin is not None and stream.provenance.get("origin") == origin and stream.identity.frames == digest
    made = stream.identity.preprocessing
    same = same and made.get(ORIENTATION) == (None if config.data.ignore_orientation else FOLLOWED)
    same = same and stream.identity.dtype == config.cache.dtype
    return stream if same and made.get("augmentation", {}) == recipe(view) else None


def choose(config: Config, names: Sequence[str]) -> list[str]:
    """The backbones of `config` that are in `names`, or have a stream in it, once each; every one that was not imported
    where there are none.

    Raises:
        ValueError: mtl.toml has no such backbone, or none to extract.
    """
    known = list(config.backbones)
    if not known:
        raise ValueError(
            f"{config.folder / 'mtl.toml'}: no backbone; add a section [backbones.NAME] or run `mtl finetune`"
        )
    streams = {**config.streams, **dict(zip(known, known, strict=True))}
    for name in names:
        if name not in streams:
            raise ValueError(f"--backbone {name}: not in mtl.toml{nearest(name, known)}; there: {', '.join(known)}")
    runnable = [name for name in known if not config.backbones[name].is_imported]
    if not names and not runnable:
        raise ValueError(
            f"{config.folder / 'mtl.toml'}: all streams were imported ({', '.join(known)}); none to extract"
        )
    return list(dict.fromkeys(streams[name] for name in names)) or runnable
