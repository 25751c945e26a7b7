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
from pipelines.backbones.changes import CropDraws, random_resized_crop
from pipelines.backbones.data import FaceBatch, first_reason, in_chunks, progress_of_first
from pipelines.backbones.precision import autocast, reproducible
from pipelines.backbones.pretraining.state import Course, Note, State, check_finite, save_finite, step_faces
from pipelines.backbones.stopping import StopAsked, Stopper, stopper
from pipelines.config import PretrainConfig
from pipelines.fitting.checkpoint import Checkpoints
from pipelines.fitting.optimise import cosine_lr
from pipelines.progress import Advance

FACES_PER_LR = 256  # base_lr is for so many faces a step
HELD_OUT = 2**31  # in the place of an epoch's number: the masks of held-out faces are those of no epoch
CHECK_STEPS = 20  # asking a GPU whether the loss is finite makes it wait


Watch = Callable[[Note], None]


def run_epochs(course: Course, state: State, checkpoints: Checkpoints, watch: Watch | None = None) -> None:
    """Trains until all epochs are over. Ctrl-C and SIGTERM take effect after the step, once the checkpoint is written.

    Raises:
        ValueError: the loss stops being a finite number, or no face can be read; the last checkpoint stays.
    """
    with reproducible(course.device), stopper(course.world) as asked:
        model = course.world.wrap(course.model)
        while state.epoch < course.config.epochs:
            note = _run_epoch(course, model, state, checkpoints, asked)
            if watch is not None and course.world.is_first:
                watch(note)
        save_finite(course, state, checkpoints)


def _run_epoch(course: Course, model: nn.Module, state: State, checkpoints: Checkpoints, asked: Stopper) -> Note:
    epoch, begin, config = state.epoch + 1, time.perf_counter(), course.config
    steps = course.steps(epoch)
    done = sum(map(len, steps[: state.step]))
    total = sum(map(len, steps)) + len(course.held_out)
    feed = course.faces.batches(part for rows in steps[state.step :] for part in parts_of(course, rows))
    with progress_of_first(course.world, f"epoch {epoch}/{config.epochs}", total, done) as advance:
        for rows in steps[state.step :]:
            lr = lr_at(config, course.train, state.epoch + (state.step + 0.5) / len(steps))
            train_step(course, model, state, rows, feed, lr, advance)
            state.step += 1
            if state.step % CHECK_STEPS == 0 or course.device.type == "cpu":
                check_finite(course, state, checkpoints.path)
            if checkpoints.is_due:
                save_finite(course, state, checkpoints)
            try:
                asked.check(state.epoch * len(steps) + state.step)
            except StopAsked:
                save_finite(course, state, checkpoints)
                asked.interrupts.leave()
        held_out = held_out_loss(course, advance)
    check_finite(course, state, checkpoints.path, *state.model.parameters())
    loss, count = state.sums.tolist()
    if not count:
        raise ValueError(f"{course.name}: no face to train on can be read; {first_reason(course.faces)}")
    note = Note(
        epoch=epoch,
        num_epochs=config.epochs,
        lr=lr_at(config, course.train, epoch),
        loss=loss / count,
        held_out=held_out,
        duration_s=time.perf_counter() - begin,
    )
    state.history.append(note)
    state.epoch, state.step = epoch, 0
    state.sums.zero_()
    return note


def train_step(
    course: Course,
    model: nn.Module,
    state: State,
    rows: np.ndarray,
    feed: Iterator[FaceBatch],
    lr: float,
    advance: Advance,
) -> None:
    """One step on the mean loss of all faces of `rows` that can be read.

    Gradients are sums over faces until the number of faces is known, that of all processes and batches.
    """
    world = course.world
    drawn = Drawn.draw(course.config, len(rows), course.model.num_patches, course.rng(state.epoch + 1, state.step))
    places = _places(course, len(rows))
    total, count = torch.zeros((), dtype=torch.float64, device=course.device), 0
    state.optimiser.zero_grad()
    for number, own in enumerate(places):
        batch = next(feed)
        count += len(batch.rows)
        is_last = number == len(places) - 1
        if len(batch.rows) or world.size > 1:
            with contextlib.nullcontext() if is_last else world.no_sync(model):
                here = drawn.at(own[batch.places])
                loss = face_losses(course, model, changed(course, batch, here.crop), here.order).sum()
                loss.backward()
            total += loss.detach()
        advance(batch.num_asked * world.size)
    count = round(float(world.mean(torch.tensor(count, dtype=torch.float64))) * world.size)
    if count:
        gradients = [p.grad for p in state.optimiser.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, world.size / count)  # wrapped models take the mean over processes
        state.optimiser.clip(course.config.grad_clip)
        state.optimiser.step(lr)
    state.sums[0] += world.mean(total) * world.size
    state.sums[1] += count


