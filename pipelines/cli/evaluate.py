"""`mtl evaluate`: scores a run again, from its weights and the cache."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, JsonOption, SetOption, ViewsOption, with_views
from pipelines.terminal import say
from pipelines.torch_import import import_torch


def register(app: typer.Typer) -> None:
    app.command(name="evaluate")(evaluate)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or its name in the folder of runs.")],
    split: Annotated[str, typer.Option(help="train, val, test; or the run's own parts: select, report.")] = "val",
    post: Annotated[bool, typer.Option("--post", help="Also score it with its stored post-processing.")] = False,
    views: ViewsOption = "",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Predict a split with a run's weights, and print P, each task's score and the number of labelled frames.

    With --post the scores are printed without and with the run's stored post-processing.

    \b
    Examples:
      mtl evaluate runs/concat-tcn-joint-s0-1a2b3c4d --split val
      mtl evaluate concat-tcn-joint-s0-1a2b3c4d --split report --json
      mtl evaluate concat-tcn-joint-s0-1a2b3c4d --split report --post
      mtl evaluate concat-tcn-joint-s0-1a2b3c4d --views base,hflip
    """
    import_torch()
    from pipelines.cli.pages.metrics import print_beside, print_metrics
    from pipelines.config import read_config
    from pipelines.device import resolve_device
    from pipelines.results.evaluate import evaluate_run, scored_tasks
    from pipelines.run_files import find_folder

    settings = read_config(config, with_views(set_, views))
    folder = find_folder(run, settings.at(settings.output.runs))
    metrics = evaluate_run(folder, settings, split, resolve_device(device), post=post)
    if json_output:
        print_metrics(metrics, as_json=True)
        return
    scored, title = scored_tasks(metrics, settings.schema), _title(folder.name, split, metrics["views"])
    if post:
        print_beside(scored, scored_tasks(metrics["post"], settings.schema), title, settings.schema)
    else:
        print_metrics(scored, as_json=False, title=title, schema=settings.schema)
    if metrics["unscored"]:
        say(f"no labelled frame in {split} for: {', '.join(metrics['unscored'])}")
    for line in metrics["warnings"]:
        say(f"warning: {line}")
    if metrics["num_seen"]:
        selected = "selected its weights or its post-processing" if post else "selected its weights"
        say(f"no held-out score: {metrics['num_seen']:,} of these frames trained the run or {selected}")


def _title(run: str, split: str, views: list[str]) -> str:
    return f"{run} on {split}" + (f", mean of views {', '.join(views)}" if len(views) > 1 else "")
