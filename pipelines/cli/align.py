"""`mtl align`: the faces of videos as aligned crops; and the template of crops one already has."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import (
    CONFIG,
    ConfigOption,
    JsonOption,
    OrientationOption,
    SetOption,
    with_orientation,
)
from pipelines.terminal import say, say_json


def register(app: typer.Typer) -> None:
    app.command()(align)


def align(
    videos: Annotated[
        list[Path] | None, typer.Argument(metavar="VIDEO...", help="Videos, or folders of them.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the crops, VIDEO/00001.jpg; made where it is missing.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Measure the template of the crops in FOLDER and store it in mtl.toml."),
    ] = None,
    people: Annotated[
        Literal["auto", "one", "two", "each"],
        typer.Option(
            help="Folders of a video with several people: one (who takes the most room), two (VIDEO_left and "
            "VIDEO_right, by position), each (VIDEO_ID, per track), or auto, by how many faces are seen at once."
        ),
    ] = "auto",
    ignore_orientation: OrientationOption = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Detect, track and align the faces of videos, and write them as crops named by the frame's number.

    The detector and the template are those of \\[faces] in mtl.toml. Frames without a face have no crop. Beside the
    crops, alignment.json says how they were aligned. A command that was stopped resumes where it was; videos that are
    finished are left alone.

    \b
    Examples:
      mtl align clip.mp4 --out crops
      mtl align recordings --out crops --people two
      mtl align clip.mp4 --out crops --set faces.detector=yunet:yunet.onnx
      mtl align --like cropped_aligned
    """
    from pipelines.alignment.align import AlignRequest, align_videos
    from pipelines.alignment.template import measure_and_store
    from pipelines.cli.pages.alignment import aligned_lines, measured_lines
    from pipelines.config import read_config

    if not videos and like is None:
        raise ValueError("name the videos, or measure a template with --like FOLDER")
    if bool(videos) != (out is not None):
        raise ValueError("--out FOLDER: where the crops of the videos go" if videos else "--out: no videos are named")
    overrides = with_orientation(set_, ignore_orientation)
    document, is_whole = {}, True
    if like is not None:
        measured = measure_and_store(read_config(config, overrides), config, like)
        document["template"] = measured.to_json()
        for line in () if json_output else measured_lines(measured):
            say(line)
    if out is not None:
        done = align_videos(read_config(config, overrides), AlignRequest(videos=videos or (), out=out, people=people))
        document["aligned"] = done.to_json()
        is_whole = not any(video.why_ended for video in done.videos.values())
        for line in () if json_output else aligned_lines(done):
            say(line)
    if json_output:
        say_json(document)
    if not is_whole:
        raise typer.Exit(1)
