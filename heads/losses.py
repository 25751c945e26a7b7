"""Losses over partly labelled frames, and their weighing against each other.

Every loss is `loss(output, label, mask, ...) -> scalar`, over the labelled entries of a batch and nothing else: what
stands at an unlabelled entry (-1, NaN) never counts. Without any labelled entry the loss is exactly 0 and so is its
gradient. No loss waits for the device. Letters: N frames (of all windows), K outputs of a task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import LossConfig
from heads.layers import look_up

MAX_WEIGHT = 10.0  # no class and no positive counts more: a rare one would be learned by heart
TINY = 1e-8


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels of frames in any shape [...]; a mask is True where the label beside it is one."""

    va: Tensor  # [..., 2] float, in [-1, 1]
    va_mask: Tensor  # [..., 2] bool
    expr: Tensor  # [...] int64, 0 to 7
    expr_mask: Tensor  # [...] bool
    au: Tensor  # [..., 12] float, 0 or 1
    au_mask: Tensor  # [..., 12] bool

    def to(self, device: torch.device | str) -> "Targets":
        return Targets(*(getattr(self, field.name).to(device) for field in fields(self)))

    def gather(self, rows: Tensor) -> "Targets":
        """The labels of `rows` [...] (int64) of a table of N frames; row -1 is padding and has none."""
        va, va_mask, expr, expr_mask, au, au_mask = (getattr(self, f.name)[rows.clamp(min=0)] for f in fields(self))
        real = rows >= 0
        column = real.unsqueeze(-1)
        return Targets(va, va_mask & column, expr, expr_mask & real, au, au_mask & column)


