"""The extraction of one backbone of sound, as mtl.toml has it."""

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from cache.locks import Part
from cache.store import Cache
from extract.report import Hooks, Report
from pipelines.config import Config
from pipelines.extraction.one import Choices


def sound_extraction(
    config: Config, name: str, frames: pl.DataFrame, choices: Choices, device: str
) -> Callable[[Part, Hooks], Report]:
    """What extracts a part of the backbone `name` over `frames`, any number of times.

    Raises:
        ValueError: no frames, or the backbone cannot be had; calling it raises as `extract_sound`.
    """
    from extract.audio.backbones import load_audio
    from extract.audio.engine import SoundSettings, extract_sound

    if not len(frames):
        raise ValueError("the frames table has no rows; `mtl prepare` fills it")
    settings = SoundSettings(
        videos=config.at(config.data.videos),
        fps=config.data.fps,
        shard_rows=config.cache.shard_rows,
        dtype=config.cache.dtype,
        views=choices.views,
        part=choices.part,
    )
    backbone = load_audio(name, config.backbones[name], config.folder, lambda: _device(device))
    cache = Cache.open(config.cache_location(), create=True)
    return lambda part, hooks: extract_sound(frames, cache, backbone, replace(settings, part=part), hooks)


def _device(name: str) -> str:
    from pipelines.device import resolve_devices

    return resolve_devices(name)[0]
