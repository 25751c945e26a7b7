"""Losses over partly labelled frames, and their weighing against each other, for M stacked heads at once.

Every loss is `loss(output, label, mask, ...) -> [M]`, over the labelled entries of a batch and nothing else: what
stands at an unlabelled entry (-1, NaN) never counts. Without any labelled entry the loss is exactly 0 and so is its
gradient. No head's loss sees another's output, and none waits for the device. Labels that all heads share have a
leading 1 in place of M. Letters: M stacked heads, N frames (of all windows), K outputs of a task.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import LossConfig
from heads.layers import look_up
from heads.ranges import range_problem

MAX_WEIGHT = 10.0  # no class and no positive counts more: a rare one would be learned by heart
TINY = 1e-8
NUMBERS = (
    "label_smoothing",
    "focal_gamma",
    "asymmetric_gamma_positive",
    "asymmetric_gamma_negative",
    "asymmetric_clip",
)


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

    def stacked(self) -> "Targets":
        """With a leading 1: labels that all heads of a stack share."""
        return Targets(*(getattr(self, field.name).unsqueeze(0) for field in fields(self)))

    def gather(self, rows: Tensor) -> "Targets":
        """The labels of `rows` [...] (int64) of a table of N frames; row -1 is padding and has none."""
        va, va_mask, expr, expr_mask, au, au_mask = (getattr(self, f.name)[rows.clamp(min=0)] for f in fields(self))
        real = rows >= 0
        column = real.unsqueeze(-1)
        return Targets(va, va_mask & column, expr, expr_mask & real, au, au_mask & column)


class MultiTaskLoss(nn.Module):
    """The tasks' losses and their weighted sum, for as many heads as there are `configs`.

    With learned weights the log-variances s are parameters of this module (train them with the head's, without weight
    decay) and a task counts weight * (exp(-s) * loss + s / 2): Kendall, Gal and Cipolla, CVPR 2018.

    Args:
        tasks: the tasks to train, of `TASK_OUTPUTS`.
        configs: which losses, and the fixed weights, of each head; the kinds of loss are the same for all.
        class_weight: [8] or [M, 8], from `class_weights`; ignored by heads whose configuration does not ask for it.
        positive_weight: [12] or [M, 12], from `positive_weights`; likewise.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        configs: Sequence[LossConfig],
        class_weight: Tensor | None = None,
        positive_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        for config in configs:
            _check(config)
        first = configs[0]
        assert len({kinds_of(config) for config in configs}) == 1, "heads of one stack have losses of one kind"
        self.tasks, self.num_heads = tuple(tasks), len(configs)
        self.va_loss = look_up(VA_LOSSES, first.va_loss, "va_loss")
        self.expr_loss = look_up(EXPR_LOSSES, first.expr_loss, "expr_loss")
        self.au_loss = look_up(AU_LOSSES, first.au_loss, "au_loss")
        self.constants = nn.Module()
        for name, value in _constants(tasks, configs, class_weight, positive_weight).items():
            self.constants.register_buffer(name, value, persistent=False)
        learned = tasks if first.task_weights == "learned" else ()
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(len(configs))) for task in learned})

    def forward(self, outputs: Mapping[str, Tensor], targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """`outputs` [M, ..., K] a task -> (totals to minimise [M], each task's own loss [M], detached, unweighted)."""
        losses = {task: self._loss(task, outputs[task].flatten(1, -2).float(), targets) for task in self.tasks}
        parts = [self._constant(f"fixed_{task}") * self._weigh(task, loss, targets) for task, loss in losses.items()]
        return torch.stack(parts).sum(dim=0), {task: loss.detach() for task, loss in losses.items()}

    def select(self, heads: Sequence[int]) -> "MultiTaskLoss":
        """The losses of some of the heads, in this order; parameters are copies."""
        index, chosen = torch.tensor(list(heads)), copy.deepcopy(self)
        chosen.num_heads = len(index)
        for name, value in self.constants.named_buffers():
            chosen.constants.register_buffer(name, value[index.to(value.device)], persistent=False)
        for task, value in self.log_variance.items():
            chosen.log_variance[task] = nn.Parameter(value.detach()[index.to(value.device)].clone())
        return chosen

    def _constant(self, name: str) -> Tensor:
        return getattr(self.constants, name)

    def _loss(self, task: str, output: Tensor, targets: Targets) -> Tensor:
        if task == "va":
            return self.va_loss(output, targets.va.flatten(1, -2), targets.va_mask.flatten(1, -2))
        if task == "expr":
            label, mask = targets.expr.flatten(1), targets.expr_mask.flatten(1)
            return self.expr_loss(output, label, mask, self.constants)
        label, mask = targets.au.flatten(1, -2), targets.au_mask.flatten(1, -2)
        return self.au_loss(output, label, mask, self.constants)

    def _weigh(self, task: str, loss: Tensor, targets: Targets) -> Tensor:
        if task not in self.log_variance:
            return loss
        # Without a label the variance must stand still too, hence the mask on s / 2.
        labelled = getattr(targets, f"{task}_mask").flatten(1).any(dim=1)
        log_variance = self.log_variance[task]
        return torch.exp(-log_variance) * loss + 0.5 * log_variance * labelled


def kinds_of(config: LossConfig) -> tuple[str, ...]:
    """What heads must share to be trained as one stack; all other values may differ from head to head."""
    return config.va_loss, config.expr_loss, config.au_loss, config.task_weights


def concordance_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """1 - CCC (Lin, Biometrics 1989) with population moments, a column of [M, N, 2] at a time; constant columns give
    1."""
    count = mask.sum(dim=1).clamp(min=1)
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    mean, label_mean = output.sum(dim=1) / count, label.sum(dim=1) / count
    # Moments about the means, not sums of squares: those cancel in float32.
    output = (output - mean.unsqueeze(1)).masked_fill(~mask, 0.0)
    label = (label - label_mean.unsqueeze(1)).masked_fill(~mask, 0.0)
    covariance = (output * label).sum(dim=1) / count
    variances = (output.square().sum(dim=1) + label.square().sum(dim=1)) / count
    ccc = 2 * covariance / (variances + (mean - label_mean).square() + TINY)
    return _mean(1 - ccc, mask.any(dim=1))


def squared_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of each column of [M, N, 2], averaged over the columns."""
    return _mean_by_column((output.masked_fill(~mask, 0.0) - label.masked_fill(~mask, 0.0)).square(), mask)


def concordance_and_squared_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    return concordance_loss(output, label, mask) + squared_loss(output, label, mask)


def cross_entropy_loss(output: Tensor, label: Tensor, mask: Tensor, constants: nn.Module) -> Tensor:
    """Cross-entropy of logits [M, N, 8]; the mean with row weights `class_weight[label]`, as torch's own."""
    return _cross_entropy(output, label, mask, constants, None)


def focal_loss(output: Tensor, label: Tensor, mask: Tensor, constants: nn.Module) -> Tensor:
    """The same with each row times (1 - p_label)^gamma: Lin et al., ICCV 2017."""
    return _cross_entropy(output, label, mask, constants, _value(constants, "focal_gamma", 2))


def binary_loss(output: Tensor, label: Tensor, mask: Tensor, constants: nn.Module) -> Tensor:
    """Binary cross-entropy of logits [M, N, 12], each AU over its own labelled rows; a positive counts
    `positive_weight` times."""
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0).expand(output.shape)
    weight = _value(constants, "positive_weight", 2)
    loss = functional.binary_cross_entropy_with_logits(output, label, pos_weight=weight, reduction="none")
    return _mean_by_column(loss, mask)


