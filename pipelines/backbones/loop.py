"""The training loop of one backbone on faces. B faces of a batch, R rows, K outputs of a task, S the side of a face.

Kin of `pipelines.training.fit`, which trains heads on windows of the cache: the same optimiser, schedule and keeper of
the best epoch, but a batch here is a set of faces, each for itself. Every epoch draws its order, its changes of faces
and its dropout from (seed, epoch) alone, so an epoch can be had again without those before it.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extract.backbones.build import TrainableBackbone, normalise
from heads.losses import MultiTaskLoss, Targets
from heads.tasks import TASK_OUTPUTS
from pipelines.backbones.data import Changes, FaceBatch, Faces, epoch_batches, in_chunks, mirror, relight
from pipelines.backbones.precision import Precision, autocast, reproducible
from pipelines.config import FinetuneConfig, TrainConfig
from pipelines.labels import Labels
from pipelines.progress import Advance, progress
from pipelines.scoring.metrics import Probabilities, main_scores, score
from pipelines.training.epochs import Epoch, Fitted, Keeper, Watch
from pipelines.training.fit import is_finite
from pipelines.training.optimise import AdamW, lr_at, seeded
from pipelines.training.predict import ACTIVATIONS, Predictions

GRAD_CLIP = 1.0


class Trainee(nn.Module):
    """A backbone with the outputs of `tasks` on its embedding: [B, 3, S, S] -> {task: [B, K]}, in float32."""

    def __init__(self, trainable: TrainableBackbone, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.trainable = trainable
        self.tasks = tasks
        self.sizes = [TASK_OUTPUTS[task].num_outputs for task in tasks]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        embedding = self.trainable.backbone(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            parts = self.trainable.output(embedding.float()).split(self.sizes, dim=-1)
        return {task: TASK_OUTPUTS[task].activation(part) for task, part in zip(self.tasks, parts, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that one training is made of. `targets` and `labels` are row for row with `faces`; `train` and `select` are
    row numbers into them, and never share one."""

    model: Trainee
    loss: MultiTaskLoss
    faces: Faces
    targets: Targets
    labels: Labels
    train: np.ndarray
    select: np.ndarray
    tasks: tuple[str, ...]
    config: FinetuneConfig
    device: torch.device
    precision: Precision
    name: str

    @property
    def schedule(self) -> TrainConfig:
        """The optimiser's part of the configuration, as heads have it."""
        names = ("epochs", "patience", "lr", "weight_decay", "warmup_epochs", "seed")
        return dataclasses.replace(TrainConfig(), **{name: getattr(self.config, name) for name in names})


def train_backbone(course: Course, watch: Watch | None = None) -> Fitted:
    """Trains the model in place; it ends with the weights of its best epoch, those that earned the score.

    Raises:
        ValueError: too few faces can be read, or the loss stops being a finite number before any epoch was scored.
    """
    optimiser = AdamW([*course.model.parameters(), *course.loss.parameters()], course.config.weight_decay)
    keeper = Keeper(course.model)
    with reproducible(course.device):
        for epoch in range(1, course.config.epochs + 1):
            begin = time.perf_counter()
            losses, predictions = _run(course, optimiser, epoch)
            if not (is_finite(predictions) and all(map(math.isfinite, losses.values()))):
                if keeper.best is None:
                    raise ValueError(
                        f"{course.name}: the loss is no finite number in epoch {epoch}; lower finetune.lr "
                        f"(now {course.config.lr})"
                    )
                break
            metrics = judge(course, predictions)
            note = Epoch(
                model=course.name,
                epoch=epoch,
                num_epochs=course.config.epochs,
                lr=lr_at(course.schedule, epoch),
                losses=losses,
                scores=main_scores(metrics),
                best=False,
                duration_s=time.perf_counter() - begin,
            )
            note = keeper.offer(note, predictions, patient=False)
            if watch is not None:
                watch(note)
            if keeper.num_since_best >= course.config.patience:
                break
    return keeper.restore()


