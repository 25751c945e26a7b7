"""`mtl evaluate`: scores a run again, from its weights and the cache."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, JsonOption, SetOption


def register(app: typer.Typer) -> None:
    app.command(name="evaluate")(evaluate)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or its name in the folder of runs.")],
    split: Annotated[str, typer.Option(help="train, val, test; or the run's own parts: select, report.")] = "val",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Predict a split with a run's weights, and print P, CCC, macro F1, AU F1 and how many frames have labels.

    Examples:

        mtl evaluate runs/attention-tcn-joint-s0-1a2b3c4d --split val

        mtl evaluate attention-tcn-joint-s0-1a2b3c4d --split report --json
    """
    from pipelines.config import read_config
    from pipelines.device import resolve_device
    from pipelines.scoring.evaluate import evaluate_run, scored_tasks
    from pipelines.scoring.tables import print_metrics

    settings = read_config(config, set_ or ())
    # A bare name is a run of this project; anything with a folder in it is a path.
    folder = run if run.exists() or run.parent != Path() else settings.at(settings.output.runs) / run
    metrics = evaluate_run(folder, settings, split, resolve_device(device))
    if json_output:
        print_metrics(metrics, as_json=True)
        return
    print_metrics(scored_tasks(metrics), as_json=False, title=f"{folder.name} on {split}")
    if metrics["unscored"]:
        typer.echo(f"no labelled frame in {split} for: {', '.join(metrics['unscored'])}")
    if metrics["num_seen"]:
        typer.echo(f"no held-out score: {metrics['num_seen']:,} of these frames trained the run or chose its epoch")
