"""The state of a fine-tuning: all that changes while it runs, saved in a checkpoint and resumed bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.backbones.finetuning.ema import Ema
from pipelines.fitting.checkpoint import Resumed, joined, part_of
from pipelines.fitting.epochs import BestEpoch, Epoch, FitResult
from pipelines.fitting.optimise import AdamW


def moving_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training can change in `model`: the parameters that learn and the buffers, by name; not copies."""
    learning = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return learning | {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}


@dataclass(slots=True, kw_only=True)
class FinetuneState:
    """A training in progress: `epoch` epochs are done, and `step` steps of the next one, whose losses add up in `sums`.

    `moving` are the tensors of the model that training can change; the others are those it began with. `num_steps`
    counts the steps since the start.
    """

    moving: dict[str, Tensor]
    loss: nn.Module
    optimiser: AdamW
    ema: Ema | None
    sums: Tensor
    best: BestEpoch[Epoch]
    epoch: int = 0
    step: int = 0
    num_steps: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Everything but counters and history, by name: the tensors themselves, not copies."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.moving,
            "loss": dict(self.loss.named_parameters()),
            "optimiser": self.optimiser.state(),
            "ema": self.ema.state() if self.ema is not None else {},
            "best": self.best.tensors(),
        }
        return joined(parts) | {"sums": self.sums}

    def copies(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {name: value.clone() for name, value in self.moving.items()}

    def about(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "step": self.step, "num_steps": self.num_steps, **self.best.about()}

    @torch.no_grad()
    def load(self, resumed: Resumed) -> None:
        """Resumes from what `tensors` and `about` gave, by copying into the tensors that are here."""
        tensors, about = resumed
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.best.load_state(part_of(tensors, "best"), about, self.sums.device)
        self.epoch, self.step, self.num_steps = about["epoch"], about["step"], about["num_steps"]

    @torch.no_grad()
    def restore(self) -> FitResult[Epoch]:
        """Puts the best epoch's weights back into the model."""
        result = self.best.result()
        assert isinstance(result, FitResult), "an epoch was scored"
        for name, value in result.state.items():
            self.moving[name].copy_(value)
        return result
