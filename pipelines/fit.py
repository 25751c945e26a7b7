"""The training loop of one model on windows of resident streams. N frames, B windows, T steps.

Reproducible: the order of data comes from one generator, dropout from a forked one, both seeded by `[train] seed`.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from heads.losses import MultiTaskLoss, Targets
from heads.model import ProgressiveHead
from pipelines.config import TrainConfig
from pipelines.dataset import Dataset, Plan, Reader, restrict, take
from pipelines.epochs import Epoch, Fitted, Keeper, ShouldStop, Watch
from pipelines.metrics import main_scores, score
from pipelines.optimise import AdamW, lr_at, seeded
from pipelines.predict import Predictions, predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where a model's batches come from: windows over the rows `train` [N], labels `targets` of those alone.

    `learnable` [N + 1] is True at the rows with an embedding and a label to learn from; the last is padding.
    """

    dataset: Dataset
    reader: Reader
    tasks: tuple[str, ...]
    config: TrainConfig
    train: np.ndarray
    learnable: np.ndarray
    targets: Targets

    def batches(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One epoch of row numbers [B, T]: windows moved by a drawn offset, in drawn order, those with labels."""
        offset = int(torch.randint(self.config.stride, (), generator=generator))
        windows = self.dataset.windows(self.train, self.config, offset)
        windows = windows[self.learnable[windows].any(axis=1)]
        order = torch.randperm(len(windows), generator=generator).numpy()
        return self.dataset.on_device(windows[order]).split(self.config.batch_windows)


def make_feed(dataset: Dataset, reader: Reader, train: np.ndarray, tasks: tuple[str, ...], config: TrainConfig) -> Feed:
    """Batches for `tasks` from the rows `train`; labels of other rows, and of rows without an embedding, are hidden."""
    real = train & reader.valid[:-1].cpu().numpy()
    labelled = np.logical_or.reduce([dataset.labels.labelled(task) for task in tasks])
    return Feed(
        dataset=dataset,
        reader=reader,
        tasks=tasks,
        config=config,
        train=train,
        learnable=np.append(real & labelled, False),
        targets=restrict(dataset.targets, real),
    )


def fit(
    model: nn.Module,
    loss: MultiTaskLoss,
    feed: Feed,
    plan: Plan,
    *,
    name: str,
    watch: Watch | None = None,
    should_stop: ShouldStop | None = None,
    count_start: bool = False,
    frozen_epochs: int = 0,
) -> Fitted:
    """Trains `model` in place; it ends with the weights of its best epoch.

    Args:
        model: `(streams, valid, times) -> {task: [B, T, K]}`, on the device.
        loss: what is minimised; may have parameters of its own.
        feed: training batches.
        plan: the rows on which epochs are chosen.
        name: of the model, for the history.
        watch: told of every epoch.
        should_stop: asked after every epoch; True ends the training there, the best epoch so far stands.
        count_start: the model before its first step is a candidate too.
        frozen_epochs: first epochs with the trunks of a `ProgressiveHead` frozen; patience counts from their end.

    Raises:
        ValueError: the loss or the predictions stop being finite numbers before any epoch was scored.
    """
    config = feed.config
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = AdamW([*model.parameters(), *loss.parameters()], config.weight_decay)
    keeper = Keeper(model)
    with seeded(config.seed, feed.dataset.resident.device):
        for epoch in range(0 if count_start else 1, config.epochs + 1):
            begin = time.perf_counter()
            if isinstance(model, ProgressiveHead):
                model.set_trunks_frozen(epoch <= frozen_epochs)
            losses = run_epoch(model, loss, optimiser, feed, generator, epoch) if epoch else {}
            predictions = predict(model, feed.tasks, feed.reader, plan)
            if not (is_finite(predictions) and all(map(math.isfinite, losses.values()))):
                keeper.diverged(name, epoch, config.lr)
                break
            note = Epoch(
                model=name,
                epoch=epoch,
                num_epochs=config.epochs,
                lr=lr_at(config, epoch),
                losses=losses,
                scores=judge(predictions, feed),
                best=False,
                duration_s=time.perf_counter() - begin,
            )
            note = keeper.offer(note, predictions, patient=epoch <= frozen_epochs)
            if watch is not None:
                watch(note)
            if keeper.num_since_best >= config.patience or (should_stop is not None and should_stop(note)):
                break
    return keeper.restore()


def run_epoch(
    model: nn.Module,
    loss: MultiTaskLoss,
    optimiser: AdamW,
    feed: Feed,
    generator: torch.Generator,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training windows; the mean of the loss and of each task's. Waits for the device once."""
    model.train()
    config, sums = feed.config, torch.zeros(1 + len(feed.tasks), device=feed.targets.va.device)
    batches = feed.batches(generator)
    for index, rows in enumerate(batches):
        total, parts = loss(model(*feed.reader(rows)), take(feed.targets, rows))
        optimiser.zero_grad()
        total.backward()
        if config.grad_clip > 0:
            nn.utils.clip_grad_norm_(optimiser.parameters, config.grad_clip, foreach=True)
        optimiser.step(lr_at(config, epoch - 1 + (index + 0.5) / len(batches)))
        sums += torch.stack([total.detach(), *(parts[task] for task in feed.tasks)])
    means = (sums / len(batches)).tolist()
    return dict(zip(("loss", *(f"loss.{task}" for task in feed.tasks)), means, strict=True))


def judge(predictions: Predictions, feed: Feed) -> dict[str, float]:
    """Each task's score of `predictions`."""
    labels = feed.dataset.labels.rows(predictions.rows)
    return main_scores(score(predictions.decide(), labels, feed.tasks))


def is_finite(predictions: Predictions) -> bool:
    """True when every predicted number is finite."""
    parts = predictions.probabilities
    return all(np.isfinite(part).all() for part in (parts.va, parts.expr, parts.au) if part is not None)
