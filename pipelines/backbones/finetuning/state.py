"""Where a training stands: all that changes while it runs, kept in a checkpoint and taken up again bit for bit."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.backbones.finetuning.ema import Ema
from pipelines.fitting.checkpoint import Kept
from pipelines.fitting.epochs import Epoch, Fitted, HeadKeeper
from pipelines.fitting.optimise import AdamW
from pipelines.metrics.predictions import Predictions, Probabilities


def moving_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training can change in `model`: the parameters that learn and the buffers, by name; not copies."""
    learning = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return learning | {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}


class Best:
    """The best epoch so far: its weights as of its evaluation, and its predictions. Whatever epochs said besides."""

    def __init__(self) -> None:
        self.keeper = HeadKeeper(Epoch)
        self.weights: dict[str, Tensor] = {}
        self.predictions: Predictions | None = None

    @property
    def history(self) -> list[Epoch]:
        return self.keeper.history

    def offer(self, note: Epoch, predictions: Predictions, moving: Mapping[str, Tensor]) -> Epoch:
        """Records an epoch; copies the `moving` weights now, before another step can change them, if it is the best."""
        note = self.keeper.offer(note, predictions)
        if note.best:
            self.predictions = predictions
            self.weights = {key: value.clone() for key, value in moving.items()}
        return note

    @torch.no_grad()
    def restore(self, moving: Mapping[str, Tensor]) -> Fitted[Epoch]:
        """Puts the best epoch's weights back into the `moving` ones."""
        self.keeper.keep(self.weights)
        result = self.keeper.result()
        assert isinstance(result, Fitted), "an epoch was scored"
        for name, value in self.weights.items():
            moving[name].copy_(value)
        return result

    def tensors(self) -> dict[str, Tensor]:
        if self.predictions is None:
            return {}
        parts = {task: value for task, value in vars_of(self.predictions.probabilities).items() if value is not None}
        arrays = {"rows": self.predictions.rows, **parts}
        predicted = {f"predicted.{name}": torch.from_numpy(np.ascontiguousarray(v)) for name, v in arrays.items()}
        return {f"weights.{name}": value for name, value in self.weights.items()} | predicted

    def load(self, tensors: Mapping[str, Tensor], history: list[dict[str, Any]], device: torch.device) -> None:
        """Takes up what `tensors` gave and the epochs of `history`."""
        if not history:
            return
        self.weights = {name: value.to(device) for name, value in part_of(tensors, "weights").items()}
        arrays = {name: value.numpy() for name, value in part_of(tensors, "predicted").items()}
        self.predictions = Predictions(rows=arrays.pop("rows"), probabilities=Probabilities(**arrays))
        for values in history:
            self.keeper.offer(Epoch(**{**values, "best": False}), self.predictions)


@dataclass(slots=True, kw_only=True)
class State:
    """A training on its way: `epoch` epochs are over, and `step` steps of the next one, whose losses add up in `sums`.

    `moving` are the tensors of the model that training can change; the others are those it began with. `num_steps`
    counts the steps since the start.
    """

    moving: dict[str, Tensor]
    loss: nn.Module
    optimiser: AdamW
    ema: Ema | None
    sums: Tensor
    best: Best = field(default_factory=Best)
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
        named = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return named | {"sums": self.sums}

    def about(self) -> dict[str, Any]:
        history = [dataclasses.asdict(epoch) for epoch in self.best.history]
        return {"epoch": self.epoch, "step": self.step, "num_steps": self.num_steps, "history": history}

    @torch.no_grad()
    def load(self, kept: Kept) -> None:
        """Takes up what `tensors` and `about` gave, by copying into the tensors that are here."""
        tensors, about = kept
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.best.load(part_of(tensors, "best"), about["history"], self.sums.device)
        self.epoch, self.step, self.num_steps = about["epoch"], about["step"], about["num_steps"]


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The `tensors` whose name begins with `part` and a dot, without it."""
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def vars_of(probabilities: Probabilities) -> dict[str, np.ndarray | None]:
    return {"va": probabilities.va, "expr": probabilities.expr, "au": probabilities.au}
