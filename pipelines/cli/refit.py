"""`mtl refit`: a strategy trained again on train and val together."""

from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, JsonOption, SetOption
from pipelines.terminal import say
from pipelines.torch_import import import_torch

if TYPE_CHECKING:
    from pipelines.config import Config


def register(app: typer.Typer) -> None:
    app.command(name="refit")(refit)


def refit(
    model: Annotated[Path, typer.Argument(help="A run, or a study for its first strategy.")],
    seeds: Annotated[int, typer.Option(min=1, max=64, help="How many seeds are trained and averaged.")] = 3,
    name: Annotated[str, typer.Option(help="Name of the refit's folder; default: from the model.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Make it again although it is there.")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Train a strategy again on train and val together, for the steps that its runs chose.

    Nothing is held out from the result, so it has no score: those of the runs stand beside it, and their
    post-processing is taken over. Written to refits/NAME beside the folder of the runs, and used like an ensemble by
    predict, submit and export.

    \b
    Examples:
      mtl refit tcn
      mtl refit studies/joint --seeds 5
    """
    from pipelines.config import read_config

    settings = read_config(config, set_ or ())
    refit_model(model, settings, device, seeds=seeds, name=name, force=force, json_output=json_output)


def refit_model(
    model: Path,
    settings: "Config",
    device: str,
    *,
    seeds: int = 3,
    name: str = "",
    force: bool = False,
    json_output: bool = False,
) -> None:
    """`mtl refit`; `mtl train-head --refit` ends with it."""
    import_torch()
    from pipelines.cli.pages.refit import print_refit
    from pipelines.cli.pages.training import training_progress
    from pipelines.fitting.interrupts import Interrupts
    from pipelines.refit.refit import RefitRequest
    from pipelines.refit.refit import refit as make_refit
    from pipelines.report.command import write_model_files

    request = RefitRequest(model=model, seeds=seeds, name=name, force=force)
    interrupts = Interrupts(SIGINT, SIGTERM)
    try:
        with interrupts, training_progress(settings.schema) as show:
            made = make_refit(settings, request, device, on_evaluation=show, poll=interrupts.check)
    except KeyboardInterrupt:
        say("mtl: stopped; the same command resumes", err=True)
        raise typer.Exit(interrupts.exit_code) from None
    if made.found and not json_output:
        say("refitted before; --force makes it again", err=True)
    print_refit(made.folder, made.record, as_json=json_output)
    if not made.found:
        write_model_files(settings, made.folder, "refit")
