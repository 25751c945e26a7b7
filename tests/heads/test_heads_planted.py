"""A signal planted in time: temporal encoders learn it in seconds, a frame-wise head cannot."""

from functools import cache
from itertools import pairwise

import pytest
import torch

from heads.config import LossConfig
from heads.labels import Labels
from heads.losses import MultiTaskLoss
from heads.model import build_head
from heads.tasks import ABAW_TASKS
from heads.temporal import TEMPORALS

NUM_STEPS = 24


def previous_signal(signal, gap):
    """What the signal was at the valid step before."""
    return signal


def long_gap(signal, gap):
    """Whether more than 30 frames have gone by since the valid step before."""
    return gap > 30


RULES = {"previous signal": previous_signal, "long gap": long_gap}


def make_batch(rule, generator):
    """Streams with the signal in their first channel, and AU labels by `rule`; junk where a step is invalid. All with
    the leading 1 of what heads share."""
    shape = (16, NUM_STEPS)
    valid = torch.rand(shape, generator=generator) > 0.2
    signal = torch.rand(shape, generator=generator) > 0.5
    gaps = torch.where(torch.rand(shape, generator=generator) > 0.5, 1, 60)
    times = (gaps + torch.randint(0, 4, shape, generator=generator)).cumsum(dim=1)
    x = 0.3 * torch.randn(*shape, 6, generator=generator)
    x[..., 0] = 2.0 * signal - 1
    x[~valid] = float("nan")
    label, labelled = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for window in range(16):
        real = valid[window].nonzero().flatten().tolist()
        for last, step in pairwise(real):
            label[window, step] = float(rule(signal[window, last], times[window, step] - times[window, last]))
            labelled[window, step] = True
    return (
        {"only": x.unsqueeze(0)},
        valid.unsqueeze(0),
        times.unsqueeze(0),
        au_targets(label.unsqueeze(0), labelled.unsqueeze(0)),
    )


def au_targets(label, labelled):
    repeated = label.unsqueeze(-1).repeat(1, 1, 1, 12)
    return Labels({"au": repeated}, {"au": labelled.unsqueeze(-1).expand(repeated.shape)})


@cache
def batches(rule, num):
    """`num` to learn from and a fresh one, the same for every encoder."""
    generator = torch.Generator().manual_seed(0)
    return [make_batch(RULES[rule], generator) for _ in range(num)], make_batch(
        RULES[rule], torch.Generator().manual_seed(1)
    )


def accuracy_after(num_steps, temporal, rule, config_of):
    """Share of right answers on a fresh batch after `num_steps` of training."""
    config = config_of(tasks=("au",), fusion="concat", temporal=temporal, width=32)
    head, loss = build_head(config, {"only": 6}), MultiTaskLoss({"au": ABAW_TASKS["au"]}, [LossConfig()])
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
    shown, fresh = batches(rule, num_steps)
    for *inputs, targets in shown:
        optimiser.zero_grad()
        loss(head(*inputs), targets)[0].backward()
        optimiser.step()
    *inputs, targets = fresh
    right = (head(*inputs)["au"] > 0) == (targets.values["au"] > 0.5)
    return float(right[targets.masks["au"]].float().mean())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temporal", TEMPORALS)
def test_planted_signal(temporal, rule, config_of):
    accuracy = accuracy_after(80, temporal, rule, config_of)
    if temporal == "none":
        assert accuracy < 0.65
    else:
        assert accuracy > 0.9
