"""`mtl finetune`: trains a backbone on labelled faces and enters it in mtl.toml."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, JsonOption, SetOption

if TYPE_CHECKING:
    from pipelines.backbones.finetune import Finetuned
    from pipelines.training.epochs import Epoch

NUM_LISTED = 10


def register(app: typer.Typer) -> None:
    app.command(name="finetune")(finetune)


def finetune(
    task: Annotated[str, typer.Option("--task", help="va, expr, au, or several, comma separated.")],
    model: Annotated[str, typer.Option("--model", help="A timm name; default: that of the section.")] = "",
    name: Annotated[str, typer.Option("--name", help="The section of mtl.toml; default: the task, or joint.")] = "",
    init: Annotated[str, typer.Option("--init", help="pretrained, random, or a file of weights.")] = "",
    config: ConfigOption = CONFIG,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Train a backbone on the labelled frames of train, choosing its epoch on val, and enter it in mtl.toml.

    Nothing is written before the end: stopped earlier, the weights of the time before stay.

    Examples:

        mtl finetune --task expr --model vit_base_patch16_224

        mtl finetune --task va,expr,au --model convnext_tiny --set finetune.epochs=5

        mtl finetune --task au --model vit_small_patch16_224 --init mae.safetensors --name au-mae
    """
    from cache.frames import read_frames
    from pipelines.backbones.finetune import finetune as train
    from pipelines.backbones.finetune import make_order
    from pipelines.config import read_config

    settings = read_config(config, overrides or ())
    order = make_order(settings, config, task, model=model, name=name, init=init, device=device)
    frames = read_frames(settings.at(settings.data.frames))
    try:
        result = train(settings, frames, order, _print_epoch if sys.stderr.isatty() else None)
    except KeyboardInterrupt:
        typer.echo("mtl: stopped; nothing was written, earlier weights stay as they were", err=True)
        raise typer.Exit(130) from None
    _print_unreadable(result)
    if json_output:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print_result(result)


def _print_epoch(epoch: "Epoch") -> None:
    scores = "  ".join(f"{task} {score:.4f}" for task, score in epoch.scores.items())
    left_s = (epoch.num_epochs - epoch.epoch) * epoch.duration_s
    typer.echo(
        f"epoch {epoch.epoch}/{epoch.num_epochs}  loss {epoch.losses['loss']:.4f}  {scores}"
        f"{'  best' if epoch.best else ''}  {epoch.duration_s:.0f} s, at most {left_s:.0f} s to go",
        err=True,
    )


def _print_unreadable(result: "Finetuned") -> None:
    num = len(result.unreadable)
    if num:
        typer.echo(f"mtl: {num} face{'s' if num > 1 else ''} could not be read and did not count:", err=True)
    for path, reason in result.unreadable[:NUM_LISTED]:
        typer.echo(f"  {path}: {reason}", err=True)
    if num > NUM_LISTED:
        typer.echo(f"  and {num - NUM_LISTED} more (--json lists them all)", err=True)


def _print_result(result: "Finetuned") -> None:
    from pipelines.scoring.metrics import main_scores
    from pipelines.scoring.tables import TASK_TITLES

    order = result.order
    scores = ", ".join(f"{TASK_TITLES[task]} {value:.4f}" for task, value in main_scores(result.metrics).items())
    typer.echo(f"{scores}  (epoch {result.epoch} of {len(result.history)}, on the frames that choose it)")
    typer.echo(f"{result.weights}: {order.model}, [backbones.{order.section}] of {order.config_path}")
    if result.replaced is not None:
        typer.echo(f"  in the place of {result.replaced.model}, {result.replaced.weights}")
    typer.echo(f"next: mtl extract --backbone {order.section}")
