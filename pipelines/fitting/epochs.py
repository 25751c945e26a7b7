"""Scores in the course of a training, and the keeper of the best.

The best weights are copied the moment they earn their score: what is saved is what was measured.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pipelines.metrics.predictions import Predictions, Probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A model on its way: mean training losses since it was scored before, and the score of each task on the rows that
    choose. `best` says that it is the best so far.
    """

    model: str
    lr: float
    losses: dict[str, float]
    scores: dict[str, float]
    best: bool
    duration_s: float

    @property
    def p(self) -> float:
        """Sum of the tasks' scores: P where the model has all three."""
        return sum(self.scores.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scored):
    """A head after `step` of `num_steps` optimiser steps; `step` 0 is before the first."""

    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch(Scored):
    """A backbone after `epoch` of `num_epochs` epochs."""

    epoch: int
    num_epochs: int


Note = TypeVar("Note", bound=Scored)
Watch = Callable[[Evaluation], None]
ShouldStop = Callable[[Evaluation], bool]
EpochWatch = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Generic[Note]):
    """The best that was scored, what was predicted then of the rows that choose, the weights of that moment, and all
    that was scored.

    `halted` is the step after which successive halving ended the training; 0 where it came to its own end.
    """

    best: Note
    predictions: Predictions
    history: tuple[Note, ...]
    state: Mapping[str, Tensor]
    halted: int = 0


class HeadKeeper(Generic[Note]):
    """Holds the best of one model, heads' `Evaluation`s or backbones' `Epoch`s: its weights and its predictions."""

    def __init__(self, kind: type[Note]) -> None:
        self._kind = kind
        self.history: list[Note] = []
        self.best: Note | None = None
        self.halted = 0
        self._state: Mapping[str, Tensor] = {}
        self._predictions: Predictions | None = None
        self._failure: ValueError | None = None

    @property
    def num_since_best(self) -> int:
        """How often it was scored after the best."""
        return next((count for count, note in enumerate(reversed(self.history)) if note.best), len(self.history))

    def offer(self, note: Note, predictions: Predictions) -> Note:
        """Records a score; where it returns one that is `best`, `keep` wants the weights before another step."""
        if self.best is None or note.p > self.best.p:
            note = dataclasses.replace(note, best=True)
            self.best, self._predictions = note, predictions
        self.history.append(note)
        return note

    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Takes the weights of the best, which must be copies."""
        self._state = state

    def saved(self) -> dict[str, Any]:
        """All it holds as tensors and plain values, for `adopt`."""
        return {
            "history": [dataclasses.asdict(note) for note in self.history],
            "halted": self.halted,
            "state": dict(self._state),
            "predictions": None if self._predictions is None else _as_tensors(self._predictions),
            "failure": "" if self._failure is None else str(self._failure),
        }

    def adopt(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Goes on where `saved` was taken."""
        self.history = [self._kind(**note) for note in saved["history"]]
        self.best = next((note for note in reversed(self.history) if note.best), None)
        self.halted = saved["halted"]
        self._state = {name: value.to(device) for name, value in saved["state"].items()}
        self._predictions = None if saved["predictions"] is None else _as_predictions(saved["predictions"])
        self._failure = ValueError(saved["failure"]) if saved["failure"] else None

    def diverged(self, name: str, step: int, lr: float) -> None:
        """Training broke down; that is a failure only if nothing was scored before."""
        if self.best is None:
            self._failure = ValueError(
                f"{name}: the loss or the predictions are no finite numbers by step {step}; lower train.lr (now {lr})"
            )

    def result(self) -> Fitted[Note] | ValueError:
        if self._failure is not None:
            return self._failure
        assert self.best is not None
        assert self._predictions is not None
        return Fitted(
            best=self.best,
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
