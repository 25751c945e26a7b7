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

from heads.losses import MultiTaskLoss
from heads.model import ProgressiveHead, single_state
from pipelines.config import TrainConfig
from pipelines.fitting.checkpoint import Kept, joined, part_of
from pipelines.fitting.epochs import BestEpoch, Evaluation, Fitted, ShouldStop, Watch
from pipelines.metrics.challenge import main_scores, score
from pipelines.metrics.predictions import Predictions, is_finite
from pipelines.training.budget import evaluations
from pipelines.training.dataset import Plan
from pipelines.training.feed import Feed
from pipelines.training.optimise import lr_at
from pipelines.training.stack import Rest, Stack
from pipelines.training.unfinished import Unfinished

SHRINK = 0.75  # heads still training, as a share of the stack, below which the others are taken out of it


@dataclass(frozen=True, slots=True)
class Halving:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): after `first`, first x `factor`, .. steps, the best
    1/`factor` of a stack's strategies go on; each at the first evaluation at or after such a step."""

    factor: int
    first: int

    def is_rung(self, before: int, step: int, num_steps: int) -> bool:
        """Whether a rung lies after `before`, the step of the last evaluation, and at or before `step`."""
        rung = self.first
        while rung <= before:
            rung *= self.factor
        return rung <= step < num_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One head of a stack: where it learns, where its weights are chosen, and who is told.

    `should_stop` is asked after every evaluation; True ends this head's training there, the best weights so far stand.
    Heads of one `arm` differ in seed and fold only, and rise or fall together in successive halving.
    """

    feed: Feed
    plan: Plan
    name: str
    arm: str = ""
    watch: Watch | None = None
    should_stop: ShouldStop | None = None
    best: BestEpoch[Evaluation]

    @property
    def config(self) -> TrainConfig:
        return self.feed.config


def fit(
    model: nn.Module,
    loss: MultiTaskLoss,
    members: Sequence[Member],
    *,
    count_start: bool = False,
    frozen_steps: int = 0,
    halving: Halving | None = None,
    unfinished: Unfinished | None = None,
) -> list[Fitted[Evaluation] | ValueError]:
    """Trains the heads of `model`, one a member, which share tasks, streams, windows' shape and number of steps.

    Args:
        model: `(streams, valid, times) -> {task: [M, B, T, K]}`, on the device.
        loss: what is minimised; may have parameters of its own.
        members: head m's feed, plan, name and listeners.
        count_start: the heads before their first step are candidates too.
        frozen_steps: first steps with the trunks of a `ProgressiveHead` frozen, up to a whole evaluation; patience
            counts from their end.
        halving: ends the training of arms that are behind.
        unfinished: where the state of the training is kept, under the members' name; it goes on from there.

    Returns:
        For each member its best evaluation with its weights, or what went wrong: the loss or the predictions were no
        finite numbers before anything was scored.

    Raises:
        KeyboardInterrupt: `unfinished` was told to stop, and has the state.
    """
    training, config = _Training(model, loss, members, frozen_steps), members[0].config
    rest = training.rest_in(unfinished) if unfinished is not None else None
    steps = [0] * count_start + evaluations(config)
    for before, step in training.left(unfinished, list(zip([0, *steps], steps, strict=False))):
        begin, model = time.perf_counter(), training.stack.model
        if isinstance(model, ProgressiveHead):
            model.set_trunks_frozen(before < frozen_steps)
        losses = training.stack.run_until(step, rest) if step else [{} for _ in training.members]
        said = training.stack.predict()
        training.judge(step, losses, said, time.perf_counter() - begin)
        if halving is not None and halving.is_rung(before, step, config.steps):
            training.halve(step, halving.factor)
        if not training.going:
            break
        training.shrink()
    if unfinished is not None:
        unfinished.ended(members[0].name, training.best({"ended": True}))
    return [member.best.result() for member in members]


class _Training:
    """A stack and who its heads are: `members` as in the stack, `going` the places of those not yet done."""

    def __init__(self, model: nn.Module, loss: MultiTaskLoss, members: Sequence[Member], frozen_steps: int) -> None:
        self.stack = Stack(model, loss, [member.feed for member in members], [member.plan for member in members])
        self.all, self.members = list(members), list(members)
        self.going = set(range(len(members)))
        self.frozen_steps = frozen_steps

    def left(self, unfinished: Unfinished | None, periods: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The `periods` to train, from one evaluation's step to the next one's, that are left; all of them unless an
        earlier process was stopped."""
        kept = None if unfinished is None else unfinished.load(self.all[0].name)
        if kept is None:
            return periods
        tensors, about = kept
        for number, (member, best) in enumerate(zip(self.all, about["best"], strict=True)):
            member.best.load_state(part_of(tensors, f"best.{number}"), best, member.feed.hidden.device)
            for note in member.best.history if member.watch is not None else ():
                member.watch(note)  # type: ignore[misc]
        if "ended" in about:
            return []
        self.stack.load(kept)
        self.members = [self.all[place] for place in self.stack.places]
        self.going = set(about["going"])
        return [(before, step) for before, step in periods if step >= self.stack.num_steps]

    def rest_in(self, unfinished: Unfinished) -> Rest:
        """What to do between two steps: save the stack where it is time to."""

        def rest(state: Callable[[], Kept]) -> None:
            unfinished.rest(self.all[0].name, lambda: self._with_best(state()))

        return rest

    def _with_best(self, state: Kept) -> Kept:
        tensors, about = self.best({"going": sorted(self.going)})
        return {**state[0], **tensors}, {**state[1], **about}

    def best(self, about: dict[str, Any]) -> Kept:
        """The best of every head, for a checkpoint; `about` is kept beside it."""
        tensors = joined({f"best.{number}": member.best.tensors() for number, member in enumerate(self.all)})
        return tensors, {**about, "best": [member.best.about() for member in self.all]}

    def judge(
        self,
        step: int,
        losses: Sequence[Mapping[str, float]],
        said: Sequence[Predictions],
        seconds: float,
    ) -> None:
        """Scores every head that is still going, keeps the best weights, and ends those that are done."""
        for place in sorted(self.going):
            member, best = self.members[place], self.members[place].best
            if not (is_finite(said[place]) and all(map(math.isfinite, losses[place].values()))):
                best.diverged(member.name, step, member.config.lr)
                self.going.discard(place)
                continue
            note = Evaluation(
                model=member.name,
                step=step,
                num_steps=member.config.steps,
                lr=lr_at(member.config, step),
                losses=dict(losses[place]),
                scores=judge(said[place], member.feed),
                best=False,
                duration_s=seconds / len(self.members),
            )
            note = best.record(note, said[place], partial(single_state, self.stack.model, place))
            if member.watch is not None:
                member.watch(note)
            asked = member.should_stop is not None and member.should_stop(note)
            assert best.best is not None
            since = step - max(best.best.step, self.frozen_steps)
            if since >= member.config.patience or asked:
                self.going.discard(place)

    def halve(self, step: int, factor: int) -> None:
        """Ends the training of all arms but the best 1/`factor`, by the mean of their heads' best scores."""
        scores: dict[str, list[float]] = {}
        for member in self.members:
            if member.best.best is not None:
                scores.setdefault(member.arm, []).append(member.best.best.p)
        going = {self.members[place].arm for place in self.going}
        ranked = sorted(going, key=lambda arm: (-float(np.mean(scores[arm])), arm))
        behind = set(ranked[-(-len(ranked) // factor) :])
        for place in [place for place in self.going if self.members[place].arm in behind]:
            self.members[place].best.halted = step
            self.going.discard(place)

    def shrink(self) -> None:
        """Takes heads that are done out of the stack once there are enough of them."""
        if len(self.going) > SHRINK * len(self.members):
            return
        places = sorted(self.going)
        self.stack.keep(places)
        self.members = [self.members[place] for place in places]
        self.going = set(range(len(places)))


def judge(predictions: Predictions, feed: Feed) -> dict[str, float]:
    """Each task's score of `predictions`."""
    labels = feed.dataset.labels.take(predictions.rows)
    return main_scores(score(predictions.decide(), labels, feed.tasks), feed.dataset.schema)
