"""The files of a trained backbone: written at the end of a training, read again to predict. K outputs, D width.

`backbones/NAME.safetensors` is the backbone alone with its preprocessing, which `mtl extract` and timm load;
`backbones/NAME.output.safetensors` holds the task outputs that stood on it; `backbones/NAME.json` tells how its
training went, epoch for epoch. While it trains there is `backbones/NAME.checkpoint.safetensors`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache.locks import alone
from extract.backbones.build import TrainableBackbone
from extract.backbones.weights import save_backbone, save_tensors, weights_digest
from extract.config import Preprocessing
from heads.tasks import Task
from pipelines.backbones.distributed import World

FOLDER = Path("backbones")


class TaskModel(nn.Module):
    """A backbone with the outputs of `tasks` on its embedding: [B, 3, S, S] -> {task: [B, K]}, in float32."""

    def __init__(self, trainable: TrainableBackbone, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.trainable = trainable
        self.tasks = dict(tasks)
        self.sizes = [task.num_outputs for task in tasks.values()]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        embedding = self.trainable.backbone(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            parts = self.trainable.output(embedding.float()).split(self.sizes, dim=-1)
        return {name: task.activate(part) for (name, task), part in zip(self.tasks.items(), parts, strict=True)}


def save_trained(
    folder: Path, section: str, architecture: str, model: TaskModel, preprocessing: Preprocessing, about: dict[str, Any]
) -> tuple[Path, Path]:
    """Writes the backbone and, beside it, its outputs, each whole or not at all; their paths, seen from `folder`.

    The outputs carry the digest of the backbone's weights: on another backbone they would mean nothing.
    """
    weights, output = FOLDER / f"{section}.safetensors", FOLDER / f"{section}.output.safetensors"
    backbone = model.trainable.backbone
    save_backbone(folder / weights, backbone, architecture, preprocessing, {"tasks": list(model.tasks), **about})
    metadata = {"tasks": ",".join(model.tasks), "model": architecture, "backbone": weights_digest(backbone)}
    save_tensors(folder / output, output_tensors(model), metadata)
    return weights, output


def alone_in(folder: Path, name: str, world: World) -> AbstractContextManager[None]:
    """No second training of the backbone `name`, of either kind, by the first process of a `world` for all of it.

    Raises:
        ValueError: another process trains it.
    """
    return alone(folder / f".lock-{name}", f"the backbone {name}") if world.is_first else nullcontext()


def checkpoint_path(folder: Path, section: str) -> Path:
    """Where the state of an unfinished training is kept."""
    return folder / FOLDER / f"{section}.checkpoint.safetensors"


def history_path(section: str) -> Path:
    """Where losses and scores per epoch are written, seen from the folder of mtl.toml."""
    return FOLDER / f"{section}.json"


def output_tensors(model: TaskModel) -> dict[str, Tensor]:
    """The output layer cut into tasks: `TASK.weight` [K, D] and `TASK.bias` [K]."""
    linear = model.trainable.output
    parts = {"weight": linear.weight.detach().split(model.sizes), "bias": linear.bias.detach().split(model.sizes)}
    return {
        f"{task}.{kind}": tensors[index].contiguous().clone()
        for index, task in enumerate(model.tasks)
        for kind, tensors in parts.items()
    }
