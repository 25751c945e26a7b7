"""How often classes, positives and values occur among labels, and the weights that follow.

Letters: K outputs of a task, R bins.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from heads.labels import Labels
from heads.tasks import Task

BLOCK = 1 << 20  # rows at once
NUM_BINS = 64  # over the range of a continuous task
MAX_WEIGHT = 10.0  # no class and no positive counts more: a rare one would be learned by heart
TINY = 1e-8


def label_weights(tasks: Mapping[str, Task], labels: Labels) -> dict[str, Tensor]:
    """For each task that has them, the weights of its classes or of its columns' positives, [K], from `labels`."""
    found = {}
    for name, task in tasks.items():
        if task.kind != "continuous":
            weigh = class_weight if task.kind == "classes" else positive_weight
            value, mask = task.labels_in(labels)
            found[name] = weigh(value, mask, task.num_outputs)
    return found


def label_frequencies(tasks: Mapping[str, Task], labels: Labels) -> dict[str, Tensor]:
    """For each task that has them, the share of each class [K] among the labelled rows, or of each bin of the values of
    its columns [K, R]; binary tasks have none."""
    counters = {"classes": class_frequency, "continuous": bin_frequency}
    return {
        name: counters[task.kind](*task.labels_in(labels), task)
        for name, task in tasks.items()
        if task.kind in counters
    }


def class_frequency(value: Tensor, mask: Tensor, task: Task) -> Tensor:
    """[K]: the share of each class; 0 for one that never occurs."""
    counts = torch.bincount(value[mask], minlength=task.num_outputs).float()
    return counts / counts.sum().clamp(min=1)


def bin_frequency(value: Tensor, mask: Tensor, task: Task) -> Tensor:
    """[K, R]: the share of the values of each column in each bin."""
    shape = -1, task.num_outputs
    counts = torch.zeros(task.num_outputs, NUM_BINS, dtype=torch.long, device=value.device)
    # In blocks: a number's place among the bins takes more memory than the number.
    for values, known in zip(value.reshape(shape).split(BLOCK), mask.reshape(shape).split(BLOCK), strict=True):
        share = (values.masked_fill(~known, 0.0) - task.low) / (task.high - task.low)
        places = (share * NUM_BINS).long().clamp(0, NUM_BINS - 1)
        counts += torch.stack(
            [torch.bincount(place[seen], minlength=NUM_BINS) for place, seen in zip(places.T, known.T, strict=True)]
        )
    return counts.float() / counts.float().sum(dim=1, keepdim=True).clamp(min=1)


def even_frequency(task: Task) -> Tensor:
    """The same where all classes, or all values, are alike."""
    if task.kind == "continuous":
        return torch.full((task.num_outputs, NUM_BINS), 1 / NUM_BINS)
    return torch.full((task.num_outputs,), 1 / task.num_outputs)


def bin_centres(task: Task) -> Tensor:
    """[R]: the middle of each bin."""
    return task.low + (torch.arange(NUM_BINS) + 0.5) / NUM_BINS * (task.high - task.low)


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
