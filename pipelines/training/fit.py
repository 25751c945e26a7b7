"""The training loop of M heads at once on windows of resident streams; one head is a stack of one.

A head's result does not depend on its neighbours: its order of data comes from a generator of its own and its dropout
from its own seed; it stops when it would have stopped alone, and has its own best epoch.
Letters: M stacked heads, N frames, B windows, T steps.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from heads.losses import MultiTaskLoss
from heads.model import ProgressiveHead, single_state
from pipelines.config import TrainConfig
from pipelines.scoring.metrics import main_scores, score
from pipelines.training.dataset import Plan
from pipelines.training.epochs import Epoch, Fitted, HeadKeeper, ShouldStop, Watch
from pipelines.training.feed import Feed
from pipelines.training.optimise import lr_at
from pipelines.training.predict import Predictions
from pipelines.training.stack import Rest, Stack
from pipelines.training.unfinished import Unfinished

SHRINK = 0.75  # heads still training, as a share of the stack, below which the others are taken out of it


@dataclass(frozen=True, slots=True)
class Halving:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): after `first`, first x `factor`, .. epochs, the best
    1/`factor` of a stack's strategies go on."""

    factor: int
    first: int

    def is_rung(self, epoch: int, num_epochs: int) -> bool:
        rung = self.first
        while rung < min(epoch, num_epochs):
            rung *= self.factor
        return rung == epoch < num_epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One head of a stack: where it learns, where its epochs are chosen, and who is told.

    `should_stop` is asked after every epoch; True ends this head's training there, its best epoch so far stands.
    Heads of one `arm` differ in seed and fold only, and rise or fall together in successive halving.
    """

    feed: Feed
    plan: Plan
    name: str
    arm: str = ""
    watch: Watch | None = None
    should_stop: ShouldStop | None = None
    keeper: HeadKeeper = field(default_factory=HeadKeeper)

    @property
    def config(self) -> TrainConfig:
        return self.feed.config


def fit(
    model: nn.Module,
    loss: MultiTaskLoss,
    members: Sequence[Member],
    *,
    count_start: bool = False,
    frozen_epochs: int = 0,
    halving: Halving | None = None,
    unfinished: Unfinished | None = None,
) -> list[Fitted | ValueError]:
    """Trains the heads of `model`, one a member, which share tasks, streams, windows' shape and number of epochs.

    Args:
        model: `(streams, valid, times) -> {task: [M, B, T, K]}`, on the device.
        loss: what is minimised; may have parameters of its own.
        members: head m's feed, plan, name and listeners.
        count_start: the heads before their first step are candidates too.
        frozen_epochs: first epochs with the trunks of a `ProgressiveHead` frozen; patience counts from their end.
        halving: ends the training of arms that are behind.
        unfinished: where the state of the training is kept, under the members' name; it goes on from there.

    Returns:
        For each member its best epoch with its weights, or what went wrong: the loss or the predictions were no finite
        numbers before any epoch was scored.

    Raises:
        KeyboardInterrupt: `unfinished` was told to stop, and has the state.
    """
    training = _Training(model, loss, members)
    num_epochs = members[0].config.epochs
    rest = training.rest_in(unfinished) if unfinished is not None else None
    for epoch in range(training.go_on(unfinished, 0 if count_start else 1), num_epochs + 1):
        begin, model = time.perf_counter(), training.stack.model
        if isinstance(model, ProgressiveHead):
            model.set_trunks_frozen(epoch <= frozen_epochs)
        losses = training.stack.run_epoch(epoch, rest) if epoch else [{} for _ in training.members]
        said = training.stack.predict()
        training.judge(epoch, losses, said, time.perf_counter() - begin, patient=epoch <= frozen_epochs)
        if halving is not None and halving.is_rung(epoch, num_epochs):
            training.halve(epoch, halving.factor)
        if not training.going:
            break
        training.shrink()
    if unfinished is not None:
        unfinished.ended(members[0].name, {"ended": True, "keepers": [member.keeper.saved() for member in members]})
    return [member.keeper.result() for member in members]


class _Training:
    """A stack and who its heads are: `members` as in the stack, `going` the places of those not yet done."""

    def __init__(self, model: nn.Module, loss: MultiTaskLoss, members: Sequence[Member]) -> None:
        self.stack = Stack(model, loss, [member.feed for member in members], [member.plan for member in members])
        self.all, self.members = list(members), list(members)
        self.going = set(range(len(members)))

    def go_on(self, unfinished: Unfinished | None, first: int) -> int:
        """The epoch to go on with: `first`, or that in which an earlier process was stopped."""
        state = None if unfinished is None else unfinished.load(self.all[0].name)
        if state is None:
            return first
        for member, saved in zip(self.all, state["keepers"], strict=True):
            member.keeper.adopt(saved, member.feed.hidden.device)
            for note in member.keeper.history if member.watch is not None else ():
                member.watch(note)  # type: ignore[misc]
        if "ended" in state:
            return self.all[0].config.epochs + 1
        epoch = self.stack.load(state)
        self.members = [self.all[place] for place in self.stack.places]
        self.going = set(state["going"])
        return epoch

    def rest_in(self, unfinished: Unfinished) -> Rest:
        """What to do between two steps: save the stack where it is time to."""

        def rest(state: Callable[[], dict[str, Any]]) -> None:
            unfinished.rest(self.all[0].name, lambda: {**state(), **self._about()})

        return rest

    def _about(self) -> dict[str, Any]:
        return {"going": sorted(self.going), "keepers": [member.keeper.saved() for member in self.all]}

    def judge(
        self,
        epoch: int,
        losses: Sequence[Mapping[str, float]],
        said: Sequence[Predictions],
        seconds: float,
        *,
        patient: bool,
    ) -> None:
        """Scores the epoch of every head that is still going, keeps the best weights, and ends those that are done."""
        for place in sorted(self.going):
            member, keeper = self.members[place], self.members[place].keeper
            if not (is_finite(said[place]) and all(map(math.isfinite, losses[place].values()))):
                keeper.diverged(member.name, epoch, member.config.lr)
                self.going.discard(place)
                continue
            note = Epoch(
                model=member.name,
                epoch=epoch,
                num_epochs=member.config.epochs,
                lr=lr_at(member.config, epoch),
                losses=dict(losses[place]),
                scores=judge(said[place], member.feed),
                best=False,
                duration_s=seconds / len(self.members),
            )
            note = keeper.offer(note, said[place], patient=patient)
            if note.best:
                keeper.keep(single_state(self.stack.model, place))
            if member.watch is not None:
                member.watch(note)
            asked = member.should_stop is not None and member.should_stop(note)
            if keeper.num_since_best >= member.config.patience or asked:
                self.going.discard(place)

    def halve(self, epoch: int, factor: int) -> None:
        """Ends the training of all arms but the best 1/`factor`, by the mean of their heads' best scores."""
        scores: dict[str, list[float]] = {}
        for member in self.members:
            if member.keeper.best is not None:
                scores.setdefault(member.arm, []).append(member.keeper.best.p)
        going = {self.members[place].arm for place in self.going}
        ranked = sorted(going, key=lambda arm: (-float(np.mean(scores[arm])), arm))
        behind = set(ranked[-(-len(ranked) // factor) :])
        for place in [place for place in self.going if self.members[place].arm in behind]:
            self.members[place].keeper.halted = epoch
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
    labels = feed.dataset.labels.rows(predictions.rows)
    return main_scores(score(predictions.decide(), labels, feed.tasks))


def is_finite(predictions: Predictions) -> bool:
    """True when every predicted number is finite."""
    parts = predictions.probabilities
    return all(np.isfinite(part).all() for part in (parts.va, parts.expr, parts.au) if part is not None)
