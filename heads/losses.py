"""The tasks' losses and their weighing against each other, for M stacked heads at once; `task_losses` has each loss.

Letters: M stacked heads, N frames (of all windows), K outputs of a task, R bins.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from heads.config import LossConfig, loss_problem
from heads.frequencies import bin_centres, even_frequency
from heads.labels import Labels
from heads.layers import look_up
from heads.task_losses import (
    asymmetric_loss,
    balanced_squared_loss,
    binary_loss,
    concordance_and_squared_loss,
    concordance_loss,
    cross_entropy_loss,
    focal_loss,
    logit_adjusted_loss,
    margin_loss,
    squared_loss,
)
from heads.tasks import Task

NUMBERS = (
    "balanced_sigma",
    "label_smoothing",
    "ldam_margin",
    "logit_tau",
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
        frequencies: of a task of classes how often each class occurs, [K] or [M, K], of a continuous one how often each
            bin of its columns' values, [K, R] or [M, K, R], from `label_frequencies`; else all alike.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        configs: Sequence[LossConfig],
        weights: Mapping[str, Tensor] | None = None,
        frequencies: Mapping[str, Tensor] | None = None,
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
        constants = _constants(tasks, configs, weights or {}) | self._frequencies(frequencies or {})
        for name, value in constants.items():
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
            keyword: self._constant(f"{constant}_{name}" if constant in OF_TASKS else constant)
            for keyword, constant in term.constants.items()
        }
        return term.loss(output, label, mask, **constants)

    def _frequencies(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that a loss asks for, [M, K] or [M, K, R], and the middle of each bin [M, R]."""
        found = {}
        for name, task in self.tasks.items():
            if FREQUENCY not in self.terms[task.kind].constants.values():
                continue
            frequency = known.get(name, even_frequency(task)).float().cpu()
            shape = even_frequency(task).shape
            found[f"{FREQUENCY}_{name}"] = frequency.expand(self.num_heads, *shape).clone()
            if task.kind == "continuous":
                found[f"{CENTRES}_{name}"] = (bin_centres(task) / task.scale).repeat(self.num_heads, 1)
        return found

    def _weigh(self, name: str, loss: Tensor, labels: Labels) -> Tensor:
        if name not in self.log_variance:
            return loss
        # Without a label the variance must stand still too, hence the mask on s / 2.
        labelled = self.tasks[name].labels_in(labels)[1].flatten(1).any(dim=1)
        log_variance = self.log_variance[name]
        return torch.exp(-log_variance) * loss + 0.5 * log_variance * labelled


def kinds_of(config: LossConfig) -> tuple[str, ...]:
    """What heads must share to be trained as one stack; all other values may differ from head to head."""
    has_adversary = "adversarial" if config.subject_adversarial else ""
    kinds = config.continuous_loss, config.class_loss, config.binary_loss, config.weighting
    return (*kinds, has_adversary, config.class_embeddings)


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


# Constants that each task has of its own: weights of its classes or positives, and how often its values occur.
WEIGHT, FREQUENCY, CENTRES = OF_TASKS = ("weight", "frequency", "centres")
SWITCHES = {"classes": "class_weights", "binary": "positive_weights"}
CONTINUOUS_LOSSES: dict[str, Term] = {
    "ccc": Term(concordance_loss),
    "mse": Term(squared_loss),
    "ccc+mse": Term(concordance_and_squared_loss),
    "balanced_mse": Term(
        balanced_squared_loss, {"frequency": FREQUENCY, "centres": CENTRES, "sigma": "balanced_sigma"}
    ),
}
OF_CLASSES = {"class_weight": WEIGHT, "label_smoothing": "label_smoothing"}
CLASS_LOSSES: dict[str, Term] = {
    "cross_entropy": Term(cross_entropy_loss, OF_CLASSES),
    "focal": Term(focal_loss, {**OF_CLASSES, "gamma": "focal_gamma"}),
    "ldam": Term(margin_loss, {**OF_CLASSES, "frequency": FREQUENCY, "margin": "ldam_margin"}),
    "logit_adjusted": Term(
        logit_adjusted_loss, {"label_smoothing": "label_smoothing", "frequency": FREQUENCY, "tau": "logit_tau"}
    ),
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
