"""The training loop of one backbone on faces. B faces of a batch, R rows, K outputs of a task.

A batch is a set of faces, each for itself. Every step draws its faces, their changes, its mixup and its dropout from
(seed, epoch, step) alone: a training that was stopped goes on as if it had not been.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extract.backbones.build import normalise
from pipelines.backbones.data import first_reason, in_chunks, progress_of_first
from pipelines.backbones.finetuning.course import Course
from pipelines.backbones.finetuning.recipe import new_state, set_probing
from pipelines.backbones.finetuning.state import State
from pipelines.backbones.finetuning.steps import batches_of, move, parts_of, take_part
from pipelines.backbones.precision import autocast, reproducible
from pipelines.backbones.sampling import epoch_steps
from pipelines.backbones.stopping import StopAsked, Stopper, stopper
from pipelines.config import FinetuneConfig
from pipelines.fitting.checkpoint import Checkpoints, Kept
from pipelines.fitting.epochs import Epoch, EpochWatch, Fitted
from pipelines.fitting.optimise import cosine_lr, seeded
from pipelines.metrics.challenge import main_scores, score
from pipelines.metrics.predictions import Predictions, is_finite, joined
from pipelines.progress import Advance

Steps = list[list[np.ndarray]]


@dataclass(slots=True, kw_only=True)
class Guard:
    """What may interrupt a training: the time for a checkpoint, and someone who wants it to stop."""

    stopper: Stopper
    checkpoints: Checkpoints | None = None

    def after(self, state: State) -> None:
        """After a step: keeps the state where it is time, and raises `StopAsked` where that is wanted."""
        if self.checkpoints is not None and self.checkpoints.is_due:
            self.checkpoints.save(state)
        self.stopper.check(state.num_steps)

    def keep(self, state: State) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(state)


def train_backbone(
    course: Course, watch: EpochWatch | None = None, checkpoints: Checkpoints | None = None, kept: Kept | None = None
) -> Fitted[Epoch]:
    """Trains the model in place; it ends with the weights of its best epoch, those that earned the score.

    The state is kept in `checkpoints` after each epoch, and when a signal asks for a stop; `kept` is where an earlier
    run stood.

    Raises:
        ValueError: too few faces can be read, or the loss stops being a finite number before any epoch was scored.
        KeyboardInterrupt: a signal asked for it; the state is kept.
    """
    state = new_state(course)
    if kept is not None:
        state.load(kept)
    learning = frozenset(n for n, p in course.model.trainable.backbone.named_parameters() if p.requires_grad)
    with reproducible(course.device), seeded(0, course.device), stopper(course.world) as asked:
        guard = Guard(stopper=asked, checkpoints=checkpoints)
        try:
            _train_epochs(course, state, learning, guard, watch)
        except StopAsked:
            guard.keep(state)
            course.world.barrier()  # torchrun ends all processes as soon as one of them has gone
            asked.interrupts.leave()
    course.model.eval()
    return state.restore()


def _train_epochs(
    course: Course, state: State, learning: frozenset[str], guard: Guard, watch: EpochWatch | None
) -> None:
    """The epochs that are left, until the last one, the end of patience, or a loss that is no number."""
    config = course.config
    while state.epoch < config.epochs and state.best.num_since_best < config.patience:
        begin = time.perf_counter()
        losses, predictions = _run(course, state, learning, guard)
        if not (is_finite(predictions) and all(map(math.isfinite, losses.values()))):
            if state.best.best is None:
                raise ValueError(
                    f"{course.name}: the loss is no finite number in epoch {state.epoch + 1}; lower finetune.lr "
                    f"(now {config.rate:g})"
                )
            return
        metrics = judge(course, predictions)
        state.epoch, state.step = state.epoch + 1, 0
        state.sums.zero_()
        note = Epoch(
            model=course.name,
            epoch=state.epoch,
            num_epochs=config.epochs,
            lr=lr_at(config, state.epoch),
            losses=losses,
            scores=main_scores(metrics),
            best=False,
            duration_s=time.perf_counter() - begin,
        )
        with averaged(state):
            note = state.best.record(note, predictions, state.copies)
        guard.keep(state)
        if watch is not None and course.world.is_first:
            watch(note)


def _run(course: Course, state: State, learning: frozenset[str], guard: Guard) -> tuple[dict[str, float], Predictions]:
    """One epoch under one bar, or what is left of it: trains, then predicts the rows that choose."""
    config, epoch = course.config, state.epoch + 1
    steps = epoch_steps(course.pool, config, epoch)
    done = sum(len(part) for parts in steps[: state.step] for part in parts)
    total = sum(len(part) for parts in steps for part in parts) + len(course.select)
    with progress_of_first(course.world, f"epoch {epoch}/{config.epochs}", total, done) as advance:
        if state.step < len(steps):
            set_probing(course.model, learning, probing=epoch <= config.probe_epochs)
            train_epoch(course, state, steps, guard, advance)
        with averaged(state):
            predictions = predict_faces(course, course.select, advance, guard.stopper.check_alone)
        return mean_losses(course, state), predictions


def train_epoch(course: Course, state: State, steps: Steps, guard: Guard, advance: Advance) -> None:
    """The steps of an epoch that are left. Waits for the device only where something is written."""
    model, epoch = course.world.wrap(course.model), state.epoch + 1
    parts = parts_of(course, steps, epoch, state.step)
    moved = False
    with contextlib.closing(batches_of(course, parts)) as batches:
        for part, batch in batches:
            advance(len(part.rows))
            moved |= take_part(course, state, model, part, batch)
            if not part.is_last:
                continue
            if moved:
                move(course, state, lr_at(course.config, epoch - 1 + (state.step + 0.5) / len(steps)))
            state.step, moved = state.step + 1, False
            guard.after(state)


def lr_at(config: FinetuneConfig, progress: float) -> float:
    """The learning rate after `progress` epochs."""
    return cosine_lr(progress, lr=config.rate, total=config.epochs, warmup=config.warmup_epochs, min_lr=config.min_lr)


def mean_losses(course: Course, state: State) -> dict[str, float]:
    """The mean over the epoch of the loss and of each task's; raises ValueError where no face could be read."""
    *sums, count = state.sums.tolist()
    if not count:
        raise ValueError(f"{course.name}: fewer than two faces to train on can be read; {first_reason(course.faces)}")
    return dict(zip(("loss", *(f"loss.{task}" for task in course.tasks)), (x / count for x in sums), strict=True))


