"""`mtl pretrain`: trains a ViT on faces without labels, as a masked autoencoder."""

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
    with_orientation,
)
from pipelines.terminal import say, say_json
from pipelines.torch_import import import_torch

if TYPE_CHECKING:
    from pipelines.backbones.pretraining.pretrain import Pretrained
    from pipelines.backbones.pretraining.pretrain_plan import PretrainPlan
    from pipelines.backbones.pretraining.pretrain_state import EpochLog

NUM_LISTED = 10


def register(app: typer.Typer) -> None:
    app.command(name="pretrain")(pretrain)


def pretrain(
    model: Annotated[str, typer.Option("--model", help="A timm ViT.")],
    name: Annotated[str, typer.Option("--name", help="The encoder becomes backbones/NAME.safetensors.")] = "mae",
    init: Annotated[str, typer.Option("--init", help="random (the default), pretrained, or a file of weights.")] = "",
    faces: Annotated[
        Path | None, typer.Option("--faces", help="All faces of this folder instead of those of mtl.toml.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLITS", help="Faces of train,val,test; default: all that is not scored.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much it will be, and do nothing.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; leave it out to resume after a stop.")
    ] = False,
    ignore_orientation: OrientationOption = False,
    config: ConfigOption = CONFIG,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Train a ViT as a masked autoencoder on unlabelled faces (arXiv 2111.06377), for mtl finetune --init.

    Stopped or killed, the same command resumes. Videos that are scored at the end (split test, and half of
    val where test has no labels) are left out; --split includes them.
    `torchrun --nproc-per-node 4 -m pipelines.cli pretrain` in place of `mtl pretrain` takes four GPUs.

    \b
    Examples:
      mtl pretrain --model vit_small_patch16_224 --name mae
      mtl pretrain --model vit_base_patch16_224 --faces more_faces --dry-run
      mtl pretrain --model vit_small_patch16_224 --init pretrained
    """
    import_torch()
    from pipelines.backbones.pretraining.pretrain import pretrain as train
    from pipelines.backbones.pretraining.pretrain_plan import make_plan, make_request
    from pipelines.config import read_config

    settings = read_config(config, with_orientation(overrides, ignore_orientation))
    request = make_request(settings, model, name, init=init, device=device, faces=faces, splits=split, restart=restart)
    if dry_run:
        plan = make_plan(settings, request)
        say_json(plan.to_json()) if json_output else _print_plan(plan)
        return
    result = train(settings, request, _print_epoch if sys.stderr.isatty() else None)
    if not result.is_first:
        return
    _print_unreadable(result)
    if json_output:
        say_json(result.to_json())
    else:
        _print_result(result)


def _print_epoch(log: "EpochLog") -> None:
    held_out = "" if log.held_out is None else f"  held-out {log.held_out:.4f}"
    say(
        f"epoch {log.epoch}/{log.num_epochs}  loss {log.loss:.4f}{held_out}  {log.duration_s:.0f} s, "
        f"about {(log.num_epochs - log.epoch) * log.duration_s:.0f} s to go",
        err=True,
    )


def _print_plan(plan: "PretrainPlan") -> None:
    from extract.annotations.checks import plural

    about = plan.to_json()
    encoder, decoder = (about["parameters"][part] / 1e6 for part in ("encoder", "decoder"))
    say(
        f"{plural(about['num_faces'], 'face')} of {plural(about['num_videos'], 'video')} under "
        f"{about['faces_folder']}; {about['num_held_out']:,} held out, {about['num_left_out']:,} left out as scored"
    )
    say(
        f"{about['model']} at {about['size_px']} px: {encoder:.1f} M parameters, and {decoder:.1f} M of the decoder; "
        f"sees {about['visible_patches']} of {about['patches']} patches"
    )
    say(
        f"{about['epochs']:,} epochs, {about['steps']:,} steps, about {about['memory_bytes'] / 2**30:.1f} GiB of memory"
    )


def _print_unreadable(result: "Pretrained") -> None:
    from extract.annotations.checks import plural

    faults = [*result.plan.faces.faults, *(f"{path}: {reason}" for path, reason in result.unreadable)]
    if faults:
        say(f"mtl: {plural(len(faults), 'face or video')} could not be read and did not count:", err=True)
    for fault in faults[:NUM_LISTED]:
        say(f"  {fault}", err=True)
    if len(faults) > NUM_LISTED:
        say(f"  and {len(faults) - NUM_LISTED:,} more (--json lists them all)", err=True)


def _print_result(result: "Pretrained") -> None:
    plan, last = result.plan, result.history[-1]
    if result.was_finished:
        say("finished before; nothing to do (--restart begins anew)")
    held_out = "" if last.held_out is None else f", {last.held_out:.4f} on {len(plan.faces.held_out):,} held-out faces"
    say(f"loss {last.loss:.4f}{held_out}  (epoch {last.epoch}, {len(plan.faces.train):,} faces)")
    for line in plan.matched.print_lines() if plan.matched is not None else ():
        say(line)
    if plan.faces.num_scored:
        say(f"{plan.faces.num_scored:,} faces of videos that are scored were left out (--split takes them in)")
    say(f"{plan.paths.weights}: {plan.request.model}")
    say(f"{plan.paths.report / 'report.html'}: losses and reconstructions")
    say(f"next: mtl finetune --task expr --model {plan.request.model} --init {plan.paths.weights}")
