"""A batch of a stack taken in pieces of its windows, on a CPU: what a layer makes of a piece stays in the caches.

The outputs of all pieces are joined before the losses, which are over the whole batch. Letters: M stacked heads,
B windows, T steps.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from heads.fusion import NormalStreams
from heads.latent import Features, Posterior
from heads.model import Head, ProgressiveHead, dropout_rngs
from pipelines.training.normal_inputs import Inputs

# Of all heads together. The step of a stack of 8 (B 32, T 64) took 0.83 to 1.0 of the time of one that is not cut, a
# GRU's least; with 2,048 steps it gained less, and a single head, whose batch has no more, lost.
STEPS_AT_ONCE = 4096


def in_pieces(
    model: Head | ProgressiveHead, inputs: Inputs, *, with_trunks: bool
) -> tuple[dict[str, Tensor], Features]:
    """Outputs and features of `inputs`; those of a batch in pieces have trunks only `with_trunks`."""
    streams, valid, times = inputs
    num_windows, num_steps = valid.shape[1:]
    size = num_windows
    if valid.device.type == "cpu":
        size = max(1, STEPS_AT_ONCE // (len(next(model.parameters())) * num_steps))
    if size >= num_windows:
        features = model.features(streams, valid, times)
        return model.decode(features), features
    rngs, pieces, outputs = dropout_rngs(model), [], []
    try:
        for start in range(0, num_windows, size):
            part = slice(start, start + size)
            for rng in rngs:
                rng.first_window = start
            pieces.append(model.features(_windows(streams, part), valid[:, part], times[:, part]))
            outputs.append(model.decode(pieces[-1]))
    finally:
        for rng in rngs:
            rng.first_window = 0
    trunks = _joined([piece.trunks for piece in pieces]) if with_trunks else {}
    return _joined(outputs), Features(trunks, _posteriors(pieces), valid, times)


def _windows(streams: Mapping[str, Tensor], part: slice) -> Mapping[str, Tensor]:
    """Some of the windows of `streams` [M or 1, B, T, Di]."""
    found = {name: stream[:, part] for name, stream in streams.items()}
    if not isinstance(streams, NormalStreams):
        return found
    normal = NormalStreams(found)
    normal.joined = None if streams.joined is None else streams.joined[:, part]
    return normal


def _posteriors(pieces: Sequence[Features]) -> dict[str, Posterior | None]:
    found: dict[str, Posterior | None] = {}
    for name, first in pieces[0].posteriors.items():
        parts = [posterior for piece in pieces if (posterior := piece.posteriors[name]) is not None]
        found[name] = first and Posterior(
            torch.cat([each.mean for each in parts], dim=1),
            torch.cat([each.log_variance for each in parts], dim=1),
            first.steps,
        )
    return found


def _joined(pieces: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]}
