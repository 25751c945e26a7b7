"""One step of training: faces changed and mixed, the loss over all processes' outputs, one move of the weights.

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
from pipelines.backbones.changes import Changes, erase, mirror, relight
from pipelines.backbones.data import FaceBatch, Group
from pipelines.backbones.distributed import World
from pipelines.backbones.finetuning.course import Course
from pipelines.backbones.finetuning.mixup import draw_share, mix_faces, mix_targets, partners
from pipelines.backbones.finetuning.state import State
from pipelines.backbones.precision import autocast

LEAST = 2  # faces of a process: batch normalisation needs two


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`rows` [B] that pass through together, this process's places among them, and what is drawn for all of them.

    `weight` is its part of the step's faces; `is_last` says that the step ends with it.
    """

    rows: np.ndarray
    own: slice
    changes: Changes
    share: float
    seed: int
    weight: float
    is_last: bool


def parts_of(course: Course, steps: Sequence[Sequence[np.ndarray]], epoch: int, first: int = 0) -> Iterator[Part]:
    """The parts of an epoch's `steps` from the step `first` on, each drawn from (seed, epoch, step) alone."""
    for index in range(first, len(steps)):
        rng = np.random.default_rng([course.config.seed, epoch, 1 + index])
        total = sum(map(len, steps[index]))
        for number, rows in enumerate(steps[index], 1):
            yield Part(
                rows=rows,
                own=own_places(course.world, len(rows)),
                changes=Changes.draw(course.config, len(rows), rng),
                share=draw_share(course.config.mixup, rng),
                seed=int(rng.integers(2**62)),
                weight=len(rows) / total,
                is_last=number == len(steps[index]),
            )


def own_places(world: World, num_faces: int) -> slice:
    """This process's places of a batch: whole pairs of neighbours, for mixup."""
    pairs = world.part(np.arange((num_faces + 1) // 2))
    return slice(2 * pairs[0], min(2 * pairs[-1] + 2, num_faces)) if len(pairs) else slice(num_faces, num_faces)


def batches_of(course: Course, parts: Iterable[Part]) -> Generator[tuple[Part, FaceBatch], None, None]:
    """Each part with this process's faces of it, decoded ahead."""
    waiting: deque[Part] = deque()

    def groups() -> Iterator[Group]:
        for part in parts:
            waiting.append(part)
            yield part.rows[part.own], part.changes.part(part.own)

    for batch in course.faces.batches(groups()):
        yield waiting.popleft(), batch


def take_part(course: Course, state: State, model: nn.Module, part: Part, batch: FaceBatch) -> bool:
    """Adds the gradients of one part of a step, and its losses to the sums; `model` is the one of all processes.

    Returns False for a part that added nothing, for fewer than two of its faces can be read. Where other processes
    wait, such a process goes through the motions with faces that do not count.
    """
    if len(batch.rows) < LEAST and course.world.size == 1:
        return False
    with contextlib.nullcontext() if part.is_last else course.world.no_sync(model):
        torch.manual_seed(part.seed + course.world.rank)
        outputs, readable = gathered(course, model, part, batch)
        total, losses = loss_of(course, part, outputs, readable)
        (total * (part.weight * course.world.size)).backward()
    values = torch.stack([total.detach(), *(losses[task] for task in course.tasks)])
    state.sums[:-1] += part.weight * values
    state.sums[-1] += part.weight
    return True


def move(course: Course, state: State, lr: float) -> None:
    """One step of the optimiser with the gradients that have been added up, and the averages after it."""
    course.world.unscale(course.loss.parameters())
    state.optimiser.clip(course.config.grad_clip)
    state.optimiser.step(lr)
    state.optimiser.zero_grad()
    state.num_steps += 1
    if state.ema is not None:
        state.ema.update(state.num_steps)


def gathered(course: Course, model: nn.Module, part: Part, batch: FaceBatch) -> tuple[dict[str, Tensor], Tensor]:
    """The outputs [B, K] of each task of all processes, and which faces [B] could be read; others' are zeros."""
    places = batch.places
    if len(batch.rows) < LEAST:
        side = course.faces.preprocessing.size_px
        pixels, places = torch.zeros(LEAST, 3, side, side, device=course.device), places[:0]
    else:
        pixels = mix_faces(changed_pixels(course, batch), places, part.share)
    with autocast(course.device, course.precision):
        outputs = model(pixels)
    values = torch.cat([outputs[task] for task in course.tasks], dim=-1)[: len(places)]
    own = torch.cat([values, values.new_ones(len(values), 1)], dim=-1)
    count = part.own.stop - part.own.start
    if len(places) < count:
        index = torch.from_numpy(places).to(course.device)
        own = own.new_zeros(count, own.shape[1]).index_copy(0, index, own)
    every = course.world.gather(own)
    pieces = every[:, :-1].split(course.model.sizes, dim=-1)
    return dict(zip(course.tasks, pieces, strict=True)), every[:, -1].detach() > 0


def changed_pixels(course: Course, batch: FaceBatch) -> Tensor:
    """The faces of `batch` as input [b, 3, S, S], changed as its changes say."""
    changes, preprocessing = batch.changes, course.faces.preprocessing
    assert changes is not None, "they were asked for"
    pixels = normalise(mirror(batch.faces, changes), preprocessing, torch.float32)
    return erase(relight(pixels, changes, preprocessing), changes)


def loss_of(
    course: Course, part: Part, outputs: dict[str, Tensor], readable: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise and each task's, over the readable faces of all processes."""
    rows = torch.from_numpy(part.rows).to(course.device, non_blocking=True)
    targets = course.targets.take(rows).hide(~readable)
    stacked = {task: output.unsqueeze(0) for task, output in outputs.items()}  # the losses are those of many heads
    if part.share == 1.0:
        return _loss(course, stacked, targets)
    one, other = mix_targets(targets, partners(readable), part.share, course.loss.tasks.values())
    (total, losses), (total2, losses2) = _loss(course, stacked, one), _loss(course, stacked, other)
    mixed = {task: torch.lerp(losses2[task], losses[task], part.share) for task in course.tasks}
    return torch.lerp(total2, total, part.share), mixed


def _loss(course: Course, stacked: dict[str, Tensor], targets: Labels) -> tuple[Tensor, dict[str, Tensor]]:
    (total,), losses = course.loss(stacked, targets.map(lambda values: values.unsqueeze(0)))
    return total, {task: loss[0] for task, loss in losses.items()}