def _run(course: Course, optimiser: AdamW, epoch: int) -> tuple[dict[str, float], Predictions]:
    """One epoch under one bar: trains, then predicts the rows that choose."""
    rng = np.random.default_rng([course.config.seed, epoch])
    batches = epoch_batches(course.train, course.config, rng)
    total = sum(map(len, batches)) + len(course.select)
    with progress(f"epoch {epoch}/{course.config.epochs}", total, "faces") as advance:
        with seeded(int(rng.integers(2**63)), course.device):
            losses = train_epoch(course, optimiser, batches, epoch, rng, advance)
        return losses, predict_faces(course, course.select, advance)


def train_epoch(
    course: Course,
    optimiser: AdamW,
    batches: list[np.ndarray],
    epoch: int,
    rng: np.random.Generator,
    advance: Advance,
) -> dict[str, float]:
    """One pass over `batches` of rows; the mean of the loss and of each task's. Waits for the device once."""
    course.model.train()
    sums = torch.zeros(1 + len(course.tasks), device=course.device)
    num_steps = 0
    for index, batch in enumerate(course.faces.batches(batches)):
        advance(batch.num_asked)
        if len(batch.rows) < 2:  # its faces cannot be read; batch normalisation needs two
            continue
        changes = Changes.draw(course.config, len(batch.rows), rng).to(course.device)
        outputs = forward(course, batch, changes)
        labels = course.targets.gather(torch.from_numpy(batch.rows).to(course.device))
        stacked = {task: output.unsqueeze(0) for task, output in outputs.items()}  # the losses are those of many heads
        (total,), parts = course.loss(stacked, labels.stacked())
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(optimiser.parameters, GRAD_CLIP, foreach=True)
        optimiser.step(lr_at(course.schedule, epoch - 1 + (index + 0.5) / len(batches)))
        sums += torch.stack([total.detach(), *(parts[task][0] for task in course.tasks)])
        num_steps += 1
    if not num_steps:
        raise ValueError(f"{course.name}: fewer than two faces to train on can be read; {first_reason(course.faces)}")
    means = (sums / num_steps).tolist()
    return dict(zip(("loss", *(f"loss.{task}" for task in course.tasks)), means, strict=True))


def forward(course: Course, batch: FaceBatch, changes: Changes | None = None) -> dict[str, Tensor]:
    """The outputs [B, K] of each task for a batch of faces, changed as `changes` say."""
    faces = batch.faces.to(course.device, non_blocking=True)
    if changes is not None:
        faces = mirror(faces, changes)
    pixels = normalise(faces, course.faces.preprocessing, torch.float32)
    if changes is not None:
        pixels = relight(pixels, changes, course.faces.preprocessing)
    with autocast(course.device, course.precision):
        outputs: dict[str, Tensor] = course.model(pixels)
    return outputs


@torch.no_grad()
def predict_faces(course: Course, rows: np.ndarray, advance: Advance) -> Predictions:
    """What the model says of those of `rows` whose face can be read; leaves the model in evaluation mode."""
    course.model.eval()
    read: list[np.ndarray] = []
    parts: dict[str, list[Tensor]] = {task: [] for task in course.tasks}
    for batch in course.faces.batches(in_chunks(rows, 2 * course.config.batch_size)):
        advance(batch.num_asked)
        if not len(batch.rows):
            continue
        read.append(batch.rows)
        for task, output in forward(course, batch).items():
            parts[task].append(ACTIVATIONS[task](output))
    if not read:
        raise ValueError(f"{course.name}: no face to choose the epoch on can be read; {first_reason(course.faces)}")
    values = {task: torch.cat(outputs).cpu().numpy() for task, outputs in parts.items()}
    return Predictions(rows=np.concatenate(read), probabilities=Probabilities(**values))


def judge(course: Course, predictions: Predictions) -> dict[str, Any]:
    """All metrics of `predictions`, over the tasks that are trained."""
    return score(predictions.decide(), course.labels.rows(predictions.rows), course.tasks)


def first_reason(faces: Faces) -> str:
    """The first unreadable face and what is wrong with it."""
    row = min(faces.unreadable)
    return f"{faces.folder / faces.paths[row]}: {faces.unreadable[row]}"
