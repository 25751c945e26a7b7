"""Scores during a training, and the best of them.

The best weights are copied the moment they earn their score: what is saved is what was measured.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.labels import ABAW, Schema
from pipelines.fitting.checkpoint import joined, part_of
from pipelines.metrics.predictions import Predictions, Probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A model in training: mean training losses since its last score, and the score of each task on the select rows.
    `best` says that it is the best so far.
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

    @property
    def numbers(self) -> dict[str, float]:
        """Losses, scores, P and the learning rate by name, as history.csv has them."""
        scores = {f"score.{task}": value for task, value in self.scores.items()}
        return {**self.losses, **scores, "P": self.p, "lr": self.lr}


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


ScoredT = TypeVar("ScoredT", bound=Scored)
ShouldStop = Callable[[Evaluation], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult(Generic[ScoredT]):
    """The best score, its weights, the predictions that were kept with them, and the history of all scores.
    `halted` is the step after which successive halving ended the training; 0 where it came to its own end.
    """

    best: ScoredT
    predictions: Predictions | None
    history: tuple[ScoredT, ...]
    state: Mapping[str, Tensor]
    halted: int = 0


class BestEpoch(Generic[ScoredT]):
    """The best state of one model so far: its score (a head's `Evaluation`, a backbone's `Epoch`), its weights, and the
    predictions that earned it where they are to be kept; and all that was scored. With `takes_last` the best is the
    last one, whatever its score."""

    def __init__(self, kind: type[ScoredT], schema: Schema = ABAW, *, takes_last: bool = False) -> None:
        self._kind, self._schema, self._takes_last = kind, schema, takes_last
        self.history: list[ScoredT] = []
        self.best: ScoredT | None = None
        self.halted = 0
        self._weights: Mapping[str, Tensor] = {}
        self._predictions: Predictions | None = None
        self._failure: ValueError | None = None

    @property
    def num_since_best(self) -> int:
        """How often it was scored after the best."""
        return next((count for count, scored in enumerate(reversed(self.history)) if scored.best), len(self.history))

    def record(
        self, scored: ScoredT, weights: Callable[[], Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> ScoredT:
        """Adds a score and returns it, `best` set if it is the best; only then are copies of the `weights` taken, at
        once, before another step can change them."""
        if self._takes_last or self.best is None or scored.p > self.best.p:
            scored = dataclasses.replace(scored, best=True)
            self.best, self._predictions, self._weights = scored, predictions, weights()
        self.history.append(scored)
        return scored

    def tensors(self) -> dict[str, Tensor]:
        """With `about` all it holds: the tensors themselves, not copies."""
        predicted: dict[str, Tensor] = {}
        if self._predictions is not None:
            arrays = {"rows": self._predictions.rows, **self._predictions.probabilities.parts}
            predicted = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        return joined({"weights": self._weights, "predicted": predicted})

    def about(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        failure = "" if self._failure is None else str(self._failure)
        history = [dataclasses.asdict(scored) for scored in self.history]
        return {"history": history, "halted": self.halted, "failure": failure}

    def load_state(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], device: torch.device) -> None:
        """Resumes from what `tensors` and `about` gave, the weights on `device`."""
        self.history = [self._kind(**values) for values in about["history"]]
        self.best = next((scored for scored in reversed(self.history) if scored.best), None)
        self.halted = about["halted"]
        self._failure = ValueError(about["failure"]) if about["failure"] else None
        self._weights = {name: value.to(device) for name, value in part_of(tensors, "weights").items()}
        arrays = {name: value.numpy() for name, value in part_of(tensors, "predicted").items()}
        if arrays:
            rows = arrays.pop("rows")
            probabilities = Probabilities(parts=arrays, schema=self._schema)
            self._predictions = Predictions(rows=rows, probabilities=probabilities)

    def diverged(self, name: str, step: int, lr: float) -> None:
        """Training broke down; that is a failure only if nothing was scored before."""
        if self.best is None:
            self._failure = ValueError(
                f"{name}: the loss or the predictions are no finite numbers by step {step}; lower train.lr (now {lr})"
            )

    def result(self) -> FitResult[ScoredT] | ValueError:
        if self._failure is not None:
            return self._failure
        assert self.best is not None
        return FitResult(
            best=self.best,
            predictions=self._predictions,
            history=tuple(self.history),
            state=self._weights,
            halted=self.halted,
        )