@dataclass(frozen=True, slots=True)
class Drawn:
    """What chance decides about each of B faces: the `order` [B, L] of its patches, and its `crop`."""

    order: np.ndarray
    crop: CropDraws

    @classmethod
    def draw(cls, config: PretrainConfig, num_faces: int, num_patches: int, rng: np.random.Generator) -> "Drawn":
        order = draw_orders(num_faces, num_patches, rng)
        return cls(order, CropDraws.draw(num_faces, rng, (config.crop_min_area, 1.0), flip=config.flip))

    def at(self, places: np.ndarray) -> "Drawn":
        return Drawn(self.order[places], self.crop.part(places))


def changed(course: Course, batch: FaceBatch, crop: CropDraws) -> Tensor:
    """[B, S, S, 3] the faces of `batch`, cropped and mirrored."""
    crop = crop.to(course.device)
    if course.config.crop_min_area < 1:
        return random_resized_crop(batch.faces, crop)
    return torch.where(crop.flip[:, None, None, None], batch.faces.flip(2), batch.faces)


def face_losses(course: Course, model: nn.Module, faces: Tensor, order: np.ndarray) -> Tensor:
    """[B] the loss of each of `faces` [B, S, S, 3], masked by `order` [B, L]."""
    pixels = normalise(faces, course.faces.preprocessing, torch.float32)
    with autocast(course.device, course.precision):
        losses: Tensor = model(pixels, torch.from_numpy(order).to(course.device, non_blocking=True))
    return losses


@torch.no_grad()
def held_out_loss(course: Course, advance: Advance) -> float | None:
    """The mean loss of the held-out faces, unchanged and always under the same masks; None where there are none."""
    if not len(course.held_out):
        return None
    rng = np.random.default_rng([course.config.seed, HELD_OUT])
    orders = draw_orders(len(course.held_out), course.model.num_patches, rng)
    chunks = in_chunks(np.arange(len(course.held_out)), course.config.batch_size)
    own = [course.world.part(chunk) for chunk in chunks]
    sums = torch.zeros(2, dtype=torch.float64)
    for places, batch in zip(own, course.faces.batches(course.held_out[part] for part in own), strict=True):
        order = orders[places[batch.places]]
        if len(order):
            losses = face_losses(course, course.model, batch.faces, order)
            sums += torch.tensor([float(losses.double().sum()), len(order)], dtype=torch.float64)
        advance(batch.num_asked * course.world.size)
    loss, count = course.world.mean(sums).tolist()
    return loss / count if count else None


def parts_of(course: Course, rows: np.ndarray) -> list[np.ndarray]:
    """This process's rows of each batch of a step."""
    return [rows[own] for own in _places(course, len(rows))]


def _places(course: Course, num_faces: int) -> list[np.ndarray]:
    """For each accumulated batch of a step, the places in the step that are this process's."""
    batches = np.array_split(np.arange(num_faces), min(course.config.accumulate, num_faces))
    return [course.world.part(batch) for batch in batches]


def lr_at(config: PretrainConfig, train: np.ndarray, progress: float) -> float:
    """The learning rate after `progress` epochs; faces a step are counted as they are where there are few."""
    lr = config.base_lr * min(step_faces(config), len(train)) / FACES_PER_LR
    return cosine_lr(progress, lr=lr, total=config.epochs, warmup=config.warmup_epochs)
