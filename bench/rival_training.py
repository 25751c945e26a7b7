"""The usual training loop of the rivals' networks: the best epoch by P on the select rows.

Letters: B windows, T steps.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.rival_frames import Frames, Predicted, select_score, windows
from bench.rival_networks import Kernel

MOST_WEIGHT = 10.0  # of a positive of a rare AU


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. `drawn` draws the starts of windows anew each epoch, `leading` is the way of ABAW11's
    leading entry: no standardisation, focal loss, learned weights of tasks, only full batches, whole videos when
    predicting, no clipping. `kl` is the weight of a latent's divergence, reached after `kl_epochs`."""

    model: Callable[[int], nn.Module]
    window: int = 64
    stride: int = 32
    batch: int = 16
    epochs: int = 60
    patience: int = 10
    lr: float = 1e-3
    weight_decay: float = 1e-2
    drawn: bool = True
    leading: bool = False
    kl: float = 0.05
    kl_epochs: int = 8


class Losses(nn.Module):
    """1 - CCC, cross-entropy weighted by classes (or its focal form), binary cross-entropy weighted by positives."""

    def __init__(self, frames: Frames, leading: bool) -> None:
        super().__init__()
        expr, au = frames.expr[frames.train], frames.au[frames.train]
        count = np.bincount(expr[expr >= 0], minlength=8)
        weights = np.where(count > 0, count.sum() / (8 * np.maximum(count, 1)), 0.0)
        positives, known = np.nansum(au, axis=0), (~np.isnan(au)).sum(axis=0)
        ratio = np.clip((known - positives) / np.maximum(positives, 1), 1.0, MOST_WEIGHT)
        self.register_buffer("classes", torch.tensor(weights, dtype=torch.float32))
        self.register_buffer("positives", torch.tensor(ratio, dtype=torch.float32))
        self.log_variances = nn.Parameter(torch.zeros(3)) if leading else None

    def forward(self, outputs: Mapping[str, Tensor], va: Tensor, expr: Tensor, au: Tensor) -> Tensor:
        losses = torch.stack(
            [self._va(outputs["va"], va), self._expr(outputs["expr"], expr), self._au(outputs["au"], au)]
        )
        if self.log_variances is None:
            return losses.sum()
        return (0.5 * torch.exp(-self.log_variances) * losses + 0.5 * self.log_variances).sum()

    def _va(self, outputs: Tensor, labels: Tensor) -> Tensor:
        total = outputs.sum() * 0
        for column in range(2):
            known = ~labels[..., column].isnan()
            x, y = outputs[..., column][known], labels[..., column][known]
            if len(x) > 1:
                covariance = ((x - x.mean()) * (y - y.mean())).mean()
                spread = x.var(unbiased=False) + y.var(unbiased=False) + (x.mean() - y.mean()) ** 2
                total = total + 0.5 * (1 - 2 * covariance / (spread + 1e-8))
        return total

    def _expr(self, outputs: Tensor, labels: Tensor) -> Tensor:
        known = labels >= 0
        if not known.any():
            return outputs.sum() * 0
        if self.log_variances is None:
            return nn.functional.cross_entropy(outputs[known], labels[known], weight=self.classes)
        log = outputs[known].log_softmax(dim=1).gather(1, labels[known][:, None]).squeeze(1)
        return (-((1 - log.exp()) ** 2) * log * self.classes[labels[known]]).mean()

    def _au(self, outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        if not known.any():
            return outputs.sum() * 0
        loss = nn.functional.binary_cross_entropy_with_logits(
            outputs, labels.nan_to_num(0.0), pos_weight=self.positives, reduction="none"
        )
        return loss[known].mean()


def train_network(recipe: Recipe, frames: Frames, seed: int) -> Predicted:
    """The usual loop: the best epoch by P on the select rows, after which nothing is chosen any more."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    frames = frames if recipe.leading else frames.standardised()
    x = torch.from_numpy(np.append(frames.x, np.zeros((1, frames.x.shape[1]), np.float32), axis=0))  # the last: padding
    labels = [torch.from_numpy(np.append(each, fill, axis=0)) for each, fill in _padded(frames)]
    model, losses = recipe.model(frames.x.shape[1]), Losses(frames, recipe.leading)
    optimiser = torch.optim.AdamW(_groups(model, losses), recipe.lr, weight_decay=recipe.weight_decay)
    best, best_score, since = copy.deepcopy(model.state_dict()), -np.inf, 0
    for epoch in range(recipe.epochs):
        kl = recipe.kl * min((epoch + 1) / recipe.kl_epochs, 1.0)
        model.train()
        for rows in _batches(frames, recipe, generator):
            outputs = model(x[rows], rows >= 0)
            loss = losses(outputs, *(label[rows] for label in labels)) + kl * outputs.get("kl", 0.0)
            optimiser.zero_grad()
            loss.backward()
            if not recipe.leading:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        score = select_score(_predict(model, x, frames, recipe, frames.select), frames)
        since += 1
        if score > best_score:
            best, best_score, since = copy.deepcopy(model.state_dict()), score, 0
        if since >= recipe.patience:
            break
    model.load_state_dict(best)
    return _predict(model, x, frames, recipe, frames.select | frames.report)


def _groups(model: nn.Module, losses: nn.Module) -> list[dict[str, object]]:
    """All parameters; those of state spaces without weight decay, as their authors train them."""
    apart = [each for module in model.modules() if isinstance(module, Kernel) for each in module.parameters()]
    known = {id(each) for each in apart}
    others = [each for each in (*model.parameters(), *losses.parameters()) if id(each) not in known]
    return [{"params": others}, {"params": apart, "weight_decay": 0.0}] if apart else [{"params": others}]


def _padded(frames: Frames) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels as float32 and int64, and what a padded step has: none."""
    va, au = frames.va.astype(np.float32), frames.au.astype(np.float32)
    nothing = np.full((1, 12), np.nan, np.float32)
    return [(va, nothing[:, :2]), (frames.expr.astype(np.int64), np.array([-1])), (au, nothing)]


def _batches(frames: Frames, recipe: Recipe, generator: np.random.Generator) -> list[Tensor]:
    """Shuffled batches [B, T] of rows, -1 for padding."""
    rows = windows(frames, frames.train, recipe.window, recipe.stride, generator if recipe.drawn else None)
    rows = rows[generator.permutation(len(rows))]
    num = len(rows) // recipe.batch if recipe.leading and len(rows) >= recipe.batch else -(-len(rows) // recipe.batch)
    return [torch.from_numpy(rows[place * recipe.batch : (place + 1) * recipe.batch]) for place in range(num)]


@torch.no_grad()
def _predict(model: nn.Module, x: Tensor, frames: Frames, recipe: Recipe, part: np.ndarray) -> Predicted:
    """Of the rows of `part`; where windows overlap, the mean of what they predict. 0 elsewhere."""
    model.eval()
    length = int(np.unique(frames.video[part], return_counts=True)[1].max()) if recipe.leading else recipe.window
    total, count = np.zeros((len(frames.x) + 1, 22), np.float32), np.zeros(len(frames.x) + 1)
    for rows in torch.from_numpy(windows(frames, part, length, recipe.stride)).split(1 if recipe.leading else 256):
        rows = rows[:, : int((rows >= 0).sum(dim=1).max())]
        outputs = model(x[rows], rows >= 0)
        values = torch.cat([outputs["va"], outputs["expr"].softmax(dim=-1), outputs["au"].sigmoid()], dim=-1)
        np.add.at(total, rows.flatten().numpy(), values.flatten(0, 1).numpy())
        np.add.at(count, rows.flatten().numpy(), 1)
    va, expr, au = np.split((total / np.maximum(count, 1)[:, None])[:-1], [2, 10], axis=1)
    num = sum(parameter.numel() for parameter in model.parameters())
    return Predicted(va=va, expr=expr, au=au, num_parameters=num)
