"""The training loop of one backbone on faces. B faces of a batch, R rows, K outputs of a task.

A batch is a set of faces, each for itself. Every step draws its faces, their augmentation, its mixup and its dropout
from (seed, epoch, step) alone: a training that was stopped resumes as if it had not been.
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
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.finetune_state import FinetuneState
from pipelines.backbones.finetuning.recipe import new_state, set_probing
from pipelines.backbones.finetuning.steps import backward, batches_of, draw_micro_batches, optimiser_step
from pipelines.backbones.precision import autocast, reproducible
from pipelines.backbones.sampling import epoch_steps
from pipelines.backbones.stopping import StopAsked, Stopper, stopper
from pipelines.config import FinetuneConfig
from pipelines.fitting.checkpoint import Checkpoints, Resumed
from pipelines.fitting.epochs import Epoch, FitResult
from pipelines.fitting.optimise import cosine_lr, seeded
from pipelines.metrics.challenge import main_scores, score
from pipelines.metrics.predictions import Predictions, is_finite, joined
from pipelines.progress import Advance

EpochSteps = list[list[np.ndarray]]


@dataclass(slots=True, kw_only=True)
class Guard:
    """What may interrupt a training: the time for a checkpoint, and someone who wants it to stop."""

    stopper: Stopper
    checkpoints: Checkpoints | None = None

    def after(self, state: FinetuneState) -> None:
        """After a step: saves the state when that is due, and raises `StopAsked` when a stop was asked for."""
        if self.checkpoints is not None and self.checkpoints.is_due:
            self.checkpoints.save(state)
        self.stopper.check(state.num_steps)

    def keep(self, state: FinetuneState) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(state)


def train_backbone(
    context: TrainContext,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints | None = None,
    resumed: Resumed | None = None,
) -> FitResult[Epoch]:
    """Trains the model in place; it ends with the weights of its best epoch, those that earned the score.

    The state is saved to `checkpoints` after each epoch and when a signal asks for a stop; `resumed` is the state of
    an earlier run.

    Raises:
        ValueError: too few faces can be read, or the loss stops being a finite number before any epoch was scored.
        KeyboardInterrupt: a signal asked for it; the state is kept.
    """
    state = new_state(context)
    if resumed is not None:
        state.load(resumed)
    learning = frozenset(n for n, p in context.model.trainable.backbone.named_parameters() if p.requires_grad)
    with reproducible(context.device), seeded(0, context.device), stopper(context.world) as asked:
        guard = Guard(stopper=asked, checkpoints=checkpoints)
        try:
            _train_epochs(context, state, learning, guard, on_epoch)
        except StopAsked:
            guard.keep(state)
            context.world.barrier()  # torchrun ends all processes as soon as one of them has gone
            asked.interrupts.leave()
    context.model.eval()
    return state.restore()


def _train_epochs(
    context: TrainContext,
    state: FinetuneState,
    learning: frozenset[str],
    guard: Guard,
    on_epoch: Callable[[Epoch], None] | None,
) -> None:
    """The epochs that are left, until the last one, the end of patience, or a loss that is no number."""
    config = context.config
    while state.epoch < config.epochs and state.best.num_since_best < config.patience:
        begin = time.perf_counter()
        losses, predictions = _run(context, state, learning, guard)
        if not (is_finite(predictions) and all(map(math.isfinite, losses.values()))):
            if state.best.best is None:
                raise ValueError(
                    f"{context.name}: the loss is no finite number in epoch {state.epoch + 1}; lower finetune.lr "
                    f"(now {config.rate:g})"
                )
            return
        metrics = evaluate(context, predictions)
        state.epoch, state.step = state.epoch + 1, 0
        state.sums.zero_()
        scored = Epoch(
            model=context.name,
            epoch=state.epoch,
            num_epochs=config.epochs,
            lr=lr_at(config, state.epoch),
            losses=losses,
            scores=main_scores(metrics),
            best=False,
            duration_s=time.perf_counter() - begin,
        )
        with averaged(state):
            scored = state.best.record(scored, state.copies, predictions)
        guard.keep(state)
        if on_epoch is not None and context.world.is_first:
            on_epoch(scored)


def _run(
    context: TrainContext, state: FinetuneState, learning: frozenset[str], guard: Guard
) -> tuple[dict[str, float], Predictions]:
    """One epoch under one bar, or what is left of it: trains, then predicts the rows that choose."""
    config, epoch = context.config, state.epoch + 1
    steps = epoch_steps(context.pool, config, epoch)
    done = sum(len(part) for parts in steps[: state.step] for part in parts)
    total = sum(len(part) for parts in steps for part in parts) + len(context.select)
    with progress_of_first(context.world, f"epoch {epoch}/{config.epochs}", total, done) as advance:
        if state.step < len(steps):
            set_probing(context.model, learning, probing=epoch <= config.probe_epochs)
            train_epoch(context, state, steps, guard, advance)
        with averaged(state):
            predictions = predict_faces(context, context.select, advance, guard.stopper.check_alone)
        return mean_losses(context, state), predictions


def train_epoch(context: TrainContext, state: FinetuneState, steps: EpochSteps, guard: Guard, advance: Advance) -> None:
    """The steps of an epoch that are left. Waits for the device only where something is written."""
    model, epoch = context.world.wrap(context.model), state.epoch + 1
    micro_batches = draw_micro_batches(context, steps, epoch, state.step)
    moved = False
    with contextlib.closing(batches_of(context, micro_batches)) as batches:
        for micro_batch, batch in batches:
            advance(len(micro_batch.rows))
            moved |= backward(context, state, model, micro_batch, batch)
            if not micro_batch.is_last:
                continue
            if moved:
                optimiser_step(context, state, lr_at(context.config, epoch - 1 + (state.step + 0.5) / len(steps)))
            state.step, moved = state.step + 1, False
            guard.after(state)


def lr_at(config: FinetuneConfig, progress: float) -> float:
    """The learning rate after `progress` epochs."""
    return cosine_lr(progress, lr=config.rate, total=config.epochs, warmup=config.warmup_epochs, min_lr=config.min_lr)


def mean_losses(context: TrainContext, state: FinetuneState) -> dict[str, float]:
    """The mean over the epoch of the loss and of each task's; raises ValueError where no face could be read."""
    *sums, count = state.sums.tolist()
    if not count:
        raise ValueError(f"{context.name}: fewer than two faces to train on can be read; {first_reason(context.faces)}")
    return dict(zip(("loss", *(f"loss.{task}" for task in context.tasks)), (x / count for x in sums), strict=True))


