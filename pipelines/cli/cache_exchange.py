"""`mtl cache import` and `mtl cache export`: embeddings from and for other programs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, JsonOption, SetOption
from pipelines.terminal import say, say_json

if TYPE_CHECKING:
    from cache.exchange.importing import ImportReport
    from pipelines.config import Config


def register(app: typer.Typer) -> None:
    app.command(name="import")(import_)
    app.command(name="export")(export)


def import_(
    name: Annotated[str, typer.Argument(help="The stream to make; heads call it by this name.")],
    source: Annotated[Path, typer.Argument(help="A .h5, .npy, .parquet or .pkl file, or a folder of .npy files.")],
    view: Annotated[str, typer.Option(help="Which view of the faces these are; hflip, say.")] = "base",
    made_by: Annotated[
        str,
        typer.Option(
            "--made-by", "--backbone-name", metavar="TEXT", help="What made the embeddings: heads go by this text."
        ),
    ] = "",
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="They are those of \\[backbones.NAME] in mtl.toml.")
    ] = "",
    task: Annotated[list[str] | None, typer.Option(help="A task it was trained for; repeatable.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="Parquet naming a .npy matrix's rows: video, frame; or path.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="The matrix, where an HDF5 file or a folder of parts has several.")] = "",
    names: Annotated[
        str, typer.Option(metavar="FORM", help="HDF5 with one dataset per frame: video/frame or frame/video.")
    ] = "",
    part: Annotated[str, typer.Option(help="In a pickle: which of several arrays per frame; 0, features, ...")] = "",
    suffix: Annotated[str, typer.Option(help="In a folder: what follows the video's name, before .npy.")] = "",
    first_frame: Annotated[int | None, typer.Option(help="One matrix per video: the frame of its first row.")] = None,
    step: Annotated[int, typer.Option(min=1, help="One matrix per video: frames from one row to the next.")] = 1,
    allow_overlaps: Annotated[
        bool, typer.Option("--allow-overlaps", help="Times: where rows overlap, the one that begins last counts.")
    ] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Times: leave out rows behind a video's last frame.")
    ] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load a pickle: runs code from it.")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take embeddings others made into the cache, as a stream that heads read like any other.

    HDF5: a matrix whose rows are the frames table's, or named by datasets video and frame beside it; one matrix per
    video, /VIDEO; or one dataset per frame, /VIDEO/FRAME or /FRAME/VIDEO (--names where both may be meant). A .npy
    matrix: rows named by a Parquet file of the same name or --keys. A folder: one VIDEO.npy per video; or numbered
    parts, NAME_0.npy with a Parquet file of the same number that names its rows. Frames without a vector become
    missing steps. Heads trained on the stream apply to other faces embedded the same way where both were imported with
    the same --made-by, or the same --backbone.

    Where rows have start_s and end_s (seconds) in place of frame, each frame (at frame / \\[data] fps) sees the row
    that covers it, and the last column is that row's age; a frame that none covers has no row and remains a step.

    \b
    Examples:
      mtl cache import vit features.h5
      mtl cache import vit flipped.h5 --view hflip
      mtl cache import clip img_emb.npy --keys metadata.parquet
      mtl cache import clip clip.h5 --made-by "open_clip ViT-B-32 laion2b"
      mtl cache import clip embeddings/ --dataset img_emb
      mtl cache import i3d features/ --suffix _rgb --first-frame 1 --step 16
      mtl cache import text segments.parquet
      mtl cache import expr features.pkl --allow-pickle --part features
    """
    from cache.exchange.importing import import_stream
    from cache.exchange.sources import SourceOptions
    from cache.frames import read_frames
    from cache.store import Cache
    from pipelines.config import read_config
    from pipelines.progress import progress

    settings = read_config(config, set_ or ())
    section = _section(settings, name, view, source, task or [])
    frames = read_frames(settings.at(settings.data.frames), settings.schema)
    if allow_pickle:
        say(f"{source}: loading a pickle runs code from the file", err=True)
    options = SourceOptions(
        dataset=dataset,
        keys=keys,
        suffix=suffix,
        first_frame=first_frame,
        step=step,
        allow_pickle=allow_pickle,
        names=_form(names),
        part=part,
        allow_overlaps=allow_overlaps,
        allow_outside=allow_outside,
    )
    maker = _maker(settings, made_by, backbone)
    cache = Cache.open(settings.cache_location(), create=True)
    for note in cache.notes:
        say(note, err=True)
    with progress(f"import {name}", len(frames), "rows") as advance:
        report = import_stream(
            cache,
            name,
            source,
            frames,
            view=view,
            backbone=maker,
            dtype=settings.cache.dtype,
            fps=settings.data.fps,
            options=options,
            shard_rows=settings.cache.shard_rows,
            advance=advance,
        )
    _register(config, name, section)
    if as_json:
        say_json(asdict(report))
    else:
        _show(report)


