"""Dropout of stacked heads: rates, independence, and masks that depend on seed, step and layer alone."""

import pytest
import torch

from heads.layers import DropoutRng, WindowDropout, join_dropout_rngs
from heads.model import build_head
from helpers.stacks import RATES, SEEDS, TASKS


def masks_of(rng, num_layers=3, num_steps=4, num_windows=100, width=40):
    """Every mask of a few layers and steps, [M * layers * steps, B * D]."""
    rows = []
    for _ in range(num_steps):
        rng.advance()
        rows += [rng.mask(layer_id, num_windows, width).flatten(1) for layer_id in range(1, num_layers + 1)]
    return torch.cat(rows)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_dropout_has_its_rate_and_mean_1(rate):
    """Within 5 standard deviations; a kept unit counts 1 / (1 - rate)."""
    masks = masks_of(DropoutRng(SEEDS, [rate] * 3))
    dropped = (masks == 0).double()
    torch.testing.assert_close(masks[masks != 0], torch.full_like(masks[masks != 0], 1 / (1 - rate)))
    for values in (dropped.flatten(), *dropped):
        allowed = 5 * (rate * (1 - rate) / len(values)) ** 0.5
        assert abs(float(values.mean()) - rate) < allowed
        assert abs(float((1 - values).mean()) / (1 - rate) - 1) < allowed / (1 - rate)


@pytest.mark.parametrize("seeds", [(0, 1, 2, 3), (7, 7 + 2**16, 7 + 2**31, 8)])
def test_dropout_is_independent_across_heads_layers_and_steps(seeds):
    """Correlations of all pairs of 48 masks of 4000 units, within 5 standard deviations; neighbouring seeds too."""
    masks = masks_of(DropoutRng(seeds, [0.4] * 4))
    assert len(masks) == 48
    assert torch.corrcoef(masks.double()).fill_diagonal_(0).abs().max() < 5 / 4000**0.5


def test_dropout_is_independent_across_windows_and_units():
    rng = DropoutRng((5,), (0.5,))
    mask = rng.mask(1, 64, 256)[0, :, 0].double()
    assert torch.corrcoef(mask).fill_diagonal_(0).abs().max() < 5.5 / 256**0.5
    centred = (mask - 1).flatten()
    for lag in (1, 2, 3, 16, 256):
        assert abs(float((centred[lag:] * centred[:-lag]).mean())) < 5 / len(centred) ** 0.5, lag


def test_dropout_changes_with_the_step_alone():
    rng = DropoutRng(SEEDS, RATES)
    first = rng.mask(1, 6, 16)
    assert first.shape == (3, 6, 1, 16)
    assert torch.equal(rng.mask(1, 6, 16), first)
    assert torch.equal(DropoutRng(SEEDS, RATES).mask(1, 6, 16), first)
    rng.advance()
    later = rng.mask(1, 6, 16)
    assert [torch.equal(x, y) for x, y in zip(first, later, strict=True)] == [False, False, True]  # the last rate is 0
    assert (later[2] == 1).all()


def test_heads_that_stand_still_keep_their_masks():
    rng = DropoutRng(SEEDS, (0.5, 0.5, 0.5))
    before = rng.mask(1, 6, 16)
    rng.advance(torch.tensor([True, False, True]))
    after = rng.mask(1, 6, 16)
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [False, True, False]
    rng.advance(torch.tensor([False, True, False]))
    moved = DropoutRng(SEEDS, (0.5, 0.5, 0.5))
    moved.advance()
    assert torch.equal(rng.mask(1, 6, 16), moved.mask(1, 6, 16))


def test_a_windows_mask_does_not_depend_on_how_many_there_are():
    rng = DropoutRng(SEEDS, (0.2, 0.5, 0.7))
    assert torch.equal(rng.mask(2, 7, 16)[:, :3], rng.mask(2, 3, 16))


def test_a_heads_mask_does_not_depend_on_its_neighbours():
    rng = DropoutRng(SEEDS, (0.2, 0.5, 0.7))
    rng.advance()
    chosen = rng.select(torch.tensor([2, 0]))
    apart = [DropoutRng((seed,), (rate,)) for seed, rate in zip(SEEDS, (0.2, 0.5, 0.7), strict=True)]
    for each in apart:
        each.advance()
    joined = join_dropout_rngs(apart)
    for _ in range(2):
        masks = rng.mask(1, 4, 16)
        assert torch.equal(chosen.mask(1, 4, 16), masks[[2, 0]])
        assert torch.equal(joined.mask(1, 4, 16), masks)
        chosen.advance()
        assert torch.equal(rng.mask(1, 4, 16), masks)
        joined.advance()
        assert torch.equal(rng.mask(1, 4, 16), masks)
        rng.advance()


def test_every_layer_has_an_id_of_its_own(fusion, temporal, config_of, widths):
    head = build_head(config_of(fusion=fusion, temporal=temporal), widths, SEEDS, RATES)
    ids = [part.layer_id for part in head.modules() if isinstance(part, WindowDropout)]
    assert len(set(ids)) == len(ids) == head.rng.num_layers > 1


def test_without_dropout_training_is_as_evaluation(fusion, temporal, config_of, widths, windows):
    head = build_head(config_of(fusion=fusion, temporal=temporal), widths, SEEDS, (0.0, 0.0, 0.0))
    assert head.rng.is_off
    noisy = head.train()(*windows())
    quiet = head.eval()(*windows())
    assert all(torch.equal(noisy[task], quiet[task]) for task in TASKS)
    x = torch.randn(3, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    assert WindowDropout(head.rng)(x) is x


def test_dropout_is_that_of_the_configuration_unless_rates_are_given(config_of, widths):
    for rates, wanted in (((), (0.3, 0.3)), ((0.0, 0.6), (0.0, 0.6))):
        rng = build_head(config_of(dropout=0.3), widths, (1, 2), rates).rng
        share = (rng.mask(1, 1000, 16) == 0).float().mean(dim=(1, 2, 3))
        assert share.tolist() == pytest.approx(wanted, abs=0.02)
        assert not rng.is_off
