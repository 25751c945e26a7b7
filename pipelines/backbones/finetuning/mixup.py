"""Mixup (Zhang et al., ICLR 2018) of faces that are labelled for some tasks only. B faces of a batch.

Faces are mixed in neighbouring pairs, one share a batch, as in the paper's own code: face i becomes
share * i + (1 - share) * partner. Valence and arousal are mixed as the faces are, so a CCC stays one of a real set of
targets; the loss of classes and AUs is the same mix of the loss for either's labels, which for cross-entropy is that of
the mixed label. A task (an AU, a column) counts for a pair only where both are labelled: with one label missing, the
face shows something that no label speaks of.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from heads.labels import Labels
from heads.tasks import Task


def draw_share(alpha: float, rng: np.random.Generator) -> float:
    """The share of each face in its mix, of Beta(alpha, alpha); 1 without mixup."""
    return float(rng.beta(alpha, alpha)) if alpha else 1.0


def partners(readable: Tensor) -> Tensor:
    """[B] the place of each face's partner, its neighbour's in the pair; its own where either cannot be read."""
    own = torch.arange(len(readable), device=readable.device)
    other = (own ^ 1).clamp(max=max(len(own) - 1, 0))
    other = torch.where(own ^ 1 == other, other, own)
    return torch.where(readable[other] & readable, other, own)


def mix_faces(pixels: Tensor, places: np.ndarray, share: float) -> Tensor:
    """`pixels` [b, 3, S, S] of the faces at `places` [b] (ascending) of a batch, each mixed with its partner's."""
    if share == 1.0 or not len(places):
        return pixels
    readable = torch.zeros(int(places[-1]) + 1, dtype=torch.bool)
    readable[torch.from_numpy(places)] = True
    at = torch.searchsorted(torch.from_numpy(places), partners(readable)[torch.from_numpy(places)])
    return torch.lerp(pixels[at.to(pixels.device)], pixels, share)


def mix_targets(targets: Labels, partner: Tensor, share: float, tasks: Iterable[Task]) -> tuple[Labels, Labels]:
    """The labels [B] of faces mixed with those at `partner` [B]: the one's and the other's, alike in masks and in the
    values of the continuous among `tasks`."""
    other = targets.take(partner)
    masks = {name: mask & other.masks[name] for name, mask in targets.masks.items()}
    mixed = {
        task.group: torch.lerp(other.values[task.group], targets.values[task.group], share)
        for task in tasks
        if task.kind == "continuous"
    }
    return Labels({**targets.values, **mixed}, masks), Labels({**other.values, **mixed}, masks)
