"""Masked pretraining of a ViT on unlabelled faces: from a plan to an encoder, its history and a report."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from cache.files import write_durably
from extract.backbones.mae import MaskedAutoencoder, draw_orders
from extract.backbones.weights import read_weights, save_backbone
from pipelines.backbones.data import Faces, memory_for_faces
from pipelines.backbones.distributed import World, open_world
from pipelines.backbones.files import alone_in
from pipelines.backbones.precision import Precision, choose_precision
from pipelines.backbones.pretraining.loop import Watch, run_epochs
from pipelines.backbones.pretraining.plan import Order, Plan, make_plan
from pipelines.backbones.pretraining.reconstructions import draw_pictures, write_report
from pipelines.backbones.pretraining.state import Course, Note, State
from pipelines.config import Config
from pipelines.files import write_json
from pipelines.fitting.checkpoint import ANEW, Checkpoints, difference, read_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A pretrained encoder: its plan, what each epoch said, and the faces that could not be read.

    `resumed` says that it went on from a checkpoint, `was_finished` that there was nothing left to do, `is_first`
    whether this process speaks for all.
    """

    plan: Plan
    history: tuple[Note, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    precision: Precision
    device: str
    resumed: bool = False
    was_finished: bool = False
    is_first: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            **self.plan.to_json(),
            "history": [asdict(note) for note in self.history],
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "precision": self.precision,
            "device": self.device,
            "resumed": self.resumed,
            "was_finished": self.was_finished,
        }


def pretrain(config: Config, order: Order, watch: Watch | None = None) -> Pretrained:
    """Pretrains and saves an encoder, going on from its checkpoint where there is one.

    Raises:
        ValueError: as `make_plan`; a checkpoint or an encoder of another training, which `restart` replaces; faces
            that cannot be read; a loss that is no number; or another process trains a backbone of this name.
    """
    with open_world(order.device) as (world, device):
        plan = make_plan(config, order)
        finished = find_finished(plan, world, device)
        if finished is not None and not order.restart:
            return finished
        with (
            alone_in(plan.places.folder, plan.places.name, world),
            Faces(
                plan.faces.folder,
                plan.faces.paths,
                plan.preprocessing,
                device=device,
                follow_orientation=not config.data.ignore_orientation,
            ) as faces,
        ):
            return _train(plan, faces, world, device, watch)


def _train(plan: Plan, faces: Faces, world: World, device: torch.device, watch: Watch | None) -> Pretrained:
    model = plan.model.to(device).train()
    checkpoints = Checkpoints(
        path=plan.places.checkpoint,
        identity=plan.identity,
        minutes=plan.config.checkpoint_minutes,
        writes=world.is_first,
    )
    state = State(model, plan.config, device)
    kept = None if plan.order.restart else checkpoints.read()
    if kept is not None:
        state.load(*kept)
    about = {} if kept is None else kept[1]
    faces.unreadable.update({int(row): reason for row, reason in about.get("unreadable", {}).items()})
    faces.keep(memory_for_faces(), plan.places.folder)
    checkpoints.about = {
        "precision": about["precision"] if kept is not None else world.gather_objects(_precision(plan, device))[0],
        "unreadable": faces.unreadable,
    }
    course = Course(
        model=model,
        faces=faces,
        train=plan.faces.train,
        held_out=plan.faces.held_out,
        videos=plan.faces.videos,
        config=plan.config,
        device=device,
        precision=checkpoints.about["precision"],
        name=plan.order.name,
        world=world,
    )
    shown = time.monotonic()

    def seen(note: Note) -> None:
        nonlocal shown
        if watch is not None:
            watch(note)
        if time.monotonic() - shown >= 60 * plan.config.checkpoint_minutes:
            show(_result(plan, course, state, kept is not None), course)
            shown = time.monotonic()

    run_epochs(course, state, checkpoints, seen)
    for unreadable in world.gather_objects(dict(faces.unreadable)):
        faces.unreadable.update(unreadable)
    result = _result(plan, course, state, kept is not None)
    if world.is_first:
        show(result, course)
        save(result)
        checkpoints.remove()
    world.barrier()
    return result


def _result(plan: Plan, course: Course, state: State, resumed: bool) -> Pretrained:
    unreadable = sorted(course.faces.unreadable.items())
    return Pretrained(
        plan=plan,
        history=tuple(state.history),
        unreadable=tuple((course.faces.paths[row], reason) for row, reason in unreadable),
        precision=course.precision,
        device=str(course.device),
        resumed=resumed,
        is_first=course.world.is_first,
    )


def show(result: Pretrained, course: Course) -> None:
    """Writes report and history, as far as the training has come."""
    folder = result.plan.places.report
    write_json(folder / "history.json", result.to_json())
    write_durably(folder / "history.csv", pl.DataFrame([asdict(note) for note in result.history]).write_csv().encode())
    write_report(folder, course.name, result.to_json(), result.history, draw_pictures(course))


def save(result: Pretrained) -> None:
    """The encoder, last of all: where it is, all is."""
    plan, history = result.plan, [asdict(note) for note in result.history]
    about = {"pretraining": plan.identity, "init": plan.order.init, "precision": result.precision, "history": history}
    save_backbone(plan.places.weights, plan.model.encoder, plan.order.model, plan.preprocessing, about)


def find_finished(plan: Plan, world: World, device: torch.device) -> Pretrained | None:
    """What the same command did to its end before, or None.

    Raises:
        ValueError: the file is there and no pretraining, which stays; or it is another one, and this not a restart.
    """
    path = plan.places.weights
    if not path.exists():
        return None
    _, metadata = read_weights(path)
    if "pretraining" not in metadata:
        raise ValueError(f"{path}: is there already and no pretraining wrote it; choose another --name")
    if plan.order.restart or _is_under_way(plan):
        return None
    if metadata["pretraining"] != plan.identity:
        change = difference(metadata["pretraining"], plan.identity)
        raise ValueError(f"{path}: is another pretraining's{change}; choose another --name, or {ANEW}")
    history = tuple(Note(**values) for values in json.loads(metadata["history"]))
    precision: Precision = "bfloat16" if metadata["precision"] == "bfloat16" else "float32"
    return Pretrained(
        plan=plan,
        history=history,
        precision=precision,
        device=str(device),
        was_finished=True,
        is_first=world.is_first,
    )


def _is_under_way(plan: Plan) -> bool:
    """Whether there is a checkpoint of this very training: one that was begun anew and then stopped."""
    try:
        return read_checkpoint(plan.places.checkpoint, plan.identity) is not None
    except ValueError:
        return False


def _precision(plan: Plan, device: torch.device) -> Precision:
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
