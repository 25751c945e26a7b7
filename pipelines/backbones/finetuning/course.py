"""What one training is made of: the model with its outputs, its faces and labels, its settings. K outputs of a task."""

from dataclasses import dataclass

import numpy as np
import torch

from cache.labels import Schema
from heads.labels import Labels
from heads.losses import MultiTaskLoss
from pipelines.backbones.data import Faces
from pipelines.backbones.distributed import World
from pipelines.backbones.files import Trainee
from pipelines.backbones.precision import Precision
from pipelines.backbones.sampling import Pool
from pipelines.config import FinetuneConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that one training is made of. `targets` and `labels` are row for row with `faces`; the rows of `pool` and
    `select` are row numbers into them, and never share one."""

    model: Trainee
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
