"""`mtl extract`: runs backbones over the faces, once, into the cache."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.cli.options import (
    CONFIG,
    AddressOption,
    ConfigOption,
    CpusOption,
    EngineOption,
    GpusOption,
    JsonOption,
    OrientationOption,
    SetOption,
    ShardOption,
    cluster_of,
    with_orientation,
)
from pipelines.cli.shards import parse_shard
from pipelines.terminal import say, say_json

if TYPE_CHECKING:
    from extract.report import Failure, Report
    from pipelines.config import Config

LISTED = 20


def register(app: typer.Typer) -> None:
    app.command(name="extract")(extract)


def extract(
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", metavar="NAME", help="A backbone of mtl.toml; repeat it, or separate by commas."),
    ] = None,
    views: Annotated[
        str, typer.Option(metavar="VIEWS", help="base, hflip, crop0.9, aug:N (N augmentations), by commas.")
    ] = "base",
    audio: Annotated[bool, typer.Option("--audio", help="Only the backbones of sound.")] = False,
    shard: ShardOption = "1/1",
    batch_size: Annotated[int, typer.Option(min=0, help="Faces per batch; 0: 256 on a GPU, 64 on the CPU.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one per processor core.")] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where it pays.")
    ] = "auto",
    runtime: Annotated[
        Literal["auto", "eager", "compiled", "graph", "onnx"],
        typer.Option(help="auto: by a short trial, kept for the next run."),
    ] = "auto",
    exact: Annotated[
        bool, typer.Option("--exact", help="Resize with timm's own transform, not on the device; slower.")
    ] = False,
    allow_failed: Annotated[bool, typer.Option(help="Exit with 0 although faces failed.")] = False,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, all GPUs, or several by commas.")
    ] = "auto",
    ignore_orientation: OrientationOption = False,
    engine: EngineOption = "local",
    address: AddressOption = "",
    gpus_per_worker: GpusOption = 1.0,
    cpus_per_worker: CpusOption = 0,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Run backbones over all faces and sound tracks, and keep the embeddings in the cache.

    Without --backbone: all of mtl.toml, in one pass over the faces. Stopped or killed, the same command resumes where
    it was; run again when done, it does nothing. A face that cannot be read is listed, and the exit code is then 1.

    \b
    Examples:
      mtl extract
      mtl extract --backbone expr --backbone va
      mtl extract --backbone expr --views base,hflip,crop0.9,aug:4
      mtl extract --backbone expr,va,au --device all --allow-failed
      mtl extract --audio
      mtl extract --shard 2/8 # the second of eight jobs of a cluster
      mtl extract --engine ray --address 10.0.0.1:6379
    """
    from extract.view_names import parse_views
    from pipelines.config import read_config
    from pipelines.extraction.one import Choices
    from pipelines.extraction.run import run_extraction

    names = [name.strip() for each in backbone or () for name in each.split(",") if name.strip()]
    choices = Choices(
        devices=device,
        batch_size=batch_size,
        num_threads=threads,
        precision=precision,
        runtime=runtime,
        exact=exact,
        views=parse_views(views),
        part=parse_shard(shard),
        cluster=cluster_of(engine, address, gpus_per_worker, cpus_per_worker),
    )
    if audio and names:
        raise ValueError("--audio and --backbone both say what to extract; give one")
    settings = read_config(config, with_orientation(set_, ignore_orientation))
    done = run_extraction(settings, names or (_of_sound(settings) if audio else ()), choices)
    if json_output:
        say_json(to_json(done))
    else:
        for titles, report in done:
            show(titles, report)
    if any(report.failed for _, report in done) and not allow_failed:
        raise typer.Exit(1)


def _of_sound(settings: "Config") -> list[str]:
    found = [name for name, backbone in settings.backbones.items() if backbone.is_audio]
    if not found:
        raise ValueError('--audio: mtl.toml has no backbone of sound, such as one with model = "audio:log-mel"')
    return found


def to_json(done: list[tuple[list[str], "Report"]]) -> dict[str, Any]:
    """Counts are of faces and, of streams of sound, of frames."""
    reports = [report for _, report in done]
    num_done, seconds = sum(each.num_done for each in reports), sum(each.seconds for each in reports)
    return {
        "streams": [title for titles, _ in done for title in titles],
        "filled": [title for each in reports for title in each.filled],
        "num_done": num_done,
        "num_skipped": sum(each.num_skipped for each in reports),
        "num_elsewhere": sum(each.num_elsewhere for each in reports),
        "num_shards_redone": sum(each.num_redone for each in reports),
        "seconds": round(seconds, 3),
        "faces_per_s": round(num_done / max(seconds, 1e-9), 1),
        "notes": [note for each in reports for note in each.lines],
        "failed": [failure._asdict() for each in reports for failure in each.failed],
    }


def show(names: list[str], report: "Report") -> None:
    """Prints what was done and, to standard error, which faces failed and what helps."""
    streams, filled = _counted(names), _counted(report.filled)
    unit = "frames" if report.of_sound else "faces"
    if report.num_done:
        rate = report.num_done / report.seconds
        say(f"{report.num_done:,} {unit} into {filled} in {report.seconds:,.1f} s, {rate:,.0f} {unit}/s")
    for note in report.lines:
        say(note)
    if report.num_redone:
        say(f"{report.num_redone:,} damaged shards were made again")
    if report.num_elsewhere:
        say(f"{report.num_elsewhere:,} {unit} are left to the other parts")
    if report.num_skipped:
        say(f"{report.num_skipped:,} {unit} were in {streams} already")
    if not report.failed:
        return
    say(f"{len(report.failed):,} {unit} failed:", err=True)
    lines = _by_video(report) if report.of_sound else [_of_face(failure) for failure in report.failed]
    for line in lines[:LISTED]:
        say(line, err=True)
    if len(lines) > LISTED:
        say(f"  and {len(lines) - LISTED:,} more; --json lists all", err=True)
    if report.is_backbones_fault:
        say(f"The {unit} are right, the embeddings are not: fix the backbone as described above.", err=True)
        return
    say(
        "Put these files right and run the same command again: it redoes just their shards. Or leave them: heads see "
        "them as missing steps, and --allow-failed makes the exit code 0.",
        err=True,
    )


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} stream{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def _of_face(failure: "Failure") -> str:
    return f"  {failure.path} (video {failure.video}, frame {failure.frame}): {failure.reason}"


def _by_video(report: "Report") -> list[str]:
    """A sound track fails for all frames of its video."""
    counts = Counter((failure.video, failure.reason) for failure in report.failed)
    return [f"  {video} ({count:,} frames): {reason}" for (video, reason), count in counts.items()]
