"""One step of training: faces augmented and mixed, the loss over all processes' outputs, one optimiser step.

B faces of a batch over all processes, b those of this one, K outputs of all tasks.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones.build import normalise
from heads.labels import Labels
from pipelines.backbones.augmentation import Augmentation, colour_jitter, erase, hflip
from pipelines.backbones.data import FaceBatch, RowGroup
from pipelines.backbones.distributed import World
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.finetune_state import FinetuneState
from pipelines.backbones.finetuning.mixup import draw_share, mix_faces, mix_targets, partners
from pipelines.backbones.precision import autocast

LEAST = 2  # faces of a process: batch normalisation needs two


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """`rows` [B] that pass through together, this process's places among them, and what is drawn for all of them.

    `weight` is its share of the step's faces; `is_last` says that the step ends with it.
    """

    rows: np.ndarray
    own: slice
    augmentation: Augmentation
    share: float
    seed: int
    weight: float
    is_last: bool


def draw_micro_batches(
    context: TrainContext, steps: Sequence[Sequence[np.ndarray]], epoch: int, first: int = 0
) -> Iterator[MicroBatch]:
    """The micro-batches of an epoch's `steps` from the step `first` on, each drawn from (seed, epoch, step) alone."""
    for index in range(first, len(steps)):
        rng = np.random.default_rng([context.config.seed, epoch, 1 + index])
        total = sum(map(len, steps[index]))
        for number, rows in enumerate(steps[index], 1):
            yield MicroBatch(
                rows=rows,
                own=own_places(context.world, len(rows)),
                augmentation=Augmentation.draw(context.config, len(rows), rng),
                share=draw_share(context.config.mixup, rng),
                seed=int(rng.integers(2**62)),
                weight=len(rows) / total,
                is_last=number == len(steps[index]),
            )


def own_places(world: World, num_faces: int) -> slice:
    """This process's places of a batch: whole pairs of neighbours, for mixup."""
    pairs = world.part(np.arange((num_faces + 1) // 2))
    return slice(2 * pairs[0], min(2 * pairs[-1] + 2, num_faces)) if len(pairs) else slice(num_faces, num_faces)


def batches_of(
    context: TrainContext, micro_batches: Iterable[MicroBatch]
) -> Generator[tuple[MicroBatch, FaceBatch], None, None]:
    """Each micro-batch with this process's faces of it, decoded ahead."""
    waiting: deque[MicroBatch] = deque()

    def groups() -> Iterator[RowGroup]:
        for micro_batch in micro_batches:
            waiting.append(micro_batch)
            yield micro_batch.rows[micro_batch.own], micro_batch.augmentation.part(micro_batch.own)

    for batch in context.faces.batches(groups()):
        yield waiting.popleft(), batch


def backward(
    context: TrainContext, state: FinetuneState, model: nn.Module, micro_batch: MicroBatch, batch: FaceBatch
) -> bool:
    """Adds the gradients of one micro-batch, and its losses to the sums; `model` is the one of all processes.

    Returns False for a micro-batch that added nothing, because fewer than two of its faces can be read. Where other
    processes wait, such a process computes with faces that do not count.
    """
    if len(batch.rows) < LEAST and context.world.size == 1:
        return False
    with contextlib.nullcontext() if micro_batch.is_last else context.world.no_sync(model):
        torch.manual_seed(micro_batch.seed + context.world.rank)
        outputs, readable = gathered(context, model, micro_batch, batch)
        total, losses = loss_of(context, micro_batch, outputs, readable)
        (total * (micro_batch.weight * context.world.size)).backward()
    values = torch.stack([total.detach(), *(losses[task] for task in context.tasks)])
    state.sums[:-1] += micro_batch.weight * values
    state.sums[-1] += micro_batch.weight
    return True


def optimiser_step(context: TrainContext, state: FinetuneState, lr: float) -> None:
    """One step of the optimiser with the gradients that have been added up, and the averages after it."""
    context.world.unscale(context.loss.parameters())
    state.optimiser.clip(context.config.grad_clip)
    state.optimiser.step(lr)
    state.optimiser.zero_grad()
    state.num_steps += 1
    if state.ema is not None:
        state.ema.update(state.num_steps)


def gathered(
    context: TrainContext, model: nn.Module, micro_batch: MicroBatch, batch: FaceBatch
) -> tuple[dict[str, Tensor], Tensor]:
    """The outputs [B, K] of each task of all processes, and which faces [B] could be read; others' are zeros."""
    places = batch.places
    if len(batch.rows) < LEAST:
        side = context.faces.preprocessing.size_px
        pixels, places = torch.zeros(LEAST, 3, side, side, device=context.device), places[:0]
    else:
        pixels = mix_faces(augmented_pixels(context, batch), places, micro_batch.share)
    with autocast(context.device, context.precision):
        outputs = model(pixels)
    values = torch.cat([outputs[task] for task in context.tasks], dim=-1)[: len(places)]
    own = torch.cat([values, values.new_ones(len(values), 1)], dim=-1)
    count = micro_batch.own.stop - micro_batch.own.start
    if len(places) < count:
        index = torch.from_numpy(places).to(context.device)
        own = own.new_zeros(count, own.shape[1]).index_copy(0, index, own)
    every = context.world.gather(own)
    pieces = every[:, :-1].split(context.model.sizes, dim=-1)
    return dict(zip(context.tasks, pieces, strict=True)), every[:, -1].detach() > 0


def augmented_pixels(context: TrainContext, batch: FaceBatch) -> Tensor:
    """The faces of `batch` as input [b, 3, S, S], augmented as `batch.augmentation` says."""
    augmentation, preprocessing = batch.augmentation, context.faces.preprocessing
    assert augmentation is not None, "they were asked for"
    pixels = normalise(hflip(batch.faces, augmentation), preprocessing, torch.float32)
    return erase(colour_jitter(pixels, augmentation, preprocessing), augmentation)


def loss_of(
    context: TrainContext, micro_batch: MicroBatch, outputs: dict[str, Tensor], readable: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise and each task's, over the readable faces of all processes."""
    rows = torch.from_numpy(micro_batch.rows).to(context.device, non_blocking=True)
    targets = context.targets.take(rows).hide(~readable)
    stacked = {task: output.unsqueeze(0) for task, output in outputs.items()}  # the losses are those of many heads
    if micro_batch.share == 1.0:
        return _loss(context, stacked, targets)
    one, other = mix_targets(targets, partners(readable), micro_batch.share, context.loss.tasks.values())
    (total, losses), (total2, losses2) = _loss(context, stacked, one), _loss(context, stacked, other)
    mixed = {task: torch.lerp(losses2[task], losses[task], micro_batch.share) for task in context.tasks}
    return torch.lerp(total2, total, micro_batch.share), mixed


def _loss(context: TrainContext, stacked: dict[str, Tensor], targets: Labels) -> tuple[Tensor, dict[str, Tensor]]:
    (total,), losses = context.loss(stacked, targets.map(lambda values: values.unsqueeze(0)))
    return total, {task: loss[0] for task, loss in losses.items()}
