"""How often classes, positives and values occur among labels, and the weights that follow.

Letters: K outputs of a task, R bins.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from heads.labels import Labels
from heads.tasks import Task

NUM_BINS = 64  # over the range of a continuous task
MAX_WEIGHT = 10.0  # no class and no positive counts more: a rare one would be learned by heart
TINY = 1e-8


def count_labels(tasks: Mapping[str, Task], blocks: Iterable[Labels]) -> dict[str, Tensor]:
    """For each task what its weights and frequencies are made of, over all of `blocks`: the labelled rows of each class
    [K]; labelled rows and positives of each binary column [2, K]; values of each continuous column in each bin [K, R].
    """
    counts: dict[str, Tensor] = {}
    for labels in blocks:
        for name, task in tasks.items():
            found = COUNTERS[task.kind](*task.labels_in(labels), task)
            counts[name] = counts[name] + found if name in counts else found
    return counts


def label_weights(tasks: Mapping[str, Task], counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each task that has them, the weights of its classes or of its columns' positives, [K], from `counts`."""
    weights = {"classes": class_weight, "binary": positive_weight}
    return {name: weights[task.kind](counts[name]) for name, task in tasks.items() if task.kind in weights}


def label_frequencies(tasks: Mapping[str, Task], counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each task that has them, the share of each class [K] among the labelled rows, or of each bin of the values of
    its columns [K, R], from `counts`; binary tasks have none."""
    return {name: frequency(counts[name]) for name, task in tasks.items() if task.kind != "binary"}


def frequency(counts: Tensor) -> Tensor:
    """`counts` [..., K] as shares; all 0 where there is nothing."""
    return counts.float() / counts.float().sum(dim=-1, keepdim=True).clamp(min=1)


def count_classes(value: Tensor, mask: Tensor, task: Task) -> Tensor:
    """[K]: the labelled rows of each class."""
    return torch.bincount(value[mask], minlength=task.num_outputs)


def count_positives(value: Tensor, mask: Tensor, task: Task) -> Tensor:
    """[2, K]: the labelled rows of each column, and the positives among them."""
    mask = mask.reshape(-1, task.num_outputs)
    positives = value.reshape(-1, task.num_outputs).masked_fill(~mask, 0.0) > 0.5
    return torch.stack([mask.sum(dim=0), positives.sum(dim=0)])


def count_bins(value: Tensor, mask: Tensor, task: Task) -> Tensor:
    """[K, R]: the values of each column in each bin."""
    values, known = (x.reshape(-1, task.num_outputs) for x in (value, mask))
    share = (values.masked_fill(~known, 0.0) - task.low) / (task.high - task.low)
    places = (share * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    return torch.stack(
        [torch.bincount(place[seen], minlength=NUM_BINS) for place, seen in zip(places.T, known.T, strict=True)]
    )


def even_frequency(task: Task) -> Tensor:
    """The same where all classes, or all values, are alike."""
    if task.kind == "continuous":
        return torch.full((task.num_outputs, NUM_BINS), 1 / NUM_BINS)
    return torch.full((task.num_outputs,), 1 / task.num_outputs)


def bin_centres(task: Task) -> Tensor:
    """[R]: the middle of each bin."""
    return task.low + (torch.arange(NUM_BINS) + 0.5) / NUM_BINS * (task.high - task.low)


def class_weight(counts: Tensor) -> Tensor:
    """[K]: inverse frequency of each class among the labelled rows, at most 10, scaled to mean 1; `counts` [K]."""
    counts = counts.float()
    weights = (counts.sum().clamp(min=1) / (len(counts) * counts.clamp(min=1))).clamp(max=MAX_WEIGHT)
    return weights / weights.mean()


def positive_weight(counts: Tensor) -> Tensor:
    """[K]: negatives per positive of each column among its labelled rows, within 1/10 and 10; 1 where none is. `counts`
    [2, K] are the labelled rows and the positives."""
    labelled, positives = counts[0], counts[1].float()
    weights = ((labelled - positives) / positives.clamp(min=TINY)).clamp(1 / MAX_WEIGHT, MAX_WEIGHT)
    return weights.where(labelled > 0, torch.ones_like(weights))


COUNTERS: dict[str, Callable[[Tensor, Tensor, Task], Tensor]] = {
    "classes": count_classes,
    "binary": count_positives,
    "continuous": count_bins,
}
