"""What `mtl finetune` would do, without doing it: faces of each set, steps of an epoch, weights that learn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from extract.backbones.matching import Match
from pipelines.backbones.files import checkpoint_path
from pipelines.backbones.finetuning.facesets import Material, gather
from pipelines.backbones.finetuning.finetune import build
from pipelines.backbones.finetuning.order import Order
from pipelines.backbones.finetuning.recipe import check_recipe, with_rate
from pipelines.backbones.register import check_section_name
from pipelines.backbones.runs import check_place
from pipelines.backbones.sampling import draw_rows, epoch_steps
from pipelines.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """`sets` tell of each data set its rows that train, their `shown` in an epoch, and those that choose the epoch."""

    order: Order
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
            "section": self.order.section,
            "model": self.order.model,
            "tasks": list(self.order.tasks),
            "init": self.order.init,
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
        lines.append(f"{self.order.model}, {self.size_px} px: {weights}")
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


def foresee(config: Config, frames: pl.DataFrame, order: Order) -> Outlook:
    """The outlook of `finetune`. Raises as it, but for what only the faces themselves can tell."""
    check_section_name(order.section)
    check_recipe(config.finetune)
    check_place(config, order.section)
    material = gather(config, frames, order.tasks)
    model, preprocessing = build(config, order)
    parameters = list(model.parameters())
    there = checkpoint_path(order.config_path.parent, order.section).is_file() and not order.restart
    return Outlook(
        order=order,
        sets=_sets(config, material),
        num_steps=len(epoch_steps(material.pool, config.finetune, 1)),
        num_epochs=config.finetune.epochs,
        lr=with_rate(config.finetune, model).rate,
        num_parameters=sum(p.numel() for p in parameters),
        num_learning=sum(p.numel() for p in parameters if p.requires_grad),
        size_px=preprocessing.size_px,
        matched=model.trainable.matched,
        resumes=there,
    )


def _sets(config: Config, material: Material) -> tuple[dict[str, Any], ...]:
    pool = material.pool
    rng = np.random.default_rng([config.finetune.seed, 1])
    rows = {"train": pool.rows, "shown": draw_rows(pool, config.finetune, rng), "select": material.select}
    counts = {key: np.bincount(pool.source[chosen], minlength=len(material.sets)) for key, chosen in rows.items()}
    return tuple(
        {"set": each.name, "faces": str(each.folder), **{key: int(counts[key][index]) for key in counts}}
        for index, each in enumerate(material.sets)
    )
