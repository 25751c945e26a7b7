"""Losses over partly labelled frames, and their weighing against each other, for M stacked heads at once.

Every loss is `loss(output, label, mask, ...) -> [M]`, over the labelled entries of a batch and nothing else: what
stands at an unlabelled entry (-1, NaN) never counts. Without any labelled entry the loss is exactly 0 and so is its
gradient. No head's loss sees another's output, and none waits for the device. Labels that all heads share have a
leading 1 in place of M. Letters: M stacked heads, N frames (of all windows), K outputs of a task.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import LossConfig, loss_problem
from heads.labels import Labels
from heads.layers import look_up
from heads.tasks import Task

MAX_WEIGHT = 10.0  # no class and no positive counts more: a rare one would be learned by heart
TINY = 1e-8
NUMBERS = (
    "label_smoothing",
    "focal_gamma",
    "asymmetric_gamma_positive",
    "asymmetric_gamma_negative",
    "asymmetric_clip",
)


class MultiTaskLoss(nn.Module):
    """The tasks' losses and their weighted sum, for as many heads as there are `configs`.

    With learned weights the log-variances s are parameters of this module (train them with the head's, without weight
    decay) and a task counts weight * (exp(-s) * loss + s / 2): Kendall, Gal and Cipolla, CVPR 2018.

    Args:
        tasks: the tasks to train, by name.
        configs: which losses, and the fixed weights, of each head; the kinds of loss are the same for all.
        weights: of a task of classes the weight of each class, of a binary one that of each column's positives, [K]
            or [M, K], from `label_weights`; ignored by heads whose configuration does not ask for it, else 1.
    """

    def __init__(
        self, tasks: Mapping[str, Task], configs: Sequence[LossConfig], weights: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        for config in configs:
            _check(config)
        first = configs[0]
        assert len({kinds_of(config) for config in configs}) == 1, "heads of one stack have losses of one kind"
        self.tasks, self.num_heads = dict(tasks), len(configs)
        self.terms = {
            "continuous": look_up(CONTINUOUS_LOSSES, first.continuous_loss, "continuous_loss"),
            "classes": look_up(CLASS_LOSSES, first.class_loss, "class_loss"),
            "binary": look_up(BINARY_LOSSES, first.binary_loss, "binary_loss"),
        }
        self.constants = nn.Module()
        for name, value in _constants(tasks, configs, weights or {}).items():
            self.constants.register_buffer(name, value, persistent=False)
        learned = tasks if first.weighting == "learned" else ()
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(len(configs))) for task in learned})

    def forward(self, outputs: Mapping[str, Tensor], labels: Labels) -> tuple[Tensor, dict[str, Tensor]]:
        """`outputs` [M, ..., K] by task -> (totals to minimise [M], each task's own loss [M], detached, unweighted)."""
        losses = {name: self._loss(name, outputs[name].flatten(1, -2).float(), labels) for name in self.tasks}
        parts = [self._constant(f"fixed_{name}") * self._weigh(name, loss, labels) for name, loss in losses.items()]
        return torch.stack(parts).sum(dim=0), {name: loss.detach() for name, loss in losses.items()}

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

    def _loss(self, name: str, output: Tensor, labels: Labels) -> Tensor:
        task = self.tasks[name]
        label, mask = (part.flatten(1, -2) for part in task.labels_in(labels))
        if task.scale != 1.0:
            output, label = output / task.scale, label / task.scale
        term = self.terms[task.kind]
        constants = {
            keyword: self._constant(f"weight_{name}" if constant == WEIGHT else constant)
            for keyword, constant in term.constants.items()
        }
        return term.loss(output, label, mask, **constants)

    def _weigh(self, name: str, loss: Tensor, labels: Labels) -> Tensor:
        if name not in self.log_variance:
            return loss
        # Without a label the variance must stand still too, hence the mask on s / 2.
        labelled = self.tasks[name].labels_in(labels)[1].flatten(1).any(dim=1)
        log_variance = self.log_variance[name]
        return torch.exp(-log_variance) * loss + 0.5 * log_variance * labelled


def kinds_of(config: LossConfig) -> tuple[str, ...]:
    """What heads must share to be trained as one stack; all other values may differ from head to head."""
    return config.continuous_loss, config.class_loss, config.binary_loss, config.weighting


def concordance_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """1 - CCC (Lin, Biometrics 1989) with population moments, a column of [M, N, K] at a time; constant columns give
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
    """Mean squared error of each column of [M, N, K], averaged over the columns."""
    return _mean_by_column((output.masked_fill(~mask, 0.0) - label.masked_fill(~mask, 0.0)).square(), mask)


def concordance_and_squared_loss(output: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    return concordance_loss(output, label, mask) + squared_loss(output, label, mask)


def cross_entropy_loss(
    output: Tensor, label: Tensor, mask: Tensor, *, class_weight: Tensor, label_smoothing: Tensor
) -> Tensor:
    """Cross-entropy of logits [M, N, K] for labels and mask [M, N, 1]; the mean with row weights `class_weight[label]`
    ([M, K]), as torch's own. `label_smoothing` [M] of a label's mass goes evenly to all classes."""
    return _cross_entropy(output, label, mask, class_weight, label_smoothing, None)


def focal_loss(
    output: Tensor, label: Tensor, mask: Tensor, *, class_weight: Tensor, label_smoothing: Tensor, gamma: Tensor
) -> Tensor:
    """The same with each row times (1 - p_label)^gamma, gamma [M]: Lin et al., ICCV 2017."""
    return _cross_entropy(output, label, mask, class_weight, label_smoothing, gamma)


def binary_loss(output: Tensor, label: Tensor, mask: Tensor, *, positive_weight: Tensor) -> Tensor:
    """Binary cross-entropy of logits [M, N, K], each column over its own labelled rows; a positive counts
    `positive_weight` [M, K] times."""
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0).expand(output.shape)
    weight = positive_weight.unsqueeze(1)
    loss = functional.binary_cross_entropy_with_logits(output, label, pos_weight=weight, reduction="none")
    return _mean_by_column(loss, mask)


def asymmetric_loss(
    output: Tensor,
    label: Tensor,
    mask: Tensor,
    *,
    positive_weight: Tensor,
    gamma_positive: Tensor,
    gamma_negative: Tensor,
    clip: Tensor,
) -> Tensor:
    """The asymmetric loss of Ridnik et al., ICCV 2021, on logits [M, N, K], each column over its own labelled rows.

    Easy negatives fade by p^gamma, and those with p below the clip count nothing; a positive counts `positive_weight`
    [M, K] times. The other numbers are [M].
    """
    gamma_positive, gamma_negative, clip = (each.view(-1, 1, 1) for each in (gamma_positive, gamma_negative, clip))
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    p = torch.sigmoid(output)
    positive = (1 - p).clamp(min=TINY).pow(gamma_positive) * functional.logsigmoid(output)
    # log(1 - max(p - clip, 0)), as a sum of exponentials: it stays exact for clip = 0 and a logit of any size.
    log_rest = torch.logaddexp(functional.logsigmoid(-output), clip.log().expand(output.shape)).clamp(max=0.0)
    negative = (p - clip).clamp(min=TINY).pow(gamma_negative) * log_rest
    weight = positive_weight.unsqueeze(1)
    return _mean_by_column(-weight * label * positive - (1 - label) * negative, mask)


def label_weights(tasks: Mapping[str, Task], labels: Labels) -> dict[str, Tensor]:
    """For each task that has them, the weights of its classes or of its columns' positives, [K], from `labels`."""
    found = {}
    for name, task in tasks.items():
        if task.kind != "continuous":
            weigh = class_weight if task.kind == "classes" else positive_weight
            value, mask = task.labels_in(labels)
            found[name] = weigh(value, mask, task.num_outputs)
    return found


def class_weight(value: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """[K]: inverse frequency of each class among the labelled rows, at most 10, scaled to mean 1."""
    counts = torch.bincount(value[mask], minlength=num_classes).float()
    weights = (counts.sum().clamp(min=1) / (num_classes * counts.clamp(min=1))).clamp(max=MAX_WEIGHT)
    return weights / weights.mean()


def positive_weight(value: Tensor, mask: Tensor, num_columns: int) -> Tensor:
    """[K]: negatives per positive of each column among its labelled rows, within 1/10 and 10; 1 where none is."""
    mask = mask.reshape(-1, num_columns)
    positives = (value.reshape(-1, num_columns).masked_fill(~mask, 0.0) > 0.5).sum(dim=0).float()
    labelled = mask.sum(dim=0)
    weights = ((labelled - positives) / positives.clamp(min=TINY)).clamp(1 / MAX_WEIGHT, MAX_WEIGHT)
    return weights.where(labelled > 0, torch.ones_like(weights))


def _cross_entropy(
    output: Tensor,
    label: Tensor,
    mask: Tensor,
    class_weight: Tensor,
    label_smoothing: Tensor,
    gamma: Tensor | None,
) -> Tensor:
    label, mask = label.squeeze(-1), mask.squeeze(-1)
    log_p = functional.log_softmax(output.masked_fill(~mask.unsqueeze(-1), 0.0), dim=-1)
    label = label.masked_fill(~mask, 0).expand(log_p.shape[:2])
    own = log_p.gather(-1, label.unsqueeze(-1)).squeeze(-1)
    smoothing = label_smoothing.unsqueeze(1)
    loss = -(1 - smoothing) * own - smoothing * log_p.mean(dim=-1)
    if gamma is not None:
        loss = (-torch.expm1(own)).clamp(min=TINY).pow(gamma.unsqueeze(1)) * loss
    weights = class_weight.gather(1, label) * mask
    return (weights * loss).sum(dim=1) / weights.sum(dim=1).clamp(min=TINY)


def _mean_by_column(values: Tensor, mask: Tensor) -> Tensor:
    """[M]: mean of `values` [M, N, K] over the labelled entries of each column, then over the columns that have any."""
    return _mean((values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1), mask.any(dim=1))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """[M]: mean of `values` [M, K] where `mask` [M, K]; 0 if nowhere."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _constants(
    tasks: Mapping[str, Task], configs: Sequence[LossConfig], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What differs from head to head, by name: [M] or [M, K]."""
    found = {name: torch.tensor([float(getattr(config, name)) for config in configs]) for name in NUMBERS}
    for name, task in tasks.items():
        found[f"fixed_{name}"] = torch.tensor([float(config.task_weights.get(name, 1.0)) for config in configs])
        plain = torch.ones(len(configs), task.num_outputs)
        if name in weights and task.kind in SWITCHES:
            full = weights[name].float().cpu().expand(plain.shape)
            used = torch.tensor([[getattr(config, SWITCHES[task.kind])] for config in configs])
            plain = full.where(used, plain)
        found[f"weight_{name}"] = plain
    return found


def _check(config: LossConfig) -> None:
    if problem := loss_problem(config):
        raise ValueError(f"loss: {problem}")


@dataclass(frozen=True, slots=True)
class Term:
    """A loss, and which constant of `MultiTaskLoss` each of its keywords is."""

    loss: Callable[..., Tensor]
    constants: Mapping[str, str] = field(default_factory=dict)


WEIGHT = "weight"  # of the task's own classes or positives
SWITCHES = {"classes": "class_weights", "binary": "positive_weights"}
CONTINUOUS_LOSSES: dict[str, Term] = {
    "ccc": Term(concordance_loss),
    "mse": Term(squared_loss),
    "ccc+mse": Term(concordance_and_squared_loss),
}
OF_CLASSES = {"class_weight": WEIGHT, "label_smoothing": "label_smoothing"}
CLASS_LOSSES: dict[str, Term] = {
    "cross_entropy": Term(cross_entropy_loss, OF_CLASSES),
    "focal": Term(focal_loss, {**OF_CLASSES, "gamma": "focal_gamma"}),
}
BINARY_LOSSES: dict[str, Term] = {
    "bce": Term(binary_loss, {"positive_weight": WEIGHT}),
    "asymmetric": Term(
        asymmetric_loss,
        {
            "positive_weight": WEIGHT,
            "gamma_positive": "asymmetric_gamma_positive",
            "gamma_negative": "asymmetric_gamma_negative",
            "clip": "asymmetric_clip",
        },
    ),
}
