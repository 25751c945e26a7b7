"""A stochastic latent between the temporal encoder and the outputs, from which all tasks are decoded.

After the shared affect latent of "MTL-ABAW-11th" (arXiv 2607.16290): a step that is labelled for one task alone still
shapes what the others read. Letters: M stacked heads, B windows, T steps, D width, L width of the latent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heads.layers import DropoutRng, Linear

MOST_LOG_VARIANCE = 6.0  # either way, as in the source


@dataclass(frozen=True, slots=True)
class Posterior:
    """A normal distribution of each step's latent: `mean` and `log_variance` [M, B, T, L]; `steps` [M] are the training
    steps of each head so far."""

    mean: Tensor
    log_variance: Tensor
    steps: Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """A model before its outputs, as losses see it: by name what each trunk gives [M, B, T, D] and the posterior of its
    latent, None without one; with the `valid` and `times` [M or 1, B, T] of the steps."""

    trunks: Mapping[str, Tensor]
    posteriors: Mapping[str, Posterior | None]
    valid: Tensor
    times: Tensor


class Latent(nn.Module):
    """z ~ N(mean, exp(log_variance)) of each step by itself; its mean when predicting."""

    def __init__(self, width: int, latent: int, rng: DropoutRng) -> None:
        super().__init__()
        self.mean = Linear(rng.num_heads, width, latent)
        self.log_variance = Linear(rng.num_heads, width, latent)
        self.rng, self.layer_id = rng, rng.layer_id()

    def posterior(self, x: Tensor) -> Posterior:
        """Of `x` [M, B, T, D]; float32 under autocast too, for its variance is an exponential."""
        log_variance = self.log_variance(x).float().clamp(-MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)
        return Posterior(self.mean(x).float(), log_variance, self.rng.steps)

    def forward(self, posterior: Posterior) -> Tensor:
        """[M, B, T, L]."""
        if not self.training:
            return posterior.mean
        noise = self.rng.normal(self.layer_id, *posterior.mean.shape[1:])
        return posterior.mean + noise * torch.exp(0.5 * posterior.log_variance)
