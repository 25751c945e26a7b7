"""Losses of single tasks over partly labelled frames, for M stacked heads at once.

Every loss is `loss(output, label, mask, ...) -> [M]`, over the labelled entries of a batch and nothing else: what
stands at an unlabelled entry (-1, NaN) never counts. Without any labelled entry the loss is exactly 0 and so is its
gradient. No head's loss sees another's output, and none waits for the device. Labels that all heads share have a
leading 1 in place of M. Letters: M stacked heads, N frames (of all windows), K outputs of a task, R bins.
"""

import torch
from torch import Tensor
from torch.nn import functional

TINY = 1e-8
NEVER = -1e9  # the logarithm of the frequency of what does not occur: minus infinity would give NaN without labels


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


def balanced_squared_loss(
    output: Tensor, label: Tensor, mask: Tensor, *, frequency: Tensor, centres: Tensor, sigma: Tensor
) -> Tensor:
    """Balanced MSE (Ren et al., CVPR 2022, arXiv 2203.16427) of each column of [M, N, K], averaged over the columns.

    The negative log-likelihood of labels with noise `sigma` [M] were all values equally frequent, times 2 sigma^2: the
    squared error plus what frequent values gain by being frequent. The paper's bin-based integral: `frequency`
    [M, K, R] is that of the values of each column around `centres` [M, R], both in the units of the labels.
    """
    output, label = output.masked_fill(~mask, 0.0), label.masked_fill(~mask, 0.0)
    variance = sigma.square().view(-1, 1, 1)
    distances = (output.unsqueeze(-1) - centres[:, None, None]).square()
    logs = frequency.log().clamp(min=NEVER).unsqueeze(1)
    evidence = torch.logsumexp(logs - distances / (2 * variance).unsqueeze(-1), dim=-1)
    return _mean_by_column((output - label).square() + 2 * variance * evidence, mask)


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


def margin_loss(
    output: Tensor,
    label: Tensor,
    mask: Tensor,
    *,
    class_weight: Tensor,
    label_smoothing: Tensor,
    frequency: Tensor,
    margin: Tensor,
) -> Tensor:
    """Cross-entropy with the label's logit less a margin by `frequency`^(-1/4) [M, K], `margin` [M] for the rarest
    class: LDAM (Cao et al., NeurIPS 2019, arXiv 1906.07413).

    Logits are taken as they are; the source normalises weights and features, and scales by 30. A class that never
    occurs has no margin.
    """
    powers = frequency.clamp(min=TINY).pow(-0.25).masked_fill(frequency == 0, 0.0)
    margins = margin.unsqueeze(1) * powers / powers.amax(dim=1, keepdim=True).clamp(min=TINY)
    own = label.masked_fill(~mask, 0).expand(*output.shape[:2], 1)
    less = margins.gather(1, own.squeeze(-1)).unsqueeze(-1)
    return _cross_entropy(output.scatter_add(-1, own, -less), label, mask, class_weight, label_smoothing, None)


def logit_adjusted_loss(
    output: Tensor, label: Tensor, mask: Tensor, *, label_smoothing: Tensor, frequency: Tensor, tau: Tensor
) -> Tensor:
    """Cross-entropy of the logits plus `tau` [M] times the logarithm of `frequency` [M, K]: logit adjustment (Menon et
    al., ICLR 2021, arXiv 2007.07314).

    It has no class weights, which would correct for the same once more. A class that never occurs is not adjusted:
    nothing else would keep it from being predicted.
    """
    shift = tau.unsqueeze(1) * torch.where(frequency > 0, frequency.clamp(min=TINY).log(), 0.0)
    even = torch.ones_like(frequency)
    return _cross_entropy(output + shift.unsqueeze(1), label, mask, even, label_smoothing, None)


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
