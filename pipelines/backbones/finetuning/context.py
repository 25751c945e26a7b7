"""The context of one fine-tuning: the model with its outputs, its faces and labels, its settings."""

from dataclasses import dataclass

import numpy as np
import torch

from cache.labels import Schema
from extract.backbones.passes import Precision
from heads.labels import Labels
from heads.losses import MultiTaskLoss
from pipelines.backbones.data import Faces
from pipelines.backbones.distributed import World
from pipelines.backbones.sampling import Pool
from pipelines.backbones.task_model import TaskModel
from pipelines.config import FinetuneConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainContext:
    """Everything a fine-tuning uses. `targets` and `labels` are row for row with `faces`; the rows of `pool` and
    `select` are row numbers into them, and never share one."""

    model: TaskModel
    loss: MultiTaskLoss
    faces: Faces
    targets: Labels
    labels: Labels
    pool: Pool
    select: np.ndarray
    tasks: tuple[str, ...]
    schema: Schema
    config: FinetuneConfig
    device: torch.device
    precision: Precision
    name: str
    world: World = World()
