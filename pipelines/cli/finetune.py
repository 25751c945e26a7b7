"""`mtl finetune`: trains a backbone on labelled faces and enters it in mtl.toml."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    CONFIG,
    ConfigOption,
    DeviceOption,
    JsonOption,
    OrientationOption,
    SetOption,
    TrackOption,
    with_orientation,
)
from pipelines.terminal import say, say_json
from pipelines.torch_import import import_torch

if TYPE_CHECKING:
    import polars as pl

    from pipelines.backbones.finetuning.request import FinetuneRequest
    from pipelines.backbones.finetuning.result import Finetuned
    from pipelines.config import Config
    from pipelines.fitting.epochs import Epoch

NUM_LISTED = 10


def register(app: typer.Typer) -> None:
    app.command(name="finetune")(finetune)


def finetune(
    task: Annotated[str, typer.Option("--task", help="A task of the schema, or several with commas.")],
    model: Annotated[str, typer.Option("--model", help="A timm name; default: that of the section.")] = "",
    name: Annotated[str, typer.Option("--name", help="The section of mtl.toml; default: the task, or joint.")] = "",
    init: Annotated[str, typer.Option("--init", help="pretrained, random, or a file of weights.")] = "",
    rename: Annotated[
        str, typer.Option("--rename", help="How the file's tensors are renamed: a preset, or a file of rules.")
    ] = "",
    licence: Annotated[str, typer.Option("--licence", help="A note on the data's licence, for the section.")] = "",
    ignore_orientation: OrientationOption = False,
    config: ConfigOption = CONFIG,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    track: TrackOption = "",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where an earlier run was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained on what, and stop.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Train a backbone on the labelled frames of train, selecting its epoch on val, and enter it in mtl.toml.

    At the end the held-out rows are scored once, by the backbone alone, and its predictions are kept as those of a head
    are, in runs/backbone-NAME: mtl ensemble, compare, postprocess and evaluate take it, mtl search lists it.
    Stopped or killed, the same command resumes; weights of an earlier training stay until it is done.
    The recipe (rates, freezing, LoRA, balance, mixup, further data sets, ..) is \\[finetune] in mtl.toml; the losses
    are those of \\[loss].

    \b
    Examples:
      mtl finetune --task expr --model vit_base_patch16_224
      mtl finetune --task va,expr,au --model resnet18 --set finetune.balance=both
      mtl finetune --task au --model vit_small_patch16_224 --init mae.safetensors
      mtl finetune --task expr --model convnext_tiny --set finetune.ema=0.999
      mtl finetune --task va --model vit_large_patch14_dinov2 --dry-run
    """
    import_torch()
    from cache.frames import read_frames
    from pipelines.backbones.finetuning.finetune import finetune as train
    from pipelines.backbones.finetuning.request import make_request
    from pipelines.backbones.runs import run_name
    from pipelines.concerns import warn_of, without_effect_in
    from pipelines.config import read_config
    from pipelines.trackers import LiveTracker, check_tracker, config_of
    from pipelines.typed import to_mapping

    settings = read_config(config, with_orientation(overrides, ignore_orientation))
    request = make_request(
        settings,
        config,
        task,
        model=model,
        name=name,
        init=init,
        device=device,
        rename=rename,
        licence=licence,
        restart=restart,
    )
    frames = read_frames(settings.at(settings.data.frames), settings.schema)
    check_tracker(track)
    warn_of(without_effect_in("finetune", settings.finetune), f"{config}: [finetune]")
    if dry_run:
        _print_dry_run(settings, frames, request, as_json=json_output)
        return
    try:
        recipe = {"model": request.model, **config_of(to_mapping(settings.finetune))}
        with LiveTracker(track, recipe, settings.at(Path())) as tracker:

            def on_epoch(epoch: "Epoch") -> None:
                tracker.open(run_name(request.section))  # here, as only the first of several processes is called
                tracker.log(epoch.model, epoch.epoch, epoch.numbers)
                if sys.stderr.isatty():
                    _print_epoch(epoch)

            result = train(settings, frames, request, on_epoch)
            tracker.finish({"select": result.metrics, "report": result.report or {}})
    except KeyboardInterrupt:
        say(_stopped(request), err=True)
        raise typer.Exit(130) from None
    if not result.is_first:
        return
    _print_unreadable(result)
    if json_output:
        say_json(result.to_json())
    else:
        _print_result(result)


def _print_dry_run(settings: "Config", frames: "pl.DataFrame", request: "FinetuneRequest", *, as_json: bool) -> None:
    from pipelines.backbones.finetuning.dry_run import dry_run

    planned = dry_run(settings, frames, request)
    say_json(planned.to_json()) if as_json else say("\n".join(planned.print_lines()))


def _stopped(request: "FinetuneRequest") -> str:
    from pipelines.backbones.task_model import checkpoint_path

    path = checkpoint_path(request.config_path.parent, request.section)
    if not path.is_file():
        return "mtl: stopped; nothing was written, earlier weights are kept"
    return f"mtl: stopped; the same command resumes from {path}, --restart begins anew; earlier weights are kept"


def _print_epoch(epoch: "Epoch") -> None:
    scores = "  ".join(f"{task} {score:.4f}" for task, score in epoch.scores.items())
    left_s = (epoch.num_epochs - epoch.epoch) * epoch.duration_s
    say(
        f"epoch {epoch.epoch}/{epoch.num_epochs}  loss {epoch.losses['loss']:.4f}  {scores}"
        f"{'  best' if epoch.best else ''}  {epoch.duration_s:.0f} s, at most {left_s:.0f} s to go",
        err=True,
    )


def _print_unreadable(result: "Finetuned") -> None:
    num = len(result.unreadable)
    if num:
        say(f"mtl: {num} face{'s' if num > 1 else ''} could not be read and did not count:", err=True)
    for path, reason in result.unreadable[:NUM_LISTED]:
        say(f"  {path}: {reason}", err=True)
    if num > NUM_LISTED:
        say(f"  and {num - NUM_LISTED} more (--json lists them all)", err=True)


def _held_out_words(result: "Finetuned") -> str:
    from pipelines.metrics.challenge import main_key
    from pipelines.words import score_title

    if result.report is None:
        return f"held out: not scored: {result.not_scored}"
    scores = ", ".join(
        f"{score_title(task)} {'no label' if result.report[key] is None else f'{result.report[key]:.4f}'}"
        for task, key in ((task, main_key(task.group)) for task in result.schema.scored(result.request.tasks))
        if key in result.report
    )
    return f"held out: {scores}  ({result.report_of}; {result.run})"


def _print_result(result: "Finetuned") -> None:
    from pipelines.metrics.challenge import main_key
    from pipelines.words import score_title

    request = result.request
    tasks = result.schema.scored(request.tasks)
    scores = ", ".join(f"{score_title(task)} {result.metrics[main_key(task.group)]:.4f}" for task in tasks)
    say(f"{scores}  (epoch {result.epoch} of {len(result.history)}, on the selection frames)")
    say(_held_out_words(result))
    for line in result.matched.print_lines() if result.matched is not None else ():
        say(line)
    say(f"{result.weights}: {request.model}, [backbones.{request.section}] of {request.config_path}")
    if result.replaced is not None:
        say(f"  in place of {result.replaced.model}, {result.replaced.weights}")
    say(f"next: mtl extract --backbone {request.section}")
