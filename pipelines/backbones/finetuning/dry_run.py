"""What `mtl finetune` would do, without doing it: faces of each set, steps of an epoch, weights that learn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from extract.backbones.matching import Match
from pipelines.backbones.finetuning.facesets import FaceDataset, gather
from pipelines.backbones.finetuning.finetune import build
from pipelines.backbones.finetuning.recipe import check_recipe, with_rate
from pipelines.backbones.finetuning.request import FinetuneRequest
from pipelines.backbones.register import check_section_name
from pipelines.backbones.runs import check_place
from pipelines.backbones.sampling import draw_rows, epoch_steps
from pipelines.backbones.task_model import checkpoint_path
from pipelines.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """`sets` give per data set its rows that train, those `shown` per epoch, and those that choose the epoch."""

    request: FinetuneRequest
    sets: tuple[dict[str, Any], ...]
    num_steps: int
    num_epochs: int
    lr: float
    num_parameters: int
    num_learning: int
    size_px: int
    matched: Match | None
    resumes: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "section": self.request.section,
            "model": self.request.model,
            "tasks": list(self.request.tasks),
            "init": self.request.init,
            "matched": None if self.matched is None else self.matched.to_json(),
            "size_px": self.size_px,
            "parameters": self.num_parameters,
            "learning": self.num_learning,
            "data": list(self.sets),
            "steps_an_epoch": self.num_steps,
            "epochs": self.num_epochs,
            "lr": self.lr,
            "resumes": self.resumes,
        }

    def print_lines(self) -> list[str]:
        """The same in lines for people."""
        lines = [] if self.matched is None else self.matched.print_lines()
        weights = f"{self.num_parameters:,} weights, {self.num_learning:,} of them learn"
        lines.append(f"{self.request.model}, {self.size_px} px: {weights}")
        lines += [
            f"{each['set']}: {each['train']:,} faces train, {each['shown']:,} of them shown in an epoch, "
            f"{each['select']:,} choose"
            for each in self.sets
        ]
        rate = f"learning rate {self.lr:g}"
        lines.append(
            f"{self.num_epochs} epochs of {self.num_steps:,} steps, at most, {rate}; nothing was trained or written"
        )
        return lines + (["an earlier run was stopped; this would resume it"] if self.resumes else [])


def dry_run(config: Config, frames: pl.DataFrame, request: FinetuneRequest) -> DryRun:
    """What `finetune` would do. Raises as it does, except for errors that only reading the faces can show."""
    check_section_name(request.section)
    check_recipe(config.finetune)
    check_place(config, request.section)
    dataset = gather(config, frames, request.tasks)
    model, preprocessing = build(config, request)
    parameters = list(model.parameters())
    there = checkpoint_path(request.config_path.parent, request.section).is_file() and not request.restart
    return DryRun(
        request=request,
        sets=_sets(config, dataset),
        num_steps=len(epoch_steps(dataset.pool, config.finetune, 1)),
        num_epochs=config.finetune.epochs,
        lr=with_rate(config.finetune, model).rate,
        num_parameters=sum(p.numel() for p in parameters),
        num_learning=sum(p.numel() for p in parameters if p.requires_grad),
        size_px=preprocessing.size_px,
        matched=model.trainable.matched,
        resumes=there,
    )


def _sets(config: Config, dataset: FaceDataset) -> tuple[dict[str, Any], ...]:
    pool = dataset.pool
    rng = np.random.default_rng([config.finetune.seed, 1])
    rows = {"train": pool.rows, "shown": draw_rows(pool, config.finetune, rng), "select": dataset.select}
    counts = {key: np.bincount(pool.source[chosen], minlength=len(dataset.sets)) for key, chosen in rows.items()}
    return tuple(
        {"set": each.name, "faces": str(each.folder), **{key: int(counts[key][index]) for key in counts}}
        for index, each in enumerate(dataset.sets)
    )
