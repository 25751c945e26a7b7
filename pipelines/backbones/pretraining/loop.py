"""The loop of a masked pretraining. B faces of a step, over all processes; L patches of a face.

Every random number of a step comes from (seed, epoch, step) and is drawn for all B faces at once, so that neither the
number of processes nor that of accumulated batches changes what is seen, and a checkpoint needs no generator's state.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones.mae import draw_orders
from extract.backbones.transforms import normalise
from pipelines.backbones.augmentation import CropDraws, random_resized_crop
from pipelines.backbones.data import FaceBatch, first_reason, in_chunks, progress_of_first
from pipelines.backbones.precision import autocast, reproducible
from pipelines.backbones.pretraining.pretrain_state import (
    EpochLog,
    PretrainContext,
    PretrainState,
    check_finite,
    save_finite,
    step_faces,
)
from pipelines.backbones.stopping import StopAsked, Stopper, stopper
from pipelines.config import PretrainConfig
from pipelines.fitting.checkpoint import Checkpoints
from pipelines.fitting.optimise import cosine_lr
from pipelines.progress import Advance

FACES_PER_LR = 256  # base_lr is for so many faces per step
HELD_OUT = 2**31  # in the place of an epoch's number: the masks of held-out faces are those of no epoch
CHECK_STEPS = 20  # asking a GPU whether the loss is finite makes it wait


def run_epochs(
    context: PretrainContext,
    state: PretrainState,
    checkpoints: Checkpoints,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> None:
    """Trains until all epochs are over. Ctrl-C and SIGTERM take effect after the step, once the checkpoint is written.

    Raises:
        ValueError: the loss stops being a finite number, or no face can be read; the last checkpoint stays.
    """
    with reproducible(context.device), stopper(context.world) as asked:
        model = context.world.wrap(context.model)
        while state.epoch < context.config.epochs:
            log = _run_epoch(context, model, state, checkpoints, asked)
            if on_epoch is not None and context.world.is_first:
                on_epoch(log)
        save_finite(context, state, checkpoints)


def _run_epoch(
    context: PretrainContext, model: nn.Module, state: PretrainState, checkpoints: Checkpoints, asked: Stopper
) -> EpochLog:
    epoch, begin, config = state.epoch + 1, time.perf_counter(), context.config
    steps = context.steps(epoch)
    done = sum(map(len, steps[: state.step]))
    total = sum(map(len, steps)) + len(context.held_out)
    batches = context.faces.batches(part for rows in steps[state.step :] for part in own_rows(context, rows))
    with progress_of_first(context.world, f"epoch {epoch}/{config.epochs}", total, done) as advance:
        for rows in steps[state.step :]:
            lr = lr_at(config, context.train, state.epoch + (state.step + 0.5) / len(steps))
            train_step(context, model, state, rows, batches, lr, advance)
            state.step += 1
            if state.step % CHECK_STEPS == 0 or context.device.type == "cpu":
                check_finite(context, state, checkpoints.path)
            if checkpoints.is_due:
                save_finite(context, state, checkpoints)
            try:
                asked.check(state.epoch * len(steps) + state.step)
            except StopAsked:
                save_finite(context, state, checkpoints)
                asked.interrupts.leave()
        held_out = held_out_loss(context, advance)
    check_finite(context, state, checkpoints.path, *state.model.parameters())
    loss, count = state.sums.tolist()
    if not count:
        raise ValueError(f"{context.name}: no face to train on can be read; {first_reason(context.faces)}")
    log = EpochLog(
        epoch=epoch,
        num_epochs=config.epochs,
        lr=lr_at(config, context.train, epoch),
        loss=loss / count,
        held_out=held_out,
        duration_s=time.perf_counter() - begin,
    )
    state.history.append(log)
    state.epoch, state.step = epoch, 0
    state.sums.zero_()
    return log


def train_step(
    context: PretrainContext,
    model: nn.Module,
    state: PretrainState,
    rows: np.ndarray,
    batches: Iterator[FaceBatch],
    lr: float,
    advance: Advance,
) -> None:
    """One step on the mean loss of all faces of `rows` that can be read.

    Gradients are sums over faces until the number of faces is known, that of all processes and batches.
    """
    world = context.world
    drawn = Draws.draw(context.config, len(rows), context.model.num_patches, context.rng(state.epoch + 1, state.step))
    places = _places(context, len(rows))
    total, count = torch.zeros((), dtype=torch.float64, device=context.device), 0
    state.optimiser.zero_grad()
    for number, own in enumerate(places):
        batch = next(batches)
        count += len(batch.rows)
        is_last = number == len(places) - 1
        if len(batch.rows) or world.size > 1:
            with contextlib.nullcontext() if is_last else world.no_sync(model):
                here = drawn.at(own[batch.places])
                loss = face_losses(context, model, augmented(context, batch, here.crop), here.order).sum()
                loss.backward()
            total += loss.detach()
        advance(batch.num_asked * world.size)
    count = round(float(world.mean(torch.tensor(count, dtype=torch.float64))) * world.size)
    if count:
        gradients = [p.grad for p in state.optimiser.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, world.size / count)  # wrapped models take the mean over processes
        state.optimiser.clip(context.config.grad_clip)
        state.optimiser.step(lr)
    state.sums[0] += world.mean(total) * world.size
    state.sums[1] += count


@dataclass(frozen=True, slots=True)
class Draws:
    """What chance decides about each of B faces: the `order` [B, L] of its patches, and its `crop`."""

    order: np.ndarray
    crop: CropDraws

    @classmethod
    def draw(cls, config: PretrainConfig, num_faces: int, num_patches: int, rng: np.random.Generator) -> "Draws":
        order = draw_orders(num_faces, num_patches, rng)
        return cls(order, CropDraws.draw(num_faces, rng, (config.crop_min_area, 1.0), flip=config.flip))

    def at(self, places: np.ndarray) -> "Draws":
        return Draws(self.order[places], self.crop.part(places))


def augmented(context: PretrainContext, batch: FaceBatch, crop: CropDraws) -> Tensor:
    """[B, S, S, 3] the faces of `batch`, cropped and mirrored."""
    crop = crop.to(context.device)
    if context.config.crop_min_area < 1:
        return random_resized_crop(batch.faces, crop)
    return torch.where(crop.flip[:, None, None, None], batch.faces.flip(2), batch.faces)


def face_losses(context: PretrainContext, model: nn.Module, faces: Tensor, order: np.ndarray) -> Tensor:
    """[B] the loss of each of `faces` [B, S, S, 3], masked by `order` [B, L]."""
    pixels = normalise(faces, context.faces.preprocessing, torch.float32)
    with autocast(context.device, context.precision):
        losses: Tensor = model(pixels, torch.from_numpy(order).to(context.device, non_blocking=True))
    return losses


@torch.no_grad()
def held_out_loss(context: PretrainContext, advance: Advance) -> float | None:
    """The mean loss of the held-out faces, unchanged and always under the same masks; None where there are none."""
    if not len(context.held_out):
        return None
    rng = np.random.default_rng([context.config.seed, HELD_OUT])
    orders = draw_orders(len(context.held_out), context.model.num_patches, rng)
    chunks = in_chunks(np.arange(len(context.held_out)), context.config.batch_size)
    own = [context.world.part(chunk) for chunk in chunks]
    sums = torch.zeros(2, dtype=torch.float64)
    for places, batch in zip(own, context.faces.batches(context.held_out[part] for part in own), strict=True):
        order = orders[places[batch.places]]
        if len(order):
            losses = face_losses(context, context.model, batch.faces, order)
            sums += torch.tensor([float(losses.double().sum()), len(order)], dtype=torch.float64)
        advance(batch.num_asked * context.world.size)
    loss, count = context.world.mean(sums).tolist()
    return loss / count if count else None


def own_rows(context: PretrainContext, rows: np.ndarray) -> list[np.ndarray]:
    """This process's rows of each batch of a step."""
    return [rows[own] for own in _places(context, len(rows))]


def _places(context: PretrainContext, num_faces: int) -> list[np.ndarray]:
    """For each accumulated batch of a step, the places in the step that are this process's."""
    batches = np.array_split(np.arange(num_faces), min(context.config.accumulate, num_faces))
    return [context.world.part(batch) for batch in batches]


def lr_at(config: PretrainConfig, train: np.ndarray, progress: float) -> float:
    """The learning rate after `progress` epochs; faces per step are counted as they are where there are few."""
    lr = config.base_lr * min(step_faces(config), len(train)) / FACES_PER_LR
    return cosine_lr(progress, lr=lr, total=config.epochs, warmup=config.warmup_epochs)