def predict_faces(
    course: Course, rows: np.ndarray, advance: Advance, check: Callable[[], None] = lambda: None
) -> Predictions:
    """`predict_readable`; raises ValueError where no face can be read."""
    found = predict_readable(course, rows, advance, check)
    if found is None:
        raise ValueError(f"{course.name}: no face to choose the epoch on can be read; {first_reason(course.faces)}")
    return found


@torch.no_grad()
def predict_readable(
    course: Course, rows: np.ndarray, advance: Advance, check: Callable[[], None] = lambda: None
) -> Predictions | None:
    """What the model says of those of `rows` whose face can be read, None where none can; leaves the model in
    evaluation mode.

    Each process predicts a share and has all in the end; `check` is called now and then, and may raise.
    """
    course.model.eval()
    read: list[np.ndarray] = []
    parts: dict[str, list[Tensor]] = {task: [] for task in course.tasks}
    for batch in course.faces.batches(in_chunks(course.world.part(rows), 2 * course.config.batch_size)):
        advance(batch.num_asked * course.world.size)
        check()
        if not len(batch.rows):
            continue
        read.append(batch.rows)
        pixels = normalise(batch.faces, course.faces.preprocessing, torch.float32)
        with autocast(course.device, course.precision):
            outputs = course.model(pixels)
        for task, output in outputs.items():
            parts[task].append(course.loss.tasks[task].probabilities(output))
    values = {task: torch.cat(outputs).cpu().numpy() for task, outputs in parts.items()} if read else {}
    shares = course.world.gather_objects((np.concatenate(read), values) if read else None)
    found = [share for share in shares if share is not None]
    if not found:
        return None
    whole = {task: np.concatenate([values[task] for _, values in found]) for task in course.tasks}
    return Predictions(rows=np.concatenate([rows for rows, _ in found]), probabilities=joined(whole, course.schema))


def judge(course: Course, predictions: Predictions) -> dict[str, Any]:
    """All metrics of `predictions`, over the tasks that are trained."""
    return score(predictions.decide(), course.labels.take(predictions.rows), course.tasks)


def averaged(state: State) -> contextlib.AbstractContextManager[None]:
    """Inside, the model has its averaged weights, where averages are kept."""
    return contextlib.nullcontext() if state.ema is None else state.ema.swapped()
