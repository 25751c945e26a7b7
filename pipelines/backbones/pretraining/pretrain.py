"""Masked pretraining of a ViT on unlabelled faces: from a plan to an encoder, its history and a report."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from cache.durable import write_durably
from extract.backbones.mae import MaskedAutoencoder, draw_orders
from extract.backbones.passes import Precision
from extract.backbones.weights import read_weights, save_backbone
from pipelines.backbones.data import Faces, memory_for_faces
from pipelines.backbones.distributed import World, open_world
from pipelines.backbones.precision import choose_precision
from pipelines.backbones.pretraining.loop import run_epochs
from pipelines.backbones.pretraining.pretrain_plan import PretrainPlan, PretrainRequest, make_plan
from pipelines.backbones.pretraining.pretrain_state import EpochLog, PretrainContext, PretrainState
from pipelines.backbones.pretraining.reconstructions import draw_pictures, write_report
from pipelines.backbones.task_model import alone_in
from pipelines.config import Config
from pipelines.fitting.checkpoint import ANEW, Checkpoints, difference, read_checkpoint
from pipelines.json_files import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A pretrained encoder: its plan, the log of each epoch, and the faces that could not be read.

    `resumed` says that it began from a checkpoint, `was_finished` that there was nothing left to do, `is_first`
    whether this process speaks for all.
    """

    plan: PretrainPlan
    history: tuple[EpochLog, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    precision: Precision
    device: str
    resumed: bool = False
    was_finished: bool = False
    is_first: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            **self.plan.to_json(),
            "history": [asdict(log) for log in self.history],
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "precision": self.precision,
            "device": self.device,
            "resumed": self.resumed,
            "was_finished": self.was_finished,
        }


def pretrain(
    config: Config, request: PretrainRequest, on_epoch: Callable[[EpochLog], None] | None = None
) -> Pretrained:
    """Pretrains and saves an encoder, resuming from its checkpoint if there is one.

    Raises:
        ValueError: as `make_plan`; a checkpoint or an encoder of another training, which `restart` replaces; faces
            that cannot be read; a loss that is no number; or another process trains a backbone of this name.
    """
    with open_world(request.device) as (world, device):
        plan = make_plan(config, request)
        finished = find_finished(plan, world, device)
        if finished is not None and not request.restart:
            return finished
        with (
            alone_in(plan.paths.folder, plan.paths.name, world),
            Faces(
                plan.faces.folder,
                plan.faces.paths,
                plan.preprocessing,
                device=device,
                follow_orientation=not config.data.ignore_orientation,
            ) as faces,
        ):
            return _train(plan, faces, world, device, on_epoch)


def _train(
    plan: PretrainPlan, faces: Faces, world: World, device: torch.device, on_epoch: Callable[[EpochLog], None] | None
) -> Pretrained:
    model = plan.model.to(device).train()
    checkpoints = Checkpoints(
        path=plan.paths.checkpoint,
        identity=plan.identity,
        minutes=plan.config.checkpoint_minutes,
        writes=world.is_first,
    )
    state = PretrainState(model, plan.config, device)
    resumed = None if plan.request.restart else checkpoints.read()
    if resumed is not None:
        state.load(*resumed)
    about = {} if resumed is None else resumed[1]
    faces.unreadable.update({int(row): reason for row, reason in about.get("unreadable", {}).items()})
    faces.keep(memory_for_faces(), plan.paths.folder)
    checkpoints.about = {
        "precision": about["precision"] if resumed is not None else world.gather_objects(_precision(plan, device))[0],
        "unreadable": faces.unreadable,
    }
    context = PretrainContext(
        model=model,
        faces=faces,
        train=plan.faces.train,
        held_out=plan.faces.held_out,
        videos=plan.faces.videos,
        config=plan.config,
        device=device,
        precision=checkpoints.about["precision"],
        name=plan.request.name,
        world=world,
    )
    shown = time.monotonic()

    def seen(log: EpochLog) -> None:
        nonlocal shown
        if on_epoch is not None:
            on_epoch(log)
        if time.monotonic() - shown >= 60 * plan.config.checkpoint_minutes:
            show(_result(plan, context, state, resumed is not None), context)
            shown = time.monotonic()

    run_epochs(context, state, checkpoints, seen)
    for unreadable in world.gather_objects(dict(faces.unreadable)):
        faces.unreadable.update(unreadable)
    result = _result(plan, context, state, resumed is not None)
    if world.is_first:
        show(result, context)
        save(result)
        checkpoints.remove()
    world.barrier()
    return result


def _result(plan: PretrainPlan, context: PretrainContext, state: PretrainState, resumed: bool) -> Pretrained:
    unreadable = sorted(context.faces.unreadable.items())
    return Pretrained(
        plan=plan,
        history=tuple(state.history),
        unreadable=tuple((context.faces.paths[row], reason) for row, reason in unreadable),
        precision=context.precision,
        device=str(context.device),
        resumed=resumed,
        is_first=context.world.is_first,
    )


def show(result: Pretrained, context: PretrainContext) -> None:
    """Writes report and history, as far as the training has come."""
    folder = result.plan.paths.report
    write_json(folder / "history.json", result.to_json())
    write_durably(folder / "history.csv", pl.DataFrame([asdict(log) for log in result.history]).write_csv().encode())
    write_report(folder, context.name, result.to_json(), result.history, draw_pictures(context))


def save(result: Pretrained) -> None:
    """The encoder, last of all: where it is, all is."""
    plan, history = result.plan, [asdict(log) for log in result.history]
    about = {"pretraining": plan.identity, "init": plan.request.init, "precision": result.precision, "history": history}
    save_backbone(plan.paths.weights, plan.model.encoder, plan.request.model, plan.preprocessing, about)


def find_finished(plan: PretrainPlan, world: World, device: torch.device) -> Pretrained | None:
    """What the same command did to its end before, or None.

    Raises:
        ValueError: the file is there and no pretraining, which stays; or it is another one, and this not a restart.
    """
    path = plan.paths.weights
    if not path.exists():
        return None
    _, metadata = read_weights(path)
    if "pretraining" not in metadata:
        raise ValueError(f"{path}: is there already and no pretraining wrote it; choose another --name")
    if plan.request.restart or _is_under_way(plan):
        return None
    if metadata["pretraining"] != plan.identity:
        change = difference(metadata["pretraining"], plan.identity)
        raise ValueError(f"{path}: is another pretraining's{change}; choose another --name, or {ANEW}")
    history = tuple(EpochLog(**values) for values in json.loads(metadata["history"]))
    precision: Precision = "bfloat16" if metadata["precision"] == "bfloat16" else "float32"
    return Pretrained(
        plan=plan,
        history=history,
        precision=precision,
        device=str(device),
        was_finished=True,
        is_first=world.is_first,
    )


def _is_under_way(plan: PretrainPlan) -> bool:
    """Whether there is a checkpoint of this very training: one that was begun anew and then stopped."""
    try:
        return read_checkpoint(plan.paths.checkpoint, plan.identity) is not None
    except ValueError:
        return False


def _precision(plan: PretrainPlan, device: torch.device) -> Precision:
    """That of the settings; with "auto" what a GPU has, and on a CPU what pays."""
    if plan.config.precision != "auto":
        return plan.config.precision
    return choose_precision(_Rehearsed(plan.model), plan.preprocessing, device)


class _Rehearsed(nn.Module):
    """The model as precisions are measured: pixels in, outputs by name."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        order = draw_orders(len(pixels), self.model.num_patches, np.random.default_rng(0))
        return {"loss": self.model(pixels, torch.from_numpy(order).to(pixels.device))}
