"""One training step of stacked heads: as it comes, or on a GPU as one CUDA graph.

One small step keeps a GPU busy for a fraction of the time that the host takes to start its kernels; a graph starts them
all at once. Letters: M stacked heads, N frames, B windows, T steps.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from heads.labels import Labels
from heads.model import Head, ProgressiveHead, dropout_rngs
from heads.penalties import HeadLoss
from pipelines.label_table import below_each_other
from pipelines.training.normal_inputs import reader_for
from pipelines.training.optimise import StackedAdamW, limits_of
from pipelines.training.pieces import in_pieces
from pipelines.training.window_sampler import WindowSource

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # of rows, active heads and rates
WARM_UP = 3  # steps on a stream of their own before a capture, as torch asks for


class TrainStep:
    """Trains M heads on one batch each; `sources[m]` says which labels head m may see.

    `graphs` is what a GPU runs; with None the host starts every kernel there too.
    """

    def __init__(
        self, model: nn.Module, loss: HeadLoss, optimiser: StackedAdamW, sources: Sequence[WindowSource]
    ) -> None:
        self.model, self.loss, self.optimiser = model, loss, optimiser
        self.tasks, self.reader, self.device = sources[0].tasks, sources[0].reader, sources[0].hidden.device
        self._inputs = reader_for(model, self.reader)
        self._rngs = dropout_rngs(model)  # looked for once: a twentieth of the step of a small head
        by_key = {source.key: source for source in sources}
        places = {key: place for place, key in enumerate(by_key)}
        self._hidden = torch.stack([source.hidden for source in by_key.values()])
        self._source_of = torch.tensor([places[source.key] for source in sources], device=self.device)
        # One table below the other: those of different heads may differ.
        tables = list({id(source.targets): source.targets for source in sources}.values())
        starts = {id(table): len(self._hidden[0]) * number for number, table in enumerate(tables)}
        self._targets = tables[0] if len(tables) == 1 else below_each_other(tables)
        self._starts = torch.tensor([starts[id(source.targets)] for source in sources], device=self.device)
        self._subjects: Tensor | None = None
        if loss.adversary is not None:
            self._subjects = torch.from_numpy(sources[0].dataset.subjects).to(self.device)
        self._limits = limits_of([source.config.grad_clip for source in sources], self.device)
        self._in_bfloat16 = sources[0].config.precision == "bfloat16"
        # A graph cannot read files.
        self.graphs = Graphs() if self.device.type == "cuda" and not self.reader.is_stored else None

    def __call__(self, rows: Tensor, active: Sequence[bool], rates: Sequence[float]) -> Tensor:
        """[1 + K, M]: the loss of each head and of each of its tasks, before the step.

        Args:
            rows: of the frames table [M, B, T], or [1, B, T] where all heads see the same.
            active: heads that have a batch; the others stand still.
            rates: learning rate of each head.
        """
        mask = sent(active, self.device)
        if self.graphs is not None:
            learning = tuple(p.requires_grad for p in self.optimiser.parameters)
            return self.graphs(self.on_device, learning, rows, mask, sent(rates, self.device))
        losses = self.backward(rows, mask)
        self.optimiser.step(rates, active)
        return losses

    def on_device(self, rows: Tensor, active: Tensor, rates: Tensor) -> Tensor:
        """The whole step without a word from the host, which is what a CUDA graph can hold."""
        losses = self.backward(rows, active)
        self.optimiser.step_on_device(rates, active)
        return losses

    def backward(self, rows: Tensor, active: Tensor) -> Tensor:
        """Losses [1 + K, M] and, clipped, the gradients of every head's parameters."""
        for rng in self._rngs:
            rng.advance(active)
        # The cache of cast weights would outlive a capture; without one each weight is cast once anyhow.
        keeps = self.graphs is None
        with (
            torch.autocast(self.device.type, torch.bfloat16, cache_enabled=keeps)
            if self._in_bfloat16
            else nullcontext()
        ):
            model = cast(Head | ProgressiveHead, self.model)
            outputs, features = in_pieces(model, self._inputs(rows), with_trunks=self.loss.reads_trunks)
        total, parts = self.loss(outputs, self.targets(rows), features, self.subjects(rows))
        self.optimiser.zero_grad()
        total.sum().backward()
        self.optimiser.clip(self._limits)
        return torch.stack([total.detach(), *(parts[task] for task in self.tasks)])

    def targets(self, rows: Tensor) -> Labels:
        """Labels of `rows` [M or 1, B, T], each head's hidden ones masked."""
        places = self.reader.in_table(rows)
        starts = self._starts if len(self._hidden) > 1 else self._starts[:1]
        return self._targets.take(places + starts[:, None, None]).hide(self._is_hidden(places))

    def subjects(self, rows: Tensor) -> Tensor | None:
        """The numbers of the subjects of `rows` [M or 1, B, T], -1 for each head's hidden ones; None where the losses
        do not ask for them."""
        if self._subjects is None:
            return None
        places = self.reader.in_table(rows)
        return self._subjects[places].masked_fill(self._is_hidden(places), -1)

    def _is_hidden(self, places: Tensor) -> Tensor:
        sources = self._source_of if len(self._hidden) > 1 else self._source_of[:1]
        return self._hidden[sources[:, None, None], places]


def sent(values: Sequence[float] | Sequence[bool], device: torch.device) -> Tensor:
    """`values` [M] on the device; a GPU is not waited for, as it would be for memory that is not pinned."""
    host = torch.tensor(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A step as a graph: it reads `rows`, `active` and `rates`, and leaves its losses in `losses`."""

    graph: "torch.cuda.CUDAGraph"
    rows: Tensor
    active: Tensor
    rates: Tensor
    losses: Tensor


class Graphs:
    """The graphs of a step, one for each shape of its rows and each set of parameters that learn.

    They do not hold the step: in a circle its weights, and the memory of its graphs, would outlive the stack until
    Python looks for circles.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Captured | None] = {}

    def __call__(self, run: Step, learning: tuple[bool, ...], rows: Tensor, active: Tensor, rates: Tensor) -> Tensor:
        """What `run` of the three tensors returns; `learning` says which parameters it moves."""
        key = (rows.shape, learning)
        if key not in self._known:
            self._known[key] = self._capture(run, rows, active, rates)
        captured = self._known[key]
        if captured is None:
            return run(rows, active, rates)
        captured.rows.copy_(rows)
        captured.active.copy_(active)
        captured.rates.copy_(rates)
        captured.graph.replay()
        return captured.losses.clone()

    def _capture(self, run: Step, rows: Tensor, active: Tensor, rates: Tensor) -> Captured | None:
        """The step for inputs of these shapes, nothing of it carried out; None where it cannot be captured.

        Raises:
            torch.OutOfMemoryError: without a graph the step would not fit either.
        """
        device, current = rows.device, torch.cuda.current_stream(rows.device)
        inputs = rows.clone(), torch.zeros_like(active), rates.clone()  # nobody is active: nothing moves
        try:
            beside = torch.cuda.Stream(device)
            beside.wait_stream(current)
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    run(*inputs)
            current.wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # On a stream of this device: torch's own for captures is on the device of the first one. thread_local:
            # other threads may use the GPU meanwhile, which "global" takes for an error of this capture.
            with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                losses = run(*inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # where a capture cannot be ended, torch goes on with its stream
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"training continues without a CUDA graph, and slower: {reason}", stacklevel=2)
            return None
        return Captured(graph, *inputs, losses)
