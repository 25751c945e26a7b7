"""The training loop of M heads at once on windows of resident streams; one head is a stack of one.

A head's result does not depend on its neighbours: its order of data comes from a generator of its own and its dropout
from its own seed; it stops when it would have stopped alone, and has its own best weights.
Letters: M stacked heads, N frames, B windows, T steps.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from heads.model import ProgressiveHead, single_state
from heads.penalties import HeadLoss
from pipelines.config import TrainConfig
from pipelines.fitting.checkpoint import Resumed, joined, part_of
from pipelines.fitting.epochs import BestEpoch, Evaluation, FitResult, ShouldStop
from pipelines.metrics.challenge import main_scores, score
from pipelines.metrics.predictions import Predictions, is_finite
from pipelines.training.budget import evaluations
from pipelines.training.dataset import PredictionPlan
from pipelines.training.halving import Halving
from pipelines.training.optimise import lr_at
from pipelines.training.stack import SaveCallback, Stack
from pipelines.training.stack_checkpoint import StackCheckpoint
from pipelines.training.window_sampler import WindowSource

SHRINK = 0.75  # heads still training, as a share of the stack, below which the others are taken out of it


@dataclass(frozen=True, slots=True, kw_only=True)
class StackMember:
    """One head of a stack: its training windows, the rows that choose its weights, and its callbacks.

    `should_stop` is asked after every evaluation; True ends this head's training there, the best weights so far stand.
    Heads of one `arm` differ in seed and fold only, and are kept or ended together in successive halving.
    """

    source: WindowSource
    plan: PredictionPlan
    name: str
    arm: str = ""
    on_evaluation: Callable[[Evaluation], None] | None = None
    should_stop: ShouldStop | None = None
    best: BestEpoch[Evaluation]

    @property
    def config(self) -> TrainConfig:
        return self.source.config


def fit(
    model: nn.Module,
    loss: HeadLoss,
    members: Sequence[StackMember],
    *,
    count_start: bool = False,
    frozen_steps: int = 0,
    halving: Halving | None = None,
    checkpoint: StackCheckpoint | None = None,
    num_steps: int | None = None,
) -> list[FitResult[Evaluation] | ValueError]:
    """Trains the heads of `model`, one per member, which share tasks, streams, windows' shape and number of steps.

    Args:
        model: `(streams, valid, times) -> {task: [M, B, T, K]}`, on the device.
        loss: what is minimised; may have parameters of its own.
        members: head m's source, plan, name and callbacks.
        count_start: the heads before their first step are candidates too.
        frozen_steps: first steps with the trunks of a `ProgressiveHead` frozen, up to a whole evaluation; patience
            counts from their end.
        halving: ends the training of arms that are behind.
        checkpoint: where the state of the training is saved, under the members' name; it resumes from there.
        num_steps: where the training ends, an evaluation before the last one of the members' number of steps, by which
            the learning rate goes; None to go on.

    Returns:
        For each member its best evaluation with its weights, or what went wrong: the loss or the predictions were no
        finite numbers before anything was scored.

    Raises:
        KeyboardInterrupt: a stop was asked for; `checkpoint` has the state.
    """
    training, config = _Training(model, loss, members, frozen_steps), members[0].config
    save = training.save_callback(checkpoint) if checkpoint is not None else None
    steps = [0] * count_start + evaluations(config)
    steps = [step for step in steps if num_steps is None or step <= num_steps]
    for before, step in training.left(checkpoint, list(zip([0, *steps], steps, strict=False))):
        begin, model = time.perf_counter(), training.stack.model
        if isinstance(model, ProgressiveHead):
            model.set_trunks_frozen(before < frozen_steps)
        losses = training.stack.run_until(step, save) if step else [{} for _ in training.members]
        predictions = training.stack.predict()
        training.evaluate(step, losses, predictions, time.perf_counter() - begin)
        if halving is not None and halving.is_rung(before, step, config.steps):
            training.halve(step, halving.factor)
        if not training.active:
            break
        training.shrink()
    if checkpoint is not None:
        checkpoint.mark_done(members[0].name, training.best({"ended": True}))
    return [member.best.result() for member in members]


class _Training:
    """A stack and its heads: `members` as in the stack, `active` the places of those not yet done."""

    def __init__(self, model: nn.Module, loss: HeadLoss, members: Sequence[StackMember], frozen_steps: int) -> None:
        self.stack = Stack(model, loss, [member.source for member in members], [member.plan for member in members])
        self.all, self.members = list(members), list(members)
        self.active = set(range(len(members)))
        self.frozen_steps = frozen_steps

    def left(self, checkpoint: StackCheckpoint | None, periods: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The `periods` to train, from one evaluation's step to the next one's, that are left; all of them unless an
        earlier process was stopped."""
        resumed = None if checkpoint is None else checkpoint.load(self.all[0].name)
        if resumed is None:
            return periods
        tensors, about = resumed
        for number, (member, best) in enumerate(zip(self.all, about["best"], strict=True)):
            member.best.load_state(part_of(tensors, f"best.{number}"), best, member.source.hidden.device)
            for evaluation in member.best.history if member.on_evaluation is not None else ():
                member.on_evaluation(evaluation)  # type: ignore[misc]
        if "ended" in about:
            return []
        self.stack.load(resumed)
        self.members = [self.all[place] for place in self.stack.places]
        self.active = set(about["going"])
        return [(before, step) for before, step in periods if step >= self.stack.num_steps]

    def save_callback(self, checkpoint: StackCheckpoint) -> SaveCallback:
        """What to do between two steps: save the stack when that is due."""

        def save(state: Callable[[], Resumed]) -> None:
            checkpoint.save(self.all[0].name, lambda: self._with_best(state()))

        return save

    def _with_best(self, state: Resumed) -> Resumed:
        tensors, about = self.best({"going": sorted(self.active)})
        return {**state[0], **tensors}, {**state[1], **about}

    def best(self, about: dict[str, Any]) -> Resumed:
        """The best of every head, for a checkpoint; `about` is kept beside it."""
        tensors = joined({f"best.{number}": member.best.tensors() for number, member in enumerate(self.all)})
        return tensors, {**about, "best": [member.best.about() for member in self.all]}

    def evaluate(
        self,
        step: int,
        losses: Sequence[Mapping[str, float]],
        predictions: Sequence[Predictions],
        seconds: float,
    ) -> None:
        """Scores every active head, keeps the best weights, and ends those that are done."""
        for place in sorted(self.active):
            member, best = self.members[place], self.members[place].best
            if not (is_finite(predictions[place]) and all(map(math.isfinite, losses[place].values()))):
                best.diverged(member.name, step, member.config.lr)
                self.active.discard(place)
                continue
            evaluation = Evaluation(
                model=member.name,
                step=step,
                num_steps=member.config.steps,
                lr=lr_at(member.config, step),
                losses=dict(losses[place]),
                scores=evaluate(predictions[place], member.source) if len(predictions[place].rows) else {},
                best=False,
                duration_s=seconds / len(self.members),
            )
            evaluation = best.record(evaluation, partial(single_state, self.stack.model, place))
            if member.on_evaluation is not None:
                member.on_evaluation(evaluation)
            asked = member.should_stop is not None and member.should_stop(evaluation)
            assert best.best is not None
            since = step - max(best.best.step, self.frozen_steps)
            if since >= member.config.patience or asked:
                self.active.discard(place)

    def halve(self, step: int, factor: int) -> None:
        """Ends the training of all arms but the best 1/`factor`, by the mean of their heads' best scores."""
        scores: dict[str, list[float]] = {}
        for member in self.members:
            if member.best.best is not None:
                scores.setdefault(member.arm, []).append(member.best.best.p)
        active = {self.members[place].arm for place in self.active}
        ranked = sorted(active, key=lambda arm: (-float(np.mean(scores[arm])), arm))
        behind = set(ranked[-(-len(ranked) // factor) :])
        for place in [place for place in self.active if self.members[place].arm in behind]:
            self.members[place].best.halted = step
            self.active.discard(place)

    def shrink(self) -> None:
        """Takes heads that are done out of the stack once there are enough of them."""
        if len(self.active) > SHRINK * len(self.members):
            return
        places = sorted(self.active)
        self.stack.keep(places)
        self.members = [self.members[place] for place in places]
        self.active = set(range(len(places)))


def evaluate(predictions: Predictions, source: WindowSource) -> dict[str, float]:
    """Each predicted task's score."""
    labels = source.dataset.labels.take(predictions.rows)
    return main_scores(score(predictions.decide(), labels, source.predicted), source.dataset.schema)
