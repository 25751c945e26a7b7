"""F1 and R3: steps of a backbone's training through its data path, against the same steps on faces that are ready on
the device, and against the usual loop.

Steps are those of `pipelines.backbones.finetuning.steps`: expressions, all changes of faces but RandAugment, in float32
on a CPU, in bfloat16 on a GPU. Weights are random, which changes no timing. Letters: B faces, S side of the input in
pixels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import timm
import torch

from bench.made_faces import FACES, WORK, made_faces
from bench.measure import Cost, Row, Target, cpus, interleave, ratios, walls
from bench.rivals import training_loader, usual_training
from cache.frames import conform
from pipelines.backbones.data import FaceBatch, Faces, RowGroup
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.facesets import gather
from pipelines.backbones.finetuning.finetune import build, make_context
from pipelines.backbones.finetuning.finetune_state import FinetuneState
from pipelines.backbones.finetuning.loop import lr_at
from pipelines.backbones.finetuning.recipe import new_state
from pipelines.backbones.finetuning.request import FinetuneRequest
from pipelines.backbones.finetuning.steps import backward, batches_of, draw_micro_batches, optimiser_step
from pipelines.backbones.sampling import epoch_steps
from pipelines.config import Config, DataConfig, FinetuneConfig

# The model, S, B and the number of faces of an epoch: one that is small for its faces, one of a real training.
CASES = {
    "cpu": (("resnet18", 112, 32, 128), ("vit_small_patch16_224", 112, 32, 64)),
    "cuda": (("resnet18", 112, 256, 16_384), ("vit_base_patch16_224", 224, 128, 4096)),
}
WORKERS = {"cpu": 2, "cuda": 14}


class Ready:
    """Batches that wait on the device, in the place of `Faces`: the bound of any data path."""

    def __init__(self, faces: Faces) -> None:
        self.preprocessing, self._faces = faces.preprocessing, faces
        self.unreadable = faces.unreadable
        self._ready: list[FaceBatch] = []

    def batches(self, groups: Iterable[RowGroup]) -> Iterator[FaceBatch]:
        """The same batches whatever the groups, made the first time: every epoch of the benchmark is its first."""
        asked = list(groups)
        if not self._ready:
            self._ready = list(self._faces.batches(asked))
        yield from self._ready


def data_path(device: torch.device) -> list[Row]:
    """F1: training steps through the data path against steps on batches that wait on the device."""
    rows = []
    for model, size_px, batch, num_faces in CASES[device.type]:
        context, state = made_context(model, size_px, batch, num_faces, device)
        with context.faces, again(context.faces) as kept:
            kept.load(lambda count: None)
            variants = {"ready": Ready(context.faces), "streaming": context.faces, "kept": kept}
            epochs = {
                name: functools.partial(epoch, dataclasses.replace(context, faces=each), state)  # type: ignore[arg-type]
                for name, each in variants.items()
            }
            costs = interleave(epochs)
        for name, mark in (("streaming", ""), ("kept", "k")):
            note = f"{model} at {size_px} px, B = {batch}, {name} faces"
            rows += _compared(f"F1{mark} {model}", "step on ready faces ÷ training step", costs, name, device, note)
    return rows


def against_usual(device: torch.device) -> list[Row]:
    """R3: training faces/s against Dataset, Pillow, torchvision's transforms, DataLoader and torch.optim.AdamW."""
    rows = []
    for model, size_px, batch, num_faces in CASES[device.type]:
        context, state = made_context(model, size_px, batch, num_faces, device)
        paths, labels = list(context.faces.paths), context.labels.values["expr"][:, 0]
        workers = WORKERS[device.type]
        loader = training_loader(FACES, paths[:num_faces], labels[:num_faces], size_px, batch, workers)
        usual = timm.create_model(model, num_classes=8, **_sized(model, size_px)).to(device)
        train = functools.partial(usual_training, usual, torch.optim.AdamW(usual.parameters()), loader, device)
        with context.faces:
            costs = interleave({"usual": train, "ours": functools.partial(epoch, context, state)})
        values = ratios(walls(costs["usual"]), walls(costs["ours"]))
        note = f"{model} at {size_px} px, B = {batch}; {workers} workers, kept from epoch to epoch"
        what = "training, faces/s ÷ the usual loop's"
        rows.append(Row(id=f"R3 {model}", what=what, values=values, device=device.type, note=note))
    return rows


def made_context(
    model: str, size_px: int, batch: int, num_faces: int, device: torch.device
) -> tuple[TrainContext, FinetuneState]:
    """A training of expressions on `num_faces` made faces, before its first step; its faces are not open yet."""
    frames = labelled(made_faces(num_faces + 2))
    precision = "bfloat16" if device.type == "cuda" else "float32"
    settings = FinetuneConfig(
        size_px=size_px, batch_size=batch, erase=0.25, drop_path=0.0, init="random", precision=precision
    )
    config = Config(folder=WORK, data=DataConfig(faces=FACES), finetune=settings)
    request = FinetuneRequest(
        tasks=("expr",), model=model, section="expr", init="random", config_path=WORK / "mtl.toml"
    )
    dataset = gather(config, frames, request.tasks)
    module, preprocessing = build(config, request)
    module.to(device, memory_format=torch.channels_last)
    faces = Faces(dataset.folder, dataset.paths, preprocessing, device=device)
    context = make_context(config, request, dataset, module, faces, device)
    return context, new_state(context)


def labelled(frames: pl.DataFrame) -> pl.DataFrame:
    """The frames with expressions; all train but one that chooses and one that is scored."""
    expressions = np.random.default_rng(0).integers(0, 8, len(frames))
    splits = ["train"] * (len(frames) - 2) + ["val", "test"]
    videos = [f"{video}-{split}" for video, split in zip(frames["video"], splits, strict=True)]
    table = frames.select("frame", "path").with_columns(
        pl.Series("video", videos), pl.Series("split", splits), pl.Series("expression", expressions)
    )
    return conform(table, "made faces")


def again(faces: Faces) -> Faces:
    """The same faces, to be opened by themselves."""
    return Faces(faces.folder, faces.paths, faces.preprocessing, device=faces.device)


def epoch(context: TrainContext, state: FinetuneState) -> None:
    """The steps of the first epoch, as `mtl finetune` takes them."""
    steps = epoch_steps(context.pool, context.config, 1)
    context.model.train()
    for micro_batch, batch in batches_of(context, draw_micro_batches(context, steps, 1)):
        backward(context, state, context.model, micro_batch, batch)
        if micro_batch.is_last:
            optimiser_step(context, state, lr_at(context.config, 0.5))
    if context.device.type == "cuda":
        torch.cuda.synchronize()


def _compared(
    name: str, what: str, costs: Mapping[str, Sequence[Cost]], way: str, device: torch.device, note: str
) -> list[Row]:
    target = Target(0.95)
    values = ratios(walls(costs["ready"]), walls(costs[way]))
    rows = [Row(id=name, what=what, values=values, target=target, device=device.type, note=note)]
    if device.type == "cpu":
        used = ratios(cpus(costs["ready"]), cpus(costs[way]))
        rows.append(Row(id=f"{name} c", what="the same in CPU time", values=used, target=target, note=note))
    return rows


def _sized(model: str, size_px: int) -> dict[str, Any]:
    """The argument of timm for the side of a ViT's faces."""
    return {"img_size": size_px} if model.startswith("vit") else {}


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"F1": data_path, "R3": against_usual}
ON_CUDA = ("F1", "R3")
