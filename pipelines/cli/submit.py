"""`mtl submit`: the file to hand in for a list of the challenge."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    CONFIG,
    BoxOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    PostOption,
    PredictorArgument,
    SetOption,
)
from pipelines.terminal import say, say_json
from pipelines.torch_import import import_torch


def register(app: typer.Typer) -> None:
    app.command(name="submit")(submit)


def submit(
    model: PredictorArgument,
    track: Annotated[str, typer.Option(help="mtl, va, expr, au or ce (compound expressions).")],
    names: Annotated[Path, typer.Option("--list", metavar="FILE", help="The challenge's list of frames (or videos).")],
    out: Annotated[Path, typer.Option(help="The file to write; a new folder for a list of videos.")],
    fill: Annotated[
        str,
        typer.Option(
            help="Frames without a crop: interpolate (VA linearly over frame numbers, the rest of the nearest frame), "
            "nearest, or linear (probabilities too)."
        ),
    ] = "interpolate",
    fill_empty_videos: Annotated[
        bool,
        typer.Option(
            "--fill-empty-videos", help="Answer videos without any crop: valence and arousal 0, Neutral, no AU."
        ),
    ] = False,
    fill_unprepared: Annotated[
        bool,
        typer.Option("--fill-unprepared", help="Fill frames that have a crop, but no row in the frames table."),
    ] = False,
    num_frames: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For a list of videos: a table video,num_frames of the videos themselves."),
    ] = None,
    box: BoxOption = 0,
    post: PostOption = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier submission of this name.")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Write a submission: the track's header, and every row of the list in its order, duplicates too.

    The list's frames must be in the frames table: `mtl prepare --test-list FILE`, then `mtl extract`. Frames without a
    crop are filled from their neighbours, and counted. The file is read back before it gets its name.

    Format: no quotes, no spaces, lines end in LF; valence and arousal clipped to [-1, 1] with six digits; expression 0
    to 7; action units 0 or 1; compound expression 0 to 6, that whose two expressions are the most probable together. A
    list of bare video names (ABAW3) gives a folder with VIDEO.txt, one row per frame.

    \b
    Examples:
      mtl submit best --track mtl --list test_list.txt --out submission1.txt
      mtl submit tcn --track va --list va_list.txt --out va1.txt --fill nearest
      mtl submit best --track ce --list ce_list.txt --out ce1.txt --box 10
    """
    import_torch()
    from pipelines.cli.pages.submission import submit_lines
    from pipelines.config import read_config
    from pipelines.submission.submit import SubmissionRequest
    from pipelines.submission.submit import submit as write_submission

    request = SubmissionRequest(
        model=model,
        track=track,
        names=names,
        out=out,
        fill=fill,
        num_frames=num_frames,
        box=box,
        fill_empty_videos=fill_empty_videos,
        fill_unprepared=fill_unprepared,
        post=post,
        force=force,
    )
    done = write_submission(read_config(config, set_ or ()), request, device)
    if json_output:
        say_json(done)
        return
    for line in submit_lines(done, asked_post=post):
        say(line)
