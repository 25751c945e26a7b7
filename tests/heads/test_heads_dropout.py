"""Dropout of stacked heads: rates, independence, and masks that depend on seed, step and place alone."""

import pytest
import torch

from heads.layers import Noise, WindowDropout, join_noises
from heads.model import build_head
from helpers.stacks import RATES, SEEDS, TASKS


def masks_of(noise, num_places=3, num_steps=4, num_windows=100, width=40):
    """Every mask of a few places and steps, [M * places * steps, B * D]."""
    rows = []
    for _ in range(num_steps):
        noise.advance()
        rows += [noise.mask(place, num_windows, width).flatten(1) for place in range(1, num_places + 1)]
    return torch.cat(rows)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_dropout_has_its_rate_and_mean_1(rate):
    """Within 5 standard deviations; a kept unit counts 1 / (1 - rate)."""
    masks = masks_of(Noise(SEEDS, [rate] * 3))
    dropped = (masks == 0).double()
    torch.testing.assert_close(masks[masks != 0], torch.full_like(masks[masks != 0], 1 / (1 - rate)))
    for values in (dropped.flatten(), *dropped):
        allowed = 5 * (rate * (1 - rate) / len(values)) ** 0.5
        assert abs(float(values.mean()) - rate) < allowed
        assert abs(float((1 - values).mean()) / (1 - rate) - 1) < allowed / (1 - rate)


@pytest.mark.parametrize("seeds", [(0, 1, 2, 3), (7, 7 + 2**16, 7 + 2**31, 8)])
def test_dropout_is_independent_across_heads_places_and_steps(seeds):
    """Correlations of all pairs of 48 masks of 4000 units, within 5 standard deviations; neighbouring seeds too."""
    masks = masks_of(Noise(seeds, [0.4] * 4))
    assert len(masks) == 48
    assert torch.corrcoef(masks.double()).fill_diagonal_(0).abs().max() < 5 / 4000**0.5


def test_dropout_is_independent_across_windows_and_units():
    noise = Noise((5,), (0.5,))
    mask = noise.mask(1, 64, 256)[0, :, 0].double()
    assert torch.corrcoef(mask).fill_diagonal_(0).abs().max() < 5.5 / 256**0.5
    centred = (mask - 1).flatten()
    for lag in (1, 2, 3, 16, 256):
        assert abs(float((centred[lag:] * centred[:-lag]).mean())) < 5 / len(centred) ** 0.5, lag


def test_dropout_changes_with_the_step_alone():
    noise = Noise(SEEDS, RATES)
    first = noise.mask(1, 6, 16)
    assert first.shape == (3, 6, 1, 16)
    assert torch.equal(noise.mask(1, 6, 16), first)
    assert torch.equal(Noise(SEEDS, RATES).mask(1, 6, 16), first)
    noise.advance()
    later = noise.mask(1, 6, 16)
    assert [torch.equal(x, y) for x, y in zip(first, later, strict=True)] == [False, False, True]  # the last rate is 0
    assert (later[2] == 1).all()


def test_heads_that_stand_still_keep_their_masks():
    noise = Noise(SEEDS, (0.5, 0.5, 0.5))
    before = noise.mask(1, 6, 16)
    noise.advance(torch.tensor([True, False, True]))
    after = noise.mask(1, 6, 16)
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [False, True, False]
    noise.advance(torch.tensor([False, True, False]))
    moved = Noise(SEEDS, (0.5, 0.5, 0.5))
    moved.advance()
    assert torch.equal(noise.mask(1, 6, 16), moved.mask(1, 6, 16))


def test_a_windows_mask_does_not_depend_on_how_many_there_are():
    noise = Noise(SEEDS, (0.2, 0.5, 0.7))
    assert torch.equal(noise.mask(2, 7, 16)[:, :3], noise.mask(2, 3, 16))


def test_a_heads_mask_does_not_depend_on_its_neighbours():
    noise = Noise(SEEDS, (0.2, 0.5, 0.7))
    noise.advance()
    chosen = noise.select(torch.tensor([2, 0]))
    apart = [Noise((seed,), (rate,)) for seed, rate in zip(SEEDS, (0.2, 0.5, 0.7), strict=True)]
    for each in apart:
        each.advance()
    joined = join_noises(apart)
    for _ in range(2):
        masks = noise.mask(1, 4, 16)
        assert torch.equal(chosen.mask(1, 4, 16), masks[[2, 0]])
        assert torch.equal(joined.mask(1, 4, 16), masks)
        chosen.advance()
        assert torch.equal(noise.mask(1, 4, 16), masks)
        joined.advance()
        assert torch.equal(noise.mask(1, 4, 16), masks)
        noise.advance()


def test_every_layer_has_a_place_of_its_own(fusion, temporal, config_of, widths):
    head = build_head(config_of(fusion=fusion, temporal=temporal), widths, SEEDS, RATES)
    places = [part.place for part in head.modules() if isinstance(part, WindowDropout)]
    assert len(set(places)) == len(places) == head.noise.num_places > 1


def test_without_dropout_training_is_as_evaluation(fusion, temporal, config_of, widths, windows):
    head = build_head(config_of(fusion=fusion, temporal=temporal), widths, SEEDS, (0.0, 0.0, 0.0))
    assert head.noise.is_silent
    noisy = head.train()(*windows())
    quiet = head.eval()(*windows())
    assert all(torch.equal(noisy[task], quiet[task]) for task in TASKS)
    x = torch.randn(3, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    assert WindowDropout(head.noise)(x) is x


def test_dropout_is_that_of_the_configuration_unless_rates_are_given(config_of, widths):
    for rates, wanted in (((), (0.3, 0.3)), ((0.0, 0.6), (0.0, 0.6))):
        noise = build_head(config_of(dropout=0.3), widths, (1, 2), rates).noise
        share = (noise.mask(1, 1000, 16) == 0).float().mean(dim=(1, 2, 3))
        assert share.tolist() == pytest.approx(wanted, abs=0.02)
        assert not noise.is_silent
