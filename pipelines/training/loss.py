"""What the heads of a stack minimise, from their configurations and from the rows that train. M strategies at once."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from heads.frequencies import count_labels, label_frequencies, label_weights
from heads.losses import MultiTaskLoss
from heads.model import Head, ProgressiveHead
from heads.penalties import HeadLoss
from pipelines.labels import as_tensors, tasks_of
from pipelines.training.setup import Setup


def make_loss(setups: Sequence[Setup], tasks: tuple[str, ...], model: nn.Module) -> HeadLoss:
    """The losses of `tasks`, weighted by how often classes and positives occur among each setup's training rows, and
    what else `model` minimises."""
    dataset = setups[0].dataset
    known = tasks_of(dataset.schema)
    named = {name: known[name] for name in tasks}
    counted: dict[tuple[int, int], tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for setup in setups:
        if setup.rows_and_labels not in counted:
            counts = count_labels(named, map(as_tensors, setup.labels.blocks(setup.split.train)))
            counted[setup.rows_and_labels] = label_weights(named, counts), label_frequencies(named, counts)
    weights, frequencies = (
        _stacked(each) for each in zip(*(counted[setup.rows_and_labels] for setup in setups), strict=True)
    )
    configs = [setup.strategy.loss for setup in setups]
    embeddings = setups[0].class_embeddings
    return HeadLoss(
        MultiTaskLoss(named, configs, weights, frequencies),
        configs,
        seeds=[setup.strategy.train.seed for setup in setups],
        widths=cast(Head | ProgressiveHead, model).trunk_widths,
        subjects=_subjects(setups) if configs[0].subject_adversarial else None,
        class_embeddings=None if embeddings is None else torch.from_numpy(embeddings.values),
    )


def _subjects(setups: Sequence[Setup]) -> Tensor:
    """[M, S] bool: the subjects among each setup's training rows."""
    subjects = setups[0].dataset.subjects
    found = torch.zeros(len(setups), int(subjects.max()) + 1, dtype=torch.bool)
    for row, setup in zip(found, setups, strict=True):
        row[torch.from_numpy(subjects[:-1][setup.split.train])] = True
    return found


def _stacked(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of each head by name, side by side."""
    return {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}
