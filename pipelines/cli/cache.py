"""`mtl cache`: what is cached, whether it is whole, and how to be rid of it; `cache_exchange` adds to it."""

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import cache_exchange
from pipelines.cli.group import MtlGroup
from pipelines.cli.options import CONFIG, ConfigOption, JsonOption, SetOption
from pipelines.terminal import make_console, say, say_json, visible
from pipelines.words import counted

if TYPE_CHECKING:
    import polars as pl

    from cache.store import Cache, LostGroupError
    from cache.stream import Stream
    from cache.verify import Damage, FaceDigests
    from pipelines.config import Config

app = typer.Typer(
    cls=MtlGroup,
    help="List, describe, verify, remove, import and export cached embeddings.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
cache_exchange.register(app)
NameArgument = Annotated[str, typer.Argument(help="A stream: the name of its backbone.")]
ViewOption = Annotated[str | None, typer.Option(help="Only this view; default: all.")]


@app.command(name="ls")
def list_streams(config: ConfigOption = CONFIG, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """List the streams of the cache: rows, how many are done, size, and coverage of each split.

    \b
    Examples:
      mtl cache ls
      mtl cache ls --json
    """

    from cache.summary import summarise
    from pipelines.cli.pages.cache import print_streams

    settings, cache = _open(config, overrides, read_only=True)
    streams = summarise(cache, _frames(settings))
    if as_json:
        say_json([asdict(each) for each in streams])
    elif streams:
        print_streams(streams, make_console())
    else:
        say(f"{cache.where}: no streams yet; `mtl extract` makes them")


@app.command()
def info(
    name: NameArgument,
    view: ViewOption = None,
    config: ConfigOption = CONFIG,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is recorded about a stream: its identity, where it came from, failed faces.

    \b
    Examples:
      mtl cache info expr
      mtl cache info expr --view base --json
    """

    from cache.summary import describe
    from pipelines.cli.pages.cache import print_stream

    _, cache = _open(config, overrides, read_only=True)
    found = [describe(cache.stream(*key)) for key in _chosen(cache, name, view)]
    if as_json:
        say_json(found)
        return
    for stream in found:
        print_stream(stream, make_console())


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="A stream; default: all.")] = None,
    view: ViewOption = None,
    faces: Annotated[
        bool | None, typer.Option(help="Compare faces and videos too; default: where the faces folder is there.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Give up damaged shards, so that `mtl extract` makes just these again.")
    ] = False,
    config: ConfigOption = CONFIG,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every byte of the cache, every face and every video of sound, with the digests taken at extraction.

    Exit code 1 where anything is damaged or incomplete; without --repair nothing is changed.

    \b
    Examples:
      mtl cache verify
      mtl cache verify expr --no-faces --json
      mtl cache verify expr --repair
    """

    from cache.store import LostGroupError
    from pipelines.cli.pages.cache import print_damages

    try:
        settings, cache = _open(config, overrides, read_only=not repair)
    except LostGroupError as lost:  # of no stream, and none can be opened
        _say_lost(lost, as_json)
        raise typer.Exit(1) from None
    keys = _chosen(cache, name, view)
    damages = _verify(settings, cache, keys, faces)
    repaired = _repair(cache, keys, damages) if repair else {}
    if as_json:
        streams = [{"name": each, "view": found} for each, found in keys]
        document = {
            "streams": streams,
            "damages": [asdict(each) for each in damages],
            "repaired_shards": sum(repaired.values()),
        }
        say_json(document)
    elif damages:
        print_damages(damages, make_console(), repaired=repair)
        for stream, number in repaired.items():
            what = "1 shard is" if number == 1 else f"{number:,} shards are"
            say(f"{stream.where}: {what} to be made again; type {stream.extract_hint}")
        rewritten = sum(each.kind == "group" for each in damages) if repair else 0
        if rewritten:
            say(f"{rewritten} {'file' if rewritten == 1 else 'files'} written anew")
    else:
        say(f"{cache.where}: {counted(len(keys), 'stream')}, all whole")
    if damages:
        raise typer.Exit(1)


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(help="Streams: the names of their backbones.")],
    view: ViewOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = CONFIG,
    overrides: SetOption = None,
) -> None:
    """Remove streams from the cache. Asks first; where one of them is not there, none is removed.

    \b
    Examples:
      mtl cache rm expr
      mtl cache rm expr va --yes
      mtl cache rm expr --view hflip --yes
    """
    _, cache = _open(config, overrides, read_only=False)
    names = list(dict.fromkeys(names))
    keys = [key for name in names for key in _chosen(cache, name, view)]
    if not yes:
        if not _is_terminal():
            raise ValueError(f"mtl cache rm {' '.join(names)}: there is no terminal to ask on; add --yes")
        typer.confirm(visible(f"Remove {', '.join(f'{each} (view {found})' for each, found in keys)}?"), abort=True)
    for name in names:
        cache.remove(name, view)
        say(f"{cache.where}: removed {name}" + (f" (view {view})" if view else ""))


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _open(config: Path, overrides: list[str] | None, *, read_only: bool) -> "tuple[Config, Cache]":
    from cache.store import Cache
    from pipelines.config import read_config

    settings = read_config(config, overrides or ())
    cache = Cache.open(settings.cache_location(), read_only=read_only)
    for note in cache.notes:
        say(note, err=True)
    return settings, cache


def _frames(settings: "Config") -> "pl.DataFrame | None":
    """The frames table, None where there is none yet."""
    from cache.frames import read_frames

    path = settings.at(settings.data.frames)
    return read_frames(path, settings.schema) if path.exists() else None


def _chosen(cache: "Cache", name: str | None, view: str | None) -> list[tuple[str, str]]:
    """(name, view) of the streams meant; raises ValueError where there are none of that name."""
    streams = cache.streams()
    keys = [key for key in streams if name in (None, key[0]) and view in (None, key[1])]
    if not keys and name is not None:
        known = ", ".join(f"{each} (view {found})" for each, found in streams) or "none"
        raise ValueError(f"{cache.where}: no stream {name}{f' (view {view})' if view else ''}; there: {known}")
    return keys


def _verify(settings: "Config", cache: "Cache", keys: list[tuple[str, str]], faces: bool | None) -> "list[Damage]":
    from cache.frames import open_frames
    from cache.verify import num_rows_to_check, verify_named
    from extract.faces.source import FaceSource
    from extract.view_names import stream_title
    from pipelines.progress import progress

    path, folder = settings.at(settings.data.frames), settings.at(settings.data.faces)
    frames = open_frames(path, settings.schema) if path.exists() else None
    if faces and (frames is None or not folder.is_dir()):
        raise ValueError(f"{folder if frames is not None else settings.data.frames}: not there; leave out --faces")
    with_faces = frames is not None and folder.is_dir() if faces is None else faces
    if not with_faces and faces is None:
        say("faces are not checked: no frames table or no faces folder", err=True)
    found: list[Damage] = []
    sounds = _digests_of_sound(settings) if with_faces else None
    with closing(FaceSource(folder)) as source:
        digests = source.digests if with_faces else None
        for name, view in keys:
            total = num_rows_to_check(cache, name, view, with_faces)
            with progress(f"Verifying {stream_title(name, view)}", total, "rows") as advance:
                found += verify_named(cache, name, view, frames, digests, advance, sounds)
    return found


def _say_lost(error: "LostGroupError", as_json: bool) -> None:
    from cache.verify import Damage

    damage = Damage(stream="", view="", kind="metadata", what=error.what, remedy=error.remedy)
    if as_json:
        say_json({"streams": [], "damages": [asdict(damage)], "repaired_shards": 0})
    else:
        say(str(error))


def _digests_of_sound(settings: "Config") -> "FaceDigests | None":
    """Of the videos by their names; None where the folder of videos is not there."""
    from extract.audio.sound import SoundFiles

    folder = settings.at(settings.data.videos)
    if not folder.is_dir():
        return None
    files = SoundFiles(folder)
    return lambda videos: map(files.digest, videos)


def _repair(cache: "Cache", keys: list[tuple[str, str]], damages: "list[Damage]") -> "dict[Stream, int]":
    """Gives up the damaged shards; the streams that had some, and how many. One whose metadata is damaged is left as it
    is."""
    from cache.verify import repair

    whole = {(each.stream, each.view) for each in damages if each.kind == "metadata"}
    streams: list[Stream] = [cache.stream(*key) for key in keys if key not in whole]
    numbers = {stream: len(repair(stream, damages)) for stream in streams}
    return {stream: number for stream, number in numbers.items() if number}
