"""The streams that are to be read are in the cache; else one line says what to type next."""

from collections.abc import Sequence

from cache.store import Cache, NoCacheError
from extract.backbones.catalogue import entry_of_file
from extract.backbones.origin import missing_file
from extract.view_names import BASE, stream_title
from pipelines.config import Config
from pipelines.recipes import PAGE

StreamKey = tuple[str, str]
SHOWN = 6


def open_cache(config: Config, needed: Sequence[StreamKey]) -> Cache:
    """The cache of mtl.toml, for reading; it has the streams `needed`, (name, view) each.

    Raises:
        ValueError: there is no cache, it is damaged, or lacks a stream; says what to type.
    """
    try:
        cache = Cache.open(config.cache_location(), read_only=True)
    except NoCacheError as error:
        raise ValueError(f"{error.where}: there is no cache here; {next_step(config, needed)}") from None
    there = cache.streams()
    if lacking := [key for key in dict.fromkeys(needed) if key not in there]:
        known = _listed(there) or "none"
        raise ValueError(f"{cache.where}: no stream {_listed(lacking)} (there: {known}); {next_step(config, lacking)}")
    return cache


def next_step(config: Config, lacking: Sequence[StreamKey]) -> str:
    """What to type so that the cache has the streams that it is `lacking`: that which must come first."""
    named = {config.streams.get(name, name): None for name, _ in lacking}
    for name in named:
        section = config.backbones.get(name)
        if section is None:
            return f"mtl.toml has no [backbones.{name}]; add it, or `mtl cache import {name} FILE`"
        if section.is_imported:
            return f"type `mtl cache import {name} FILE`"
        if file := missing_file(section, config.folder):
            entry = entry_of_file(file)
            how = f"`mtl backbones show {entry.name}` says how to get it" if entry else _training(config, name)
            return f"{file}, the weights of [backbones.{name}], is not there: {how}; then `{_extract(config, lacking)}`"
    return f"type `{_extract(config, lacking)}`"


def no_backbone(config: Config) -> str:
    """What to type where mtl.toml names no backbone."""
    if (config.folder / PAGE).is_file():
        return f"mtl.toml names no backbone yet; {PAGE} has the commands that make them, then type `mtl extract`"
    task = next(iter(config.schema.tasks))
    return (
        f"mtl.toml names no backbone; type `mtl finetune --task {task} --model vit_base_patch16_224`, or enter public "
        "weights by `mtl backbones add NAME`; then `mtl extract`"
    )


def _training(config: Config, name: str) -> str:
    section = config.backbones[name]
    tasks = ",".join(section.tasks) or (name if name in config.schema.tasks else "TASK")
    return f"train it by `mtl finetune --task {tasks} --name {name} --model {section.model}`, or put the file there"


def _extract(config: Config, lacking: Sequence[StreamKey]) -> str:
    """One command for all of them."""
    sections = dict.fromkeys(config.streams[name] for name, _ in lacking if name in config.streams)
    views = dict.fromkeys(view for _, view in lacking)
    runnable = [name for name, each in config.backbones.items() if not each.is_imported]
    which = "" if set(sections) == set(runnable) else f" --backbone {','.join(sections)}"
    return f"mtl extract{which}" + ("" if set(views) == {BASE} else f" --views {','.join(views)}")


def _listed(keys: Sequence[StreamKey]) -> str:
    words = [stream_title(*key) for key in keys]
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
