"""`mtl extract`: runs backbones over the faces, once, into the cache."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, JsonOption, SetOption

if TYPE_CHECKING:
    from extract.engine import Report

LISTED = 20


def register(app: typer.Typer) -> None:
    app.command(name="extract")(extract)


def extract(
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", metavar="NAME", help="A backbone of mtl.toml; repeat it, or separate by commas."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=0, help="Faces a batch; 0: 256 on a GPU, 64 on the CPU.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one a processor core.")] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where it pays.")
    ] = "auto",
    allow_failed: Annotated[bool, typer.Option(help="Exit with 0 although faces failed.")] = False,
    device: DeviceOption = "auto",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Run backbones over all faces and keep the embeddings in the cache.

    Without --backbone: all of mtl.toml, in one pass over the faces. Stopped or killed, the same command goes on where
    it was; run again when done, it does nothing. A face that cannot be read is listed, and the exit code is then 1.

    Examples:

        mtl extract

        mtl extract --backbone expr --backbone va

        mtl extract --backbone expr,va,au --device cuda:0 --allow-failed
    """
    from pipelines.config import read_config
    from pipelines.extraction import run_extraction

    names = [name.strip() for each in backbone or () for name in each.split(",") if name.strip()]
    settings = read_config(config, set_ or ())
    done, report = run_extraction(
        settings, names, device=device, batch_size=batch_size, num_threads=threads, precision=precision
    )
    if json_output:
        typer.echo(json.dumps(to_json(done, report)))
    else:
        show(done, report)
    if report.failed and not allow_failed:
        raise typer.Exit(1)


def to_json(names: list[str], report: "Report") -> dict[str, Any]:
    return {
        "streams": names,
        "num_done": report.num_done,
        "num_skipped": report.num_skipped,
        "seconds": round(report.seconds, 3),
        "faces_per_s": round(report.num_done / report.seconds, 1),
        "failed": [failure._asdict() for failure in report.failed],
    }


def show(names: list[str], report: "Report") -> None:
    """Prints what was done and, to standard error, which faces failed and what helps."""
    streams = f"{len(names)} stream{'s' if len(names) > 1 else ''} ({', '.join(names)})"
    if report.num_done:
        rate = report.num_done / report.seconds
        typer.echo(f"{report.num_done:,} faces into {streams} in {report.seconds:,.1f} s, {rate:,.0f} faces/s")
    if report.num_skipped:
        typer.echo(f"{report.num_skipped:,} faces were in {streams} already")
    if not report.failed:
        return
    typer.echo(f"{len(report.failed):,} faces failed:", err=True)
    for failure in report.failed[:LISTED]:
        typer.echo(f"  {failure.path} (video {failure.video}, frame {failure.frame}): {failure.reason}", err=True)
    if len(report.failed) > LISTED:
        typer.echo(f"  and {len(report.failed) - LISTED:,} more; --json lists all", err=True)
    typer.echo(
        "Put these files right and run the same command again: it redoes just their shards. Or leave them: heads see "
        "them as missing steps, and --allow-failed makes the exit code 0.",
        err=True,
    )
