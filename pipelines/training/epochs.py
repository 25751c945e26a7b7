"""Epochs of one training: what each one said, and the keeper of the best. N frames.

The best epoch's weights are copied the moment they earn their score: what is saved is what was measured.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.scoring.metrics import Probabilities
from pipelines.training.predict import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch of one model: mean training losses, and the score of each task on the rows that choose.

    `epoch` 0 is the model before its first step. `best` says that it is the best so far.
    """

    model: str
    epoch: int
    num_epochs: int
    lr: float
    losses: dict[str, float]
    scores: dict[str, float]
    best: bool
    duration_s: float

    @property
    def p(self) -> float:
        """Sum of the tasks' scores: P where the model has all three."""
        return sum(self.scores.values())


Watch = Callable[[Epoch], None]
ShouldStop = Callable[[Epoch], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The best epoch, what it predicted of the rows that choose, all epochs, and the weights as of its evaluation.

    `halted` is the epoch after which successive halving ended the training; 0 where it came to its own end.
    """

    epoch: int
    predictions: Predictions
    history: tuple[Epoch, ...]
    state: Mapping[str, Tensor]
    halted: int = 0


class HeadKeeper:
    """Holds the best epoch of one head of a stack: its weights as of its evaluation, and its predictions."""

    def __init__(self) -> None:
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.num_since_best = 0
        self.halted = 0
        self._state: Mapping[str, Tensor] = {}
        self._predictions: Predictions | None = None
        self._failure: ValueError | None = None

    def offer(self, note: Epoch, predictions: Predictions, *, patient: bool) -> Epoch:
        """Records an epoch; where `best` is set in what it returns, `keep` wants the weights before another step.

        A `patient` epoch does not count against the patience.
        """
        self.num_since_best += 0 if patient else 1
        if self.best is None or note.p > self.best.p:
            note = dataclasses.replace(note, best=True)
            self.best, self.num_since_best, self._predictions = note, 0, predictions
        self.history.append(note)
        return note

    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Takes the best epoch's weights, which must be copies."""
        self._state = state

    def saved(self) -> dict[str, Any]:
        """All it holds as tensors and plain values, for `adopt`."""
        return {
            "history": [dataclasses.asdict(note) for note in self.history],
            "num_since_best": self.num_since_best,
            "halted": self.halted,
            "state": dict(self._state),
            "predictions": None if self._predictions is None else _as_tensors(self._predictions),
            "failure": "" if self._failure is None else str(self._failure),
        }

    def adopt(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Goes on where `saved` was taken."""
        self.history = [Epoch(**note) for note in saved["history"]]
        self.best = next((note for note in reversed(self.history) if note.best), None)
        self.num_since_best, self.halted = saved["num_since_best"], saved["halted"]
        self._state = {name: value.to(device) for name, value in saved["state"].items()}
        self._predictions = None if saved["predictions"] is None else _as_predictions(saved["predictions"])
        self._failure = ValueError(saved["failure"]) if saved["failure"] else None

    def diverged(self, name: str, epoch: int, lr: float) -> None:
        """Training broke down; that is a failure only if nothing was scored before."""
        if self.best is None:
            self._failure = ValueError(
                f"{name}: the loss or the predictions are no finite numbers in epoch {epoch}; lower train.lr (now {lr})"
            )

    def result(self) -> Fitted | ValueError:
        if self._failure is not None:
            return self._failure
        assert self.best is not None
        assert self._predictions is not None
        return Fitted(
            epoch=self.best.epoch,
            predictions=self._predictions,
            history=tuple(self.history),
            state=self._state,
            halted=self.halted,
        )


def _as_tensors(said: Predictions) -> dict[str, Tensor]:
    parts = {task: getattr(said.probabilities, task) for task in ("va", "expr", "au")}
    given = {task: part for task, part in parts.items() if part is not None}
    return {name: torch.from_numpy(part) for name, part in {"rows": said.rows, **given}.items()}


def _as_predictions(saved: Mapping[str, Tensor]) -> Predictions:
    parts = {name: value.numpy() for name, value in saved.items()}
    return Predictions(rows=parts.pop("rows"), probabilities=Probabilities(**parts))