def asymmetric_loss(output: Tensor, label: Tensor, mask: Tensor, constants: nn.Module) -> Tensor:
    """The asymmetric loss of Ridnik et al., ICCV 2021, on logits [M, N, 12], each AU over its own labelled rows.

    Easy negatives fade by p^gamma, and those with p below the clip count nothing; a positive counts `positive_weight`
    times.
    """
    gamma_positive, gamma_negative, clip = (
        _value(constants, f"asymmetric_{name}", 2) for name in ("gamma_positive", "gamma_negative", "clip")
    )
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    p = torch.sigmoid(output)
    positive = (1 - p).clamp(min=TINY).pow(gamma_positive) * functional.logsigmoid(output)
    # log(1 - max(p - clip, 0)), as a sum of exponentials: it stays exact for clip = 0 and a logit of any size.
    log_rest = torch.logaddexp(functional.logsigmoid(-output), clip.log().expand(output.shape)).clamp(max=0.0)
    negative = (p - clip).clamp(min=TINY).pow(gamma_negative) * log_rest
    weight = _value(constants, "positive_weight", 2)
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


def _cross_entropy(output: Tensor, label: Tensor, mask: Tensor, constants: nn.Module, gamma: Tensor | None) -> Tensor:
    """`label_smoothing` of a label's mass goes evenly to all classes."""
    log_p = functional.log_softmax(output.masked_fill(~mask.unsqueeze(-1), 0.0), dim=-1)
    label = label.masked_fill(~mask, 0).expand(log_p.shape[:2])
    own = log_p.gather(-1, label.unsqueeze(-1)).squeeze(-1)
    smoothing = _value(constants, "label_smoothing", 1)
    loss = -(1 - smoothing) * own - smoothing * log_p.mean(dim=-1)
    if gamma is not None:
        loss = (-torch.expm1(own)).clamp(min=TINY).pow(gamma.squeeze(-1)) * loss
    weights = constants.class_weight.gather(1, label) * mask  # type: ignore[operator]
    return (weights * loss).sum(dim=1) / weights.sum(dim=1).clamp(min=TINY)


