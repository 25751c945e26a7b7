"""The state of a masked pretraining: its context, the log of its epochs, its checkpoint."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extract.backbones.mae import MaskedAutoencoder
from extract.backbones.passes import Precision
from pipelines.backbones.data import Faces, in_chunks
from pipelines.backbones.distributed import World
from pipelines.backbones.sampling import capped
from pipelines.config import PretrainConfig
from pipelines.fitting.checkpoint import Checkpoints
from pipelines.fitting.optimise import AdamW, decay_groups

BETAS = (0.9, 0.95)  # the paper's


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLog:
    """The log of one epoch: the mean loss of the faces it trained on, and of held-out ones after it."""

    epoch: int
    num_epochs: int
    lr: float
    loss: float
    held_out: float | None
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainContext:
    """Everything a pretraining uses. `train` and `held_out` are row numbers of `faces`; `videos` number theirs."""

    model: MaskedAutoencoder
    faces: Faces
    train: np.ndarray
    held_out: np.ndarray
    videos: np.ndarray
    config: PretrainConfig
    device: torch.device
    precision: Precision
    name: str
    world: World = World()

    def steps(self, epoch: int) -> list[np.ndarray]:
        """The rows of each step of an epoch: a new order, steps of even size."""
        order = np.random.default_rng([self.config.seed, epoch]).permutation(self.train)
        return in_chunks(capped(order, self.videos, self.config.max_faces_per_video), step_faces(self.config))

    def rng(self, epoch: int, step: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, epoch, step + 1])


class PretrainState:
    """A pretraining in progress: `epoch` epochs are done, and `step` steps of the next one, whose losses are `sums`."""

    def __init__(self, model: MaskedAutoencoder, config: PretrainConfig, device: torch.device) -> None:
        self.model = model
        self.optimiser = AdamW(decay_groups(model.named_parameters(), config.weight_decay), BETAS)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of the losses, and how many faces
        self.epoch, self.step = 0, 0
        self.history: list[EpochLog] = []

    def tensors(self) -> dict[str, Tensor]:
        """By name: the tensors themselves, not copies. The encoder's begin with "encoder."; --init reads those."""
        optimiser = {f"optimiser.{name}": tensor for name, tensor in self.optimiser.state().items()}
        return {**self.model.state_dict(), **optimiser, "sums": self.sums}

    def about(self) -> dict[str, Any]:
        history = [dataclasses.asdict(log) for log in self.history]
        return {"epoch": self.epoch, "step": self.step, "history": history}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.epoch, self.step = about["epoch"], about["step"]
        self.history = [EpochLog(**values) for values in about["history"]]


def check_finite(context: PretrainContext, state: PretrainState, checkpoint: Path, *others: Tensor) -> None:
    """Raises `ValueError` where the losses or numbers of `others` are not finite: then nothing is kept any more."""
    if all(bool(tensor.isfinite().all()) for tensor in (state.sums, *others)):
        return
    before = f", or begin from the encoder of {checkpoint} (--init, and another --name)" if checkpoint.exists() else ""
    raise ValueError(
        f"{context.name}: the loss is no finite number in epoch {state.epoch + 1}, step {state.step}; lower "
        f"pretrain.base_lr (now {context.config.base_lr:g}) or set pretrain.grad_clip=1{before}"
    )


def save_finite(context: PretrainContext, state: PretrainState, checkpoints: Checkpoints) -> None:
    """Writes the checkpoint, but never of broken weights."""
    check_finite(context, state, checkpoints.path, *state.model.parameters())
    checkpoints.save(state)


def step_faces(config: PretrainConfig) -> int:
    """Faces that a step sees at most, over all processes and accumulated batches."""
    return config.batch_size * config.accumulate
