"""`mtl postprocess`: fits smoothing, affine match, priors or class offsets and thresholds of runs, and applies them."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    CONFIG,
    ConfigOption,
    DeviceOption,
    JsonOption,
    OutsideOption,
    SetOption,
    ViewsOption,
    with_views,
)
from pipelines.terminal import say, say_json
from pipelines.torch_import import import_torch


def register(app: typer.Typer) -> None:
    app.command(name="postprocess")(postprocess)


def postprocess(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or their names in the folder of runs.")],
    force: Annotated[bool, typer.Option("--force", help="Fit again although it was fitted before.")] = False,
    views: ViewsOption = "",
    outside: OutsideOption = "",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Fit post-processing on the selection rows of a run, and apply it.

    Smoothing per task over frame numbers within a video, scale and shift of continuous columns, a prior adjustment or
    offsets of classes, thresholds. What is fitted on some videos is measured on others; what gains nothing there is
    left out. The held-out rows are scored once with the result. Written into each run folder:
    postprocess.json and predictions.post.parquet.

    \b
    Examples:
      mtl postprocess concat-tcn-joint-s0-1a2b3c4d
      mtl postprocess runs/NAME studies/joint/runs/DIGEST --json
      mtl postprocess runs/NAME --views base,hflip
    """
    from pipelines.cli.pages.consoles import page_console
    from pipelines.cli.pages.postprocess import print_postprocess
    from pipelines.config import read_config
    from pipelines.postprocess.run_folders import postprocess_run, read_truth
    from pipelines.run_files import find_folder

    settings = read_config(config, with_views(set_, views, outside))
    truth, console, found = read_truth(settings), page_console(), []
    for folder in [find_folder(run, settings.at(settings.output.runs)) for run in runs]:
        predicted = None
        if settings.predict.views:
            import_torch()
            from pipelines.device import resolve_device
            from pipelines.postprocess.over_views import view_table

            predicted = functools.partial(view_table, folder, settings, resolve_device(device))
        asked = settings.predict.views
        record, there = postprocess_run(folder, truth, force=force, views=asked, predicted=predicted)
        found.append({"run": str(folder), **record})
        if json_output:
            continue
        if there:
            say(f"{folder}: fitted before, {record['created']}; --force fits it again", err=True)
        print_postprocess(record, console)
        console.print(f"{folder / 'predictions.post.parquet'}", soft_wrap=True)
    if json_output:
        say_json(found)