def export(
    name: Annotated[str, typer.Argument(help="A stream: the name of its backbone.")],
    to: Annotated[Path, typer.Option("--to", help="FILE.h5, FILE.npy or FILE.parquet; a folder with --per-video.")],
    view: Annotated[str, typer.Option(help="Which view.")] = "base",
    per_video: Annotated[bool, typer.Option("--per-video", help="A folder with one VIDEO.npy per video.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a stream as a file for other programs, with video, frame and valid beside the embeddings.

    FILE.npy comes with its keys in FILE.parquet. In a folder of one .npy per video, rows without an embedding are NaN.

    \b
    Examples:
      mtl cache export expr --to expr.h5
      mtl cache export expr --to expr.parquet --view hflip
      mtl cache export expr --to features --per-video --force
    """
    from cache.exchange.exporting import export_stream
    from cache.frames import read_frames
    from cache.store import Cache
    from pipelines.config import read_config
    from pipelines.progress import progress

    settings = read_config(config, set_ or ())
    stream = Cache.open(settings.cache_location(), read_only=True).stream(name, view)
    frames = read_frames(settings.at(settings.data.frames), settings.schema)
    with progress(f"export {name}", stream.num_rows, "rows") as advance:
        files = export_stream(stream, frames, to, per_video=per_video, force=force, advance=advance)
    num_valid = int(stream.valid().sum())
    if as_json:
        document = {"stream": name, "view": view, "files": [str(path) for path in files]}
        numbers = {"num_rows": stream.num_rows, "num_valid": num_valid, "width": stream.width}
        say_json(document | numbers)
    else:
        say(f"{', '.join(map(str, files))}: {stream.num_rows:,} rows of {name}, {num_valid:,} valid")


def _section(settings: "Config", name: str, view: str, source: Path, tasks: list[str]) -> dict[str, str | list[str]]:
    """What [backbones.NAME] will say, so that heads find the stream and `mtl extract` leaves it alone: the file of the
    base, which further views join.

    Raises:
        ValueError: the name cannot be a section's, a task is unknown, or the section is a backbone's that runs.
    """
    from cache.valid_names import check_name
    from extract.config import IMPORTED_MODEL

    check_name(name, "NAME", is_section=True)
    for each in tasks:
        settings.schema.task(each, "--task")
    there = settings.backbones.get(name)
    if there is not None and not there.is_imported:
        raise ValueError(f"{name}: [backbones.{name}] in mtl.toml is a model ({there.model}); choose another name")
    model = there.model if there and view != "base" else f"{IMPORTED_MODEL}{source.resolve().name}"
    section: dict[str, str | list[str]] = {"model": model, "weights": "none"}
    if not tasks and there is not None:
        tasks = list(there.tasks)
    return section | ({"tasks": tasks} if tasks else {})


def _form(names: str) -> str:
    forms = ("", "video/frame", "frame/video")
    if names not in forms:
        raise ValueError(f"--names {names}: unknown form; known: {', '.join(forms[1:])}")
    return names


def _maker(settings: "Config", made_by: str, backbone: str) -> str:
    """What the identity says made the embeddings: a text, or a section of mtl.toml with its weights' digest.

    Raises:
        ValueError: both are given, or there is no such section, or no origin of its weights is known.
    """
    from cache.identity import IMPORTED
    from extract.backbones.origin import maker_of

    if made_by and backbone:
        raise ValueError("--made-by and --backbone both say who made the embeddings; give one")
    if backbone and backbone not in settings.backbones:
        raise ValueError(f"--backbone {backbone}: not in mtl.toml; there: {', '.join(settings.backbones) or 'none'}")
    if backbone:
        return maker_of(settings.backbones[backbone], settings.folder, f"--backbone {backbone}")
    return " ".join(made_by.split()) or IMPORTED


def _register(config: Path, name: str, section: dict[str, str | list[str]]) -> None:
    from pipelines.backbones.register import register_backbone

    register_backbone(config, name, section)


def _show(report: "ImportReport") -> None:
    """Prints what was imported and, to standard error, what was lacking or left over."""
    view = "" if report.view == "base" else f" (view {report.view})"
    say(
        f"{report.num_valid:,} of {report.num_rows:,} frames into stream {report.stream}{view}, {report.width} wide; "
        f"[backbones.{report.stream}] in mtl.toml names it"
    )
    for note in report.notes:
        say(note, err=True)
    if report.in_order:
        say("the file names no frames: its rows were taken in the order of the frames table", err=True)
    for reason, count in report.failed.items():
        say(f"{count:,} frames are missing steps: {reason}", err=True)
    if report.num_uncovered:
        say(f"frames that no row covers: {report.num_uncovered:,}", err=True)
    if report.num_extra:
        say(f"{report.num_extra:,} vectors belong to no frame, such as {report.example_extra}", err=True)