class MultiTaskLoss(nn.Module):
    """The tasks' losses and their weighted sum.

    With learned weights the log-variances s are parameters of this module (train them with the head's, without weight
    decay) and a task counts weight * (exp(-s) * loss + s / 2): Kendall, Gal and Cipolla, CVPR 2018.

    Args:
        tasks: the tasks to train, of `TASK_OUTPUTS`.
        config: which losses, and the fixed weights.
        class_weight: [8], from `class_weights`; ignored unless the configuration asks for it.
        positive_weight: [12], from `positive_weights`; likewise.
    """

    class_weight: Tensor
    positive_weight: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        config: LossConfig,
        class_weight: Tensor | None = None,
        positive_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check(config)
        self.tasks, self.config = tuple(tasks), config
        self.fixed = {task: _fixed_weight(task, config) for task in tasks}
        self.va_loss = look_up(VA_LOSSES, config.va_loss, "va_loss")
        self.expr_loss = look_up(EXPR_LOSSES, config.expr_loss, "expr_loss")
        self.au_loss = look_up(AU_LOSSES, config.au_loss, "au_loss")
        given = class_weight if config.class_weights else None
        self.register_buffer("class_weight", torch.ones(8) if given is None else given.float(), persistent=False)
        given = positive_weight if config.positive_weights else None
        self.register_buffer("positive_weight", torch.ones(12) if given is None else given.float(), persistent=False)
        learned = tasks if config.task_weights == "learned" else ()
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in learned})

    def forward(self, outputs: Mapping[str, Tensor], targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """`outputs` [..., K] a task -> (total to minimise, each task's own loss, detached and not weighted)."""
        losses = {task: self._loss(task, outputs[task].flatten(0, -2).float(), targets) for task in self.tasks}
        parts = [self.fixed[task] * self._weigh(task, loss, targets) for task, loss in losses.items()]
        return torch.stack(parts).sum(), {task: loss.detach() for task, loss in losses.items()}

    def _loss(self, task: str, output: Tensor, targets: Targets) -> Tensor:
        if task == "va":
            return self.va_loss(output, targets.va.flatten(0, -2), targets.va_mask.flatten(0, -2))
        if task == "expr":
            label, mask = targets.expr.flatten(), targets.expr_mask.flatten()
            return self.expr_loss(output, label, mask, self.class_weight, self.config)
        label, mask = targets.au.flatten(0, -2), targets.au_mask.flatten(0, -2)
        return self.au_loss(output, label, mask, self.positive_weight, self.config)

    def _weigh(self, task: str, loss: Tensor, targets: Targets) -> Tensor:
        if task not in self.log_variance:
            return loss
        # Without a label the variance must stand still too, hence the mask on s / 2.
        labelled = getattr(targets, f"{task}_mask").any()
        log_variance = self.log_variance[task]
        return torch.exp(-log_variance) * loss + 0.5 * log_variance * labelled


def concordance_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """1 - CCC (Lin, Biometrics 1989) with population moments, a column of [N, 2] at a time; constant columns give 1."""
    count = mask.sum(dim=0).clamp(min=1)
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    mean, label_mean = output.sum(dim=0) / count, label.sum(dim=0) / count
    # Moments about the means, not sums of squares: those cancel in float32.
    output, label = (output - mean).masked_fill(~mask, 0.0), (label - label_mean).masked_fill(~mask, 0.0)
    covariance = (output * label).sum(dim=0) / count
    variances = (output.square() + label.square()).sum(dim=0) / count
    ccc = 2 * covariance / (variances + (mean - label_mean).square() + TINY)
    return _mean(1 - ccc, mask.any(dim=0))


def squared_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of each column of [N, 2], averaged over the columns."""
    return _mean_by_column((output.masked_fill(~mask, 0.0) - label.masked_fill(~mask, 0.0)).square(), mask)


def concordance_and_squared_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    return concordance_loss(output, label, mask) + squared_loss(output, label, mask)


def cross_entropy_loss(output: Tensor, label: Tensor, mask: Tensor, weight: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy of logits [N, 8]; the mean with row weights `weight[label]`, as torch's own."""
    return _cross_entropy(output, label, mask, weight, config.label_smoothing, gamma=0.0)


def focal_loss(output: Tensor, label: Tensor, mask: Tensor, weight: Tensor, config: LossConfig) -> Tensor:
    """The same with each row times (1 - p_label)^gamma: Lin et al., ICCV 2017."""
    return _cross_entropy(output, label, mask, weight, config.label_smoothing, config.focal_gamma)


def binary_loss(output: Tensor, label: Tensor, mask: Tensor, weight: Tensor, config: LossConfig) -> Tensor:
    """Binary cross-entropy of logits [N, 12], each AU over its own labelled rows; a positive counts `weight` times."""
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    loss = functional.binary_cross_entropy_with_logits(output, label, pos_weight=weight, reduction="none")
    return _mean_by_column(loss, mask)


def asymmetric_loss(output: Tensor, label: Tensor, mask: Tensor, weight: Tensor, config: LossConfig) -> Tensor:
    """The asymmetric loss of Ridnik et al., ICCV 2021, on logits [N, 12], each AU over its own labelled rows.

    Easy negatives fade by p^gamma, and those with p below the clip count nothing; a positive counts `weight` times.
    """
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    p = torch.sigmoid(output)
    log_p = functional.logsigmoid(output)
    positive = (1 - p).clamp(min=TINY).pow(config.asymmetric_gamma_positive) * log_p
    # log(1 - max(p - clip, 0)), as a sum of exponentials: it stays exact for clip = 0 and a logit of any size.
    log_clip = torch.full_like(output, config.asymmetric_clip).log()
    log_rest = torch.logaddexp(functional.logsigmoid(-output), log_clip).clamp(max=0.0)
    negative = (p - config.asymmetric_clip).clamp(min=TINY).pow(config.asymmetric_gamma_negative) * log_rest
    return _mean_by_column(-weight * label * positive - (1 - label) * negative, mask)


def class_weights(targets: Targets) -> Tensor:
    """[8]: inverse frequency of each expression among the labelled rows, at most 10, scaled to mean 1."""
    counts = torch.bincount(targets.expr[targets.expr_mask], minlength=8).float()
    weights = (counts.sum().clamp(min=1) / (8 * counts.clamp(min=1))).clamp(max=MAX_WEIGHT)
    return weights / weights.mean()


def positive_weights(targets: Targets) -> Tensor:
    """[12]: negatives a positive of each AU among its labelled rows, within 1/10 and 10; 1 where none is labelled."""
    mask = targets.au_mask.flatten(0, -2)
    positives = (targets.au.flatten(0, -2).masked_fill(~mask, 0.0) > 0.5).sum(dim=0).float()
    labelled = mask.sum(dim=0)
    weights = ((labelled - positives) / positives.clamp(min=TINY)).clamp(1 / MAX_WEIGHT, MAX_WEIGHT)
    return weights.where(labelled > 0, torch.ones_like(weights))


def _cross_entropy(
    output: Tensor, label: Tensor, mask: Tensor, weight: Tensor, smoothing: float, gamma: float
) -> Tensor:
    """`smoothing` of a label's mass goes evenly to all classes."""
    log_p = functional.log_softmax(output.masked_fill(~mask.unsqueeze(-1), 0.0), dim=-1)
    label = label.masked_fill(~mask, 0)
    own = log_p.gather(-1, label.unsqueeze(-1)).squeeze(-1)
    loss = -(1 - smoothing) * own - smoothing * log_p.mean(dim=-1)
    if gamma:
        loss = (-torch.expm1(own)).clamp(min=TINY).pow(gamma) * loss
    weights = weight[label] * mask
    return (weights * loss).sum() / weights.sum().clamp(min=TINY)


def _mean_by_column(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [N, K] over the labelled entries of each column, then over the columns that have any."""
    return _mean((values * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1), mask.any(dim=0))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [K] where `mask` [K]; 0 if nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _fixed_weight(task: str, config: LossConfig) -> float:
    return look_up({"va": config.va_weight, "expr": config.expr_weight, "au": config.au_weight}, task, "task")


def _check(config: LossConfig) -> None:
    for name in ("label_smoothing", "asymmetric_clip"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"loss: {name} {getattr(config, name)} must be at least 0 and below 1")
    gammas = ("focal_gamma", "asymmetric_gamma_positive", "asymmetric_gamma_negative")
    for name in (*gammas, "va_weight", "expr_weight", "au_weight"):
        if getattr(config, name) < 0:
            raise ValueError(f"loss: {name} {getattr(config, name)} must not be negative")


VaLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
WeightedLoss = Callable[[Tensor, Tensor, Tensor, Tensor, LossConfig], Tensor]

VA_LOSSES: dict[str, VaLoss] = {
    "ccc": concordance_loss,
    "mse": squared_loss,
    "ccc+mse": concordance_and_squared_loss,
}
EXPR_LOSSES: dict[str, WeightedLoss] = {"cross_entropy": cross_entropy_loss, "focal": focal_loss}
AU_LOSSES: dict[str, WeightedLoss] = {"bce": binary_loss, "asymmetric": asymmetric_loss}
