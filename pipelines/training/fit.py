"""The training loop of M heads at once on windows of resident streams; one head is a stack of one.

A head's result does not depend on its neighbours: its order of data comes from a generator of its own and its dropout
from its own seed; it stops when it would have stopped alone, and has its own best epoch.
Letters: M stacked heads, N frames, B windows, T steps.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from heads.losses import MultiTaskLoss, Targets
from heads.model import ProgressiveHead, noises_of, single_state, take_heads
from pipelines.config import TrainConfig
from pipelines.scoring.metrics import main_scores, score
from pipelines.training.dataset import Plan, take
from pipelines.training.epochs import Epoch, Fitted, HeadKeeper, ShouldStop, Watch
from pipelines.training.feed import Feed, masked
from pipelines.training.optimise import lr_at
from pipelines.training.predict import Predictions, predict_heads
from pipelines.training.stack_optimise import StackedAdamW

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
) -> list[Fitted | ValueError]:
    """Trains the heads of `model`, one a member, which share tasks, streams, windows' shape and number of epochs.

    Args:
        model: `(streams, valid, times) -> {task: [M, B, T, K]}`, on the device.
        loss: what is minimised; may have parameters of its own.
        members: head m's feed, plan, name and listeners.
        count_start: the heads before their first step are candidates too.
        frozen_epochs: first epochs with the trunks of a `ProgressiveHead` frozen; patience counts from their end.
        halving: ends the training of arms that are behind.

    Returns:
        For each member its best epoch with its weights, or what went wrong: the loss or the predictions were no finite
        numbers before any epoch was scored.
    """
    stack = _Stack(model, loss, members)
    num_epochs = members[0].config.epochs
    for epoch in range(0 if count_start else 1, num_epochs + 1):
        begin = time.perf_counter()
        if isinstance(stack.model, ProgressiveHead):
            stack.model.set_trunks_frozen(epoch <= frozen_epochs)
        losses = stack.run_epoch(epoch) if epoch else [{} for _ in stack.members]
        said = stack.predict()
        stack.judge(epoch, losses, said, time.perf_counter() - begin, patient=epoch <= frozen_epochs)
        if halving is not None and halving.is_rung(epoch, num_epochs):
            stack.halve(epoch, halving.factor)
        if not stack.going:
            break
        stack.shrink()
    return [member.keeper.result() for member in members]


class _Stack:
    """The heads that are still in training: model, loss and optimiser, and who they are."""

    def __init__(self, model: nn.Module, loss: MultiTaskLoss, members: Sequence[Member]) -> None:
        self.model, self.loss, self.members = model, loss, list(members)
        self.going = set(range(len(members)))
        for noise in noises_of(model):
            noise.to(members[0].feed.hidden.device)
        parameters = [*model.parameters(), *loss.parameters()]
        self.optimiser = StackedAdamW(parameters, [member.config.weight_decay for member in members])
        self._generators = {key: torch.Generator().manual_seed(key[1]) for key in map(_order_of, members)}

    def run_epoch(self, epoch: int) -> list[dict[str, float]]:
        """One pass over each head's training windows; the mean of its loss and of each task's. Waits for the device
        once."""
        self.model.train()
        feed = self.members[0].feed
        device, names = feed.hidden.device, ("loss", *(f"loss.{task}" for task in feed.tasks))
        by_order = {key: self._feed_of(key).batches(generator) for key, generator in self._generators.items()}
        orders = [by_order[_order_of(member)] for member in self.members]
        sums = torch.zeros(len(names), len(orders), device=device)
        for index in range(max(map(len, orders))):
            active = [index < len(order) for order in orders]
            rows = self._rows([order[index] if index < len(order) else None for order in orders])
            mask = torch.tensor(active, device=device)
            for noise in noises_of(self.model):
                noise.advance(mask)
            with torch.autocast(device.type, torch.bfloat16, enabled=feed.config.precision == "bfloat16"):
                outputs = self.model(*feed.reader(rows))
            total, parts = self.loss(outputs, self._targets(feed.reader.in_table(rows)))
            self.optimiser.zero_grad()
            total.sum().backward()
            self.optimiser.clip([member.config.grad_clip for member in self.members])
            pace = [epoch - 1 + (index + 0.5) / len(order) for order in orders]
            rates = [lr_at(member.config, at) for member, at in zip(self.members, pace, strict=True)]
            self.optimiser.step(rates, active)
            sums += torch.stack([total.detach(), *(parts[task] for task in feed.tasks)]) * mask
        means = (sums / torch.tensor([len(order) for order in orders], device=device)).T.tolist()
        return [dict(zip(names, values, strict=True)) for values in means]

    def predict(self) -> list[Predictions]:
        """Each head's predictions of the rows that choose its epoch; heads that share these are run together."""
        feed = self.members[0].feed
        found: dict[int, Predictions] = {}
        by_plan: dict[int, list[int]] = {}
        for place, member in enumerate(self.members):
            by_plan.setdefault(id(member.plan), []).append(place)
        for places in by_plan.values():
            model = self.model if len(places) == len(self.members) else take_heads(self.model, places)
            said = predict_heads(model, feed.tasks, feed.reader, self.members[places[0]].plan)
            found |= dict(zip(places, said, strict=True))
        return [found[place] for place in range(len(self.members))]

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
                keeper.keep(single_state(self.model, place))
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
        self.model, self.loss = take_heads(self.model, places), self.loss.select(places)
        self.optimiser = self.optimiser.select([*self.model.parameters(), *self.loss.parameters()], places)
        self.members = [self.members[place] for place in places]
        self.going = set(range(len(places)))
        orders = set(map(_order_of, self.members))
        self._generators = {key: generator for key, generator in self._generators.items() if key in orders}

    def _feed_of(self, order: tuple[bytes, int]) -> Feed:
        return next(member.feed for member in self.members if _order_of(member) == order)

    def _rows(self, batches: Sequence[Tensor | None]) -> Tensor:
        """[M, B, T] rows, or [1, B, T] where all heads see the same; None and what is short is filled with padding."""
        first = next(batch for batch in batches if batch is not None)
        if all(batch is first for batch in batches):
            return first.unsqueeze(0)
        shapes = [batch.shape for batch in batches if batch is not None]
        size = (len(batches), max(shape[0] for shape in shapes), max(shape[1] for shape in shapes))
        rows = first.new_full(size, len(self.members[0].feed.hidden) - 1)
        for head, batch in enumerate(batches):
            if batch is not None:
                rows[head, : batch.shape[0], : batch.shape[1]] = batch
        return rows

    def _targets(self, rows: Tensor) -> Targets:
        """Labels of `rows` [M or 1, B, T], each head's hidden ones masked."""
        feeds = [member.feed for member in self.members][: len(rows)]
        if len({feed.key for feed in feeds}) == 1:
            shown = ~feeds[0].hidden[rows]
        else:
            shown = ~torch.stack([feed.hidden[each] for feed, each in zip(feeds, rows, strict=True)])
        return masked(take(feeds[0].dataset.targets, rows), shown)


def _order_of(member: Member) -> tuple[bytes, int]:
    """Heads of one order of data share their batches."""
    return member.feed.key, member.config.seed


def judge(predictions: Predictions, feed: Feed) -> dict[str, float]:
    """Each task's score of `predictions`."""
    labels = feed.dataset.labels.rows(predictions.rows)
    return main_scores(score(predictions.decide(), labels, feed.tasks))


def is_finite(predictions: Predictions) -> bool:
    """True when every predicted number is finite."""
    parts = predictions.probabilities
    return all(np.isfinite(part).all() for part in (parts.va, parts.expr, parts.au) if part is not None)