def predict_faces(
    context: TrainContext, rows: np.ndarray, advance: Advance, check: Callable[[], None] = lambda: None
) -> Predictions:
    """`predict_readable`; raises ValueError where no face can be read."""
    found = predict_readable(context, rows, advance, check)
    if found is None:
        raise ValueError(f"{context.name}: no face to choose the epoch on can be read; {first_reason(context.faces)}")
    return found


@torch.no_grad()
def predict_readable(
    context: TrainContext, rows: np.ndarray, advance: Advance, check: Callable[[], None] = lambda: None
) -> Predictions | None:
    """The predictions of those of `rows` whose face can be read, None where none can; leaves the model in evaluation
    mode.

    Each process predicts a share and has all in the end; `check` is called now and then, and may raise.
    """
    context.model.eval()
    read: list[np.ndarray] = []
    parts: dict[str, list[Tensor]] = {task: [] for task in context.tasks}
    for batch in context.faces.batches(in_chunks(context.world.part(rows), 2 * context.config.batch_size)):
        advance(batch.num_asked * context.world.size)
        check()
        if not len(batch.rows):
            continue
        read.append(batch.rows)
        pixels = normalise(batch.faces, context.faces.preprocessing, torch.float32)
        with autocast(context.device, context.precision):
            outputs = context.model(pixels)
        for task, output in outputs.items():
            parts[task].append(context.loss.tasks[task].probabilities(output))
    values = {task: torch.cat(outputs).cpu().numpy() for task, outputs in parts.items()} if read else {}
    shares = context.world.gather_objects((np.concatenate(read), values) if read else None)
    found = [share for share in shares if share is not None]
    if not found:
        return None
    whole = {task: np.concatenate([values[task] for _, values in found]) for task in context.tasks}
    return Predictions(rows=np.concatenate([rows for rows, _ in found]), probabilities=joined(whole, context.schema))


def evaluate(context: TrainContext, predictions: Predictions) -> dict[str, Any]:
    """All metrics of `predictions`, over the tasks that are trained."""
    return score(predictions.decide(), context.labels.take(predictions.rows), context.tasks)


def averaged(state: FinetuneState) -> contextlib.AbstractContextManager[None]:
    """Inside, the model has its averaged weights, where averages are kept."""
    return contextlib.nullcontext() if state.ema is None else state.ema.swapped()
