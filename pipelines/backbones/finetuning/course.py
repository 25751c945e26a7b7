"""What one training is made of: the model with its outputs, its faces and labels, its settings. K outputs of a task."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones.build import TrainableBackbone
from heads.losses import MultiTaskLoss, Targets
from heads.tasks import TASK_OUTPUTS
from pipelines.backbones.data import Faces
from pipelines.backbones.distributed import World
from pipelines.backbones.precision import Precision
from pipelines.backbones.sampling import Pool
from pipelines.config import FinetuneConfig
from pipelines.labels import Labels


class Trainee(nn.Module):
    """A backbone with the outputs of `tasks` on its embedding: [B, 3, S, S] -> {task: [B, K]}, in float32."""

    def __init__(self, trainable: TrainableBackbone, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.trainable = trainable
        self.tasks = tasks
        self.sizes = [TASK_OUTPUTS[task].num_outputs for task in tasks]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        embedding = self.trainable.backbone(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            parts = self.trainable.output(embedding.float()).split(self.sizes, dim=-1)
        return {task: TASK_OUTPUTS[task].activation(part) for task, part in zip(self.tasks, parts, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that one training is made of. `targets` and `labels` are row for row with `faces`; the rows of `pool` and
    `select` are row numbers into them, and never share one."""

    model: Trainee
    loss: MultiTaskLoss
    faces: Faces
    targets: Targets
    labels: Labels
    pool: Pool
    select: np.ndarray
    tasks: tuple[str, ...]
    config: FinetuneConfig
    device: torch.device
    precision: Precision
    name: str
    world: World = World()
