"""`mtl ensemble`: greedy selection of runs over their cached predictions."""

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


def register(app: typer.Typer) -> None:
    app.command(name="ensemble")(ensemble)


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Studies or run folders, or their names.")],
    size: Annotated[int, typer.Option(min=1, help="At most so many draws per task, with replacement.")] = 20,
    name: Annotated[str, typer.Option(help="Name of the ensemble's folder.")] = "best",
    force: Annotated[bool, typer.Option("--force", help="Make it again although it is there.")] = False,
    views: ViewsOption = "",
    outside: OutsideOption = "",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Combine finished runs: members and weights per task, selected greedily on the selection rows of the runs.

    Nothing is trained. The selection is scored out of fold, next to the best single run and the mean of the best, at
    most five; then the held-out rows are scored once. Of each member: its score alone, and how far its errors are
    correlated with those of the others. Written to ensembles/NAME in the (first) study or beside the folder of the
    runs: ensemble.json, predictions.parquet, and its post-processing.

    \b
    Examples:
      mtl ensemble studies/joint
      mtl ensemble joint fusion --name both
      mtl ensemble runs/FIRST runs/SECOND runs/THIRD --size 10 --name three
    """
    from pipelines.cli.pages.consoles import page_console
    from pipelines.cli.pages.ensemble import print_ensemble
    from pipelines.config import read_config
    from pipelines.ensemble.build import ensemble_runs
    from pipelines.report.command import write_model_files

    settings = read_config(config, with_views(set_, views, outside))
    folder, record, there = ensemble_runs(settings, runs, size=size, name=name, force=force, device=device)
    if not there:
        write_model_files(settings, folder, "ensemble")
    if json_output:
        say_json({"ensemble": str(folder), **record})
        return
    if there:
        say(f"{folder}: made before, {record['created']}; --force makes it again", err=True)
    console = page_console()
    print_ensemble(record, console)
    console.print(str(folder), soft_wrap=True)
