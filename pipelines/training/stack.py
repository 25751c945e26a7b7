"""The heads of a stack that are still in training: their weights, optimiser and data, and all of it as one state.

Place m of a stack is head m of its model, of its losses and of its optimiser. Letters: M stacked heads, B windows,
T steps.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from heads.model import dropout_rngs, take_heads
from heads.penalties import HeadLoss
from pipelines.fitting.checkpoint import Resumed
from pipelines.metrics.predictions import Predictions
from pipelines.training.dataset import PredictionPlan
from pipelines.training.optimise import StackedAdamW, lr_at
from pipelines.training.predict import predict_heads
from pipelines.training.step import TrainStep
from pipelines.training.window_sampler import WindowSampler, WindowSource

SaveCallback = Callable[[Callable[[], Resumed]], None]


class Stack:
    """M heads; head m learns from `sources[m]` and predicts the rows of `plans[m]`.

    A stack stands at `num_steps`, with the losses [1 + K, M] summed since the last evaluation.
    """

    def __init__(
        self, model: nn.Module, loss: HeadLoss, sources: Sequence[WindowSource], plans: Sequence[PredictionPlan]
    ) -> None:
        self.model, self.loss, self.sources, self.plans = model, loss, list(sources), list(plans)
        self.places = list(range(len(sources)))  # of each head among those the stack began with
        for rng in dropout_rngs(model):
            rng.to(sources[0].hidden.device)
        parameters = [*model.parameters(), *loss.parameters()]
        self.optimiser = StackedAdamW(parameters, [source.config.weight_decay for source in sources])
        self._samplers = {_order_of(source): WindowSampler(source) for source in sources}
        self.step = TrainStep(self.model, self.loss, self.optimiser, self.sources)
        self.num_steps = 0
        self._sums, self._summed = torch.zeros(0), 0
        self._clear_sums()

    def run_until(self, step: int, save: SaveCallback | None = None) -> list[dict[str, float]]:
        """Trains up to `step`; the means of each head's loss and of each task's since the last evaluation.

        Waits for the device once. `save` is called between two steps with a function that returns the stack's state.
        """
        self.model.train()
        active = [True] * len(self.sources)
        for index in range(self.num_steps, step):
            batches = {key: sampler.batch() for key, sampler in self._samplers.items()}
            rates = [lr_at(source.config, index + 0.5) for source in self.sources]
            rows = self._rows([batches[_order_of(source)] for source in self.sources])
            if self.step.reader.is_stored:
                self._prefetch(rows)
            self._sums += self.step(rows, active, rates)
            self.num_steps, self._summed = index + 1, self._summed + 1
            if save is not None:
                save(self._state)
        means = (self._sums / max(self._summed, 1)).T.tolist()
        self._clear_sums()
        names = ("loss", *(f"loss.{task}" for task in self.sources[0].tasks))
        return [dict(zip(names, values, strict=True)) for values in means]

    def predict(self) -> list[Predictions]:
        """Each head's predictions of the rows that choose its weights; heads that share these are run together."""
        found: dict[int, Predictions] = {}
        by_plan: dict[int, list[int]] = {}
        for place, plan in enumerate(self.plans):
            by_plan.setdefault(id(plan), []).append(place)
        source = self.sources[0]
        for places in by_plan.values():
            model = self.model if len(places) == len(self.plans) else take_heads(self.model, places)
            predicted = predict_heads(model, source.predicted, source.reader, self.plans[places[0]])
            found |= dict(zip(places, predicted, strict=True))
        return [found[place] for place in range(len(self.plans))]

    def keep(self, places: Sequence[int]) -> None:
        """Keeps only these heads; they continue exactly as they would have."""
        self.model, self.loss = take_heads(self.model, places), self.loss.select(places)
        self.optimiser = self.optimiser.select([*self.model.parameters(), *self.loss.parameters()], places)
        self.sources, self.plans = [self.sources[place] for place in places], [self.plans[place] for place in places]
        self.places = [self.places[place] for place in places]
        orders = set(map(_order_of, self.sources))
        self._samplers = {key: sampler for key, sampler in self._samplers.items() if key in orders}
        self.step = TrainStep(self.model, self.loss, self.optimiser, self.sources)
        self._clear_sums()

    def load(self, resumed: Resumed) -> None:
        """Resumes from what `_state` gave."""
        tensors, about = resumed
        self.keep(about["places"])
        with torch.no_grad():
            for name, value in self._tensors().items():
                value.copy_(tensors[name])
        self.optimiser.recount()
        for place, (source, used) in enumerate(zip(self.sources, about["used"], strict=True)):
            self._samplers[_order_of(source)].load((tensors[f"orders.{place}"], used))
        self.num_steps, self._summed = about["num_steps"], about["summed"]
        self._sums = tensors["sums"].to(self.sources[0].hidden.device)

    def _prefetch(self, rows: Tensor) -> None:
        """Lets the inputs of `rows` and of the step behind it be read while this one computes."""
        self.step.reader.prefetch(rows)
        batches = {key: sampler.next_batch() for key, sampler in self._samplers.items()}
        following = [batch for source in self.sources if (batch := batches[_order_of(source)]) is not None]
        if len(following) == len(self.sources):
            self.step.reader.prefetch(self._rows(following))

    def _state(self) -> Resumed:
        """What `load` takes."""
        orders = [self._samplers[_order_of(source)].state() for source in self.sources]
        tensors = {f"orders.{place}": generator for place, (generator, _) in enumerate(orders)}
        about = {
            "num_steps": self.num_steps,
            "summed": self._summed,
            "places": list(self.places),
            "used": [used for _, used in orders],
        }
        return {**self._tensors(), **tensors, "sums": self._sums}, about

    def _clear_sums(self) -> None:
        shape = 1 + len(self.sources[0].tasks), len(self.sources)
        self._sums, self._summed = torch.zeros(shape, device=self.sources[0].hidden.device), 0

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that a step moves, by name: the tensors themselves, not copies."""
        lists = {
            "parameters": [p.detach() for p in self.optimiser.parameters],
            "means": self.optimiser.means,
            "squares": self.optimiser.squares,
            "steps": self.optimiser.steps,
            "noises": [rng.steps for rng in dropout_rngs(self.model)],
        }
        return {f"{kind}.{place}": value for kind, values in lists.items() for place, value in enumerate(values)}

    def _rows(self, batches: Sequence[Tensor]) -> Tensor:
        """[M, B, T] rows, or [1, B, T] where all heads see the same."""
        distinct = list({id(batch): batch for batch in batches}.values())
        known = _side_by_side(distinct, self._padding)
        if len(distinct) == 1:
            return known
        numbers = {id(batch): number for number, batch in enumerate(distinct)}
        return known.index_select(0, torch.tensor([numbers[id(batch)] for batch in batches], device=known.device))

    @property
    def _padding(self) -> int:
        return len(self.sources[0].hidden) - 1


def _order_of(source: WindowSource) -> tuple[bytes, int]:
    """Heads of one order of data share their batches."""
    return source.key, source.config.seed


def _side_by_side(batches: Sequence[Tensor], padding: int) -> Tensor:
    """`batches` [B, T] as one [len(batches), B, T]; the windows of folds may differ in length."""
    if len({batch.shape for batch in batches}) == 1:
        return torch.stack(list(batches))
    rows = batches[0].new_full((len(batches), len(batches[0]), max(batch.shape[1] for batch in batches)), padding)
    for place, batch in enumerate(batches):
        rows[place, :, : batch.shape[1]] = batch
    return rows
