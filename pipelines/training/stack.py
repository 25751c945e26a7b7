"""The heads of a stack that are still in training: their weights, optimiser and data, and all of it as one state.

Place m of a stack is head m of its model, of its losses and of its optimiser. Letters: M stacked heads, B windows,
T steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heads.losses import MultiTaskLoss
from heads.model import noises_of, take_heads
from pipelines.training.dataset import Plan
from pipelines.training.feed import Feed
from pipelines.training.optimise import lr_at
from pipelines.training.predict import Predictions, predict_heads
from pipelines.training.stack_optimise import StackedAdamW
from pipelines.training.step import Step

Rest = Callable[[Callable[[], dict[str, Any]]], None]


class Stack:
    """M heads; head m learns from `feeds[m]` and predicts the rows of `plans[m]`.

    A stack stands at `(epoch, num_steps, sums)`: so many steps into an epoch, with the losses [1 + K, M] summed so far.
    """

    def __init__(self, model: nn.Module, loss: MultiTaskLoss, feeds: Sequence[Feed], plans: Sequence[Plan]) -> None:
        self.model, self.loss, self.feeds, self.plans = model, loss, list(feeds), list(plans)
        self.places = list(range(len(feeds)))  # of each head among those the stack began with
        for noise in noises_of(model):
            noise.to(feeds[0].hidden.device)
        parameters = [*model.parameters(), *loss.parameters()]
        self.optimiser = StackedAdamW(parameters, [feed.config.weight_decay for feed in feeds])
        self._generators = {key: torch.Generator().manual_seed(key[1]) for key in map(_order_of, feeds)}
        self.step = Step(self.model, self.loss, self.optimiser, self.feeds)
        self._going_on: tuple[int, Tensor] | None = None

    def run_epoch(self, epoch: int, rest: Rest | None = None) -> list[dict[str, float]]:
        """One pass over each head's training windows, or what is left of one; the mean of its loss and of each task's.

        Waits for the device once. `rest` is called between two steps with what makes the state of the stack.
        """
        self.model.train()
        device = self.feeds[0].hidden.device
        begun = {key: generator.get_state() for key, generator in self._generators.items()}
        orders = self._orders()
        done, sums = self._going_on or (0, torch.zeros(1 + len(self.feeds[0].tasks), len(orders)))
        self._going_on, sums = None, sums.to(device)
        for index in range(done, max(map(len, orders))):
            active = [index < len(order) for order in orders]
            pace = [epoch - 1 + (index + 0.5) / len(order) for order in orders]
            rates = [lr_at(feed.config, at) for feed, at in zip(self.feeds, pace, strict=True)]
            rows = self._rows([order[index] if index < len(order) else None for order in orders])
            sums += self.step(rows, active, rates) * torch.tensor(active, device=device)
            if rest is not None:
                rest(lambda: self._state(epoch, index + 1, sums, begun))  # noqa: B023
        means = (sums / torch.tensor([len(order) for order in orders], device=device)).T.tolist()
        names = ("loss", *(f"loss.{task}" for task in self.feeds[0].tasks))
        return [dict(zip(names, values, strict=True)) for values in means]

    def predict(self) -> list[Predictions]:
        """Each head's predictions of the rows that choose its epoch; heads that share these are run together."""
        found: dict[int, Predictions] = {}
        by_plan: dict[int, list[int]] = {}
        for place, plan in enumerate(self.plans):
            by_plan.setdefault(id(plan), []).append(place)
        feed = self.feeds[0]
        for places in by_plan.values():
            model = self.model if len(places) == len(self.plans) else take_heads(self.model, places)
            said = predict_heads(model, feed.tasks, feed.reader, self.plans[places[0]])
            found |= dict(zip(places, said, strict=True))
        return [found[place] for place in range(len(self.plans))]

    def keep(self, places: Sequence[int]) -> None:
        """Only these heads stay, and go on exactly as they would have."""
        self.model, self.loss = take_heads(self.model, places), self.loss.select(places)
        self.optimiser = self.optimiser.select([*self.model.parameters(), *self.loss.parameters()], places)
        self.feeds, self.plans = [self.feeds[place] for place in places], [self.plans[place] for place in places]
        self.places = [self.places[place] for place in places]
        orders = set(map(_order_of, self.feeds))
        self._generators = {key: generator for key, generator in self._generators.items() if key in orders}
        self.step = Step(self.model, self.loss, self.optimiser, self.feeds)

    def load(self, state: dict[str, Any]) -> int:
        """Goes on where `state` was taken; the epoch it stands in."""
        self.keep(state["places"])
        device = self.feeds[0].hidden.device
        with torch.no_grad():
            for name, values in self._tensors().items():
                for value, saved in zip(values, state[name], strict=True):
                    value.copy_(saved)
        self.optimiser.recount()
        for feed, generator in zip(self.feeds, state["generators"], strict=True):
            self._generators[_order_of(feed)].set_state(generator)
        self._going_on = state["num_steps"], state["sums"].to(device)
        epoch: int = state["epoch"]
        return epoch

    def _state(self, epoch: int, num_steps: int, sums: Tensor, begun: dict[Any, Tensor]) -> dict[str, Any]:
        """What `load` takes; `begun` are the generators' states at the start of the epoch."""
        return {
            "epoch": epoch,
            "num_steps": num_steps,
            "sums": sums,
            "places": list(self.places),
            "generators": [begun[_order_of(feed)] for feed in self.feeds],
            **self._tensors(),
        }

    def _tensors(self) -> dict[str, list[Tensor]]:
        """Everything that a step moves."""
        return {
            "parameters": [p.detach() for p in self.optimiser.parameters],
            "means": self.optimiser.means,
            "squares": self.optimiser.squares,
            "steps": self.optimiser.steps,
            "noises": [noise.steps for noise in noises_of(self.model)],
        }

    def _orders(self) -> list[tuple[Tensor, ...]]:
        """The epoch's batches of each head; heads of one order have the same ones."""
        feeds = {_order_of(feed): feed for feed in self.feeds}
        by_order = {key: feeds[key].batches(generator) for key, generator in self._generators.items()}
        return [by_order[_order_of(feed)] for feed in self.feeds]

    def _rows(self, batches: Sequence[Tensor | None]) -> Tensor:
        """[M, B, T] rows, or [1, B, T] where all heads see the same; None and what is short is filled with padding."""
        distinct = list({id(batch): batch for batch in batches if batch is not None}.values())
        most = self.feeds[0].config.batch_windows if distinct[0].device.type == "cuda" else 0  # one shape: one graph
        if len(distinct) == 1 and all(batch is not None for batch in batches):
            return _filled(distinct, max(most, len(distinct[0])), self._padding)
        blank = distinct[0][:0]
        numbers = {id(batch): number for number, batch in enumerate(distinct)}
        known = _filled([*distinct, blank], max(most, *map(len, distinct)), self._padding)
        chosen = [len(distinct) if batch is None else numbers[id(batch)] for batch in batches]
        return known.index_select(0, torch.tensor(chosen, device=known.device))

    @property
    def _padding(self) -> int:
        return len(self.feeds[0].hidden) - 1


def _order_of(feed: Feed) -> tuple[bytes, int]:
    """Heads of one order of data share their batches."""
    return feed.key, feed.config.seed


def _filled(batches: Sequence[Tensor], num_windows: int, padding: int) -> Tensor:
    """`batches` [b, T] as one [len(batches), B, T]."""
    if len(batches) == 1 and len(batches[0]) == num_windows:
        return batches[0].unsqueeze(0)
    rows = batches[0].new_full((len(batches), num_windows, max(batch.shape[1] for batch in batches)), padding)
    for place, batch in enumerate(batches):
        rows[place, : batch.shape[0], : batch.shape[1]] = batch
    return rows