def _value(constants: nn.Module, name: str, num_dims: int) -> Tensor:
    """A constant of each head, [M] or [M, K], shaped to go with [M, N] (1) or [M, N, K] (2)."""
    value: Tensor = getattr(constants, name)
    return value.view(len(value), *[1] * (num_dims + 1 - value.ndim), *value.shape[1:])


def _mean_by_column(values: Tensor, mask: Tensor) -> Tensor:
    """[M]: mean of `values` [M, N, K] over the labelled entries of each column, then over the columns that have any."""
    return _mean((values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1), mask.any(dim=1))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """[M]: mean of `values` [M, K] where `mask` [M, K]; 0 if nowhere."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _constants(
    tasks: Sequence[str],
    configs: Sequence[LossConfig],
    class_weight: Tensor | None,
    positive_weight: Tensor | None,
) -> dict[str, Tensor]:
    """What differs from head to head, by name: [M], [M, 8] or [M, 12]."""
    found = {name: torch.tensor([float(getattr(config, name)) for config in configs]) for name in NUMBERS}
    for task in tasks:
        found[f"fixed_{task}"] = torch.tensor([_fixed_weight(task, config) for config in configs])
    given = {"class_weight": (8, class_weight, "class_weights")}
    given["positive_weight"] = (12, positive_weight, "positive_weights")
    for name, (size, weight, switch) in given.items():
        plain = torch.ones(len(configs), size)
        full = plain if weight is None else weight.float().cpu().expand(len(configs), size)
        used = torch.tensor([[getattr(config, switch)] for config in configs])
        found[name] = full.where(used, plain)
    return found


def _fixed_weight(task: str, config: LossConfig) -> float:
    return look_up({"va": config.va_weight, "expr": config.expr_weight, "au": config.au_weight}, task, "task")


def _check(config: LossConfig) -> None:
    if problem := range_problem(config):
        raise ValueError(f"loss: {problem}")


VaLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
WeightedLoss = Callable[[Tensor, Tensor, Tensor, nn.Module], Tensor]

VA_LOSSES: dict[str, VaLoss] = {
    "ccc": concordance_loss,
    "mse": squared_loss,
    "ccc+mse": concordance_and_squared_loss,
}
EXPR_LOSSES: dict[str, WeightedLoss] = {"cross_entropy": cross_entropy_loss, "focal": focal_loss}
AU_LOSSES: dict[str, WeightedLoss] = {"bce": binary_loss, "asymmetric": asymmetric_loss}
