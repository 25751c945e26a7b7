"""Every temporal encoder of the registry keeps the promises of heads/temporal.py."""

import math

import pytest
import torch

from heads.blocks import ConvolutionBlock, Reach
from heads.config import CONVOLUTIONAL
from heads.layers import DropoutRng
from heads.steps import Steps, log_gaps, rotate, steps_of
from heads.temporal import TEMPORALS, build_temporal

FRAME_WISE = {"none"}
SKIP_INVALID = set(TEMPORALS) - set(CONVOLUTIONAL)  # those count positions: an invalid step keeps its place


@pytest.fixture(params=TEMPORALS)
def name(request):
    return request.param


@pytest.fixture
def build(name, config_of, drawn):
    def build(*seeds, dropout=0.0, **values):
        seeds = seeds or (0,)
        return drawn(build_temporal(name, config_of(**values), DropoutRng(seeds, [dropout] * len(seeds))), *seeds)

    return build


@pytest.fixture(params=[(0,), (0, 1, 2)], ids=["alone", "stacked"])
def seeds(request):
    """One a head."""
    return request.param


@pytest.fixture
def inputs(windows):
    """x [1 or M, 3, 9, 16], valid [1, 3, 9], times [1, 3, 9]."""

    def inputs(num_windows=3, num_steps=9, num_heads=1, width=16):
        _, valid, times = windows(num_windows, num_steps)
        x = torch.randn(num_heads, num_windows, num_steps, width, generator=torch.Generator().manual_seed(5))
        return x, valid, times

    return inputs


@pytest.mark.parametrize(("num_windows", "num_steps"), [(3, 9), (1, 9), (3, 1), (1, 1), (2, 40)])
def test_shape(build, seeds, inputs, num_windows, num_steps):
    x, valid, times = inputs(num_windows, num_steps, num_heads=len(seeds))
    y = build(*seeds)(x, valid, times)
    assert y.shape == x.shape
    assert y.isfinite().all()


@pytest.mark.parametrize("width", [6, 12, 30])
def test_any_width(build, inputs, width):
    x, valid, times = inputs(width=width)
    assert build(width=width, num_heads=3)(x, valid, times).shape == x.shape


def test_values_at_invalid_steps_change_nothing(build, seeds, inputs, spoiled, junk):
    x, valid, times = inputs(num_heads=len(seeds))
    results = []
    for value, time in ((0.0, times), (junk, times.masked_fill(~valid, -(2**40)))):
        encoder = build(*seeds)
        spoilt = spoiled(x, valid, value).requires_grad_()
        y = encoder(spoilt, valid, time)
        (y * torch.arange(16)).sum().backward()
        results.append([y, spoilt.grad, *(p.grad for p in encoder.parameters())])
    for clean, spoilt in zip(*results, strict=True):
        torch.testing.assert_close(clean, spoilt, rtol=0, atol=0)
    assert not results[1][0][:, ~valid[0]].any()
    assert not results[1][1][:, ~valid[0]].any()


def test_gradient_reaches_every_parameter(build, seeds, inputs):
    x, valid, times = inputs(num_heads=len(seeds))
    encoder = build(*seeds, dropout=0.2)
    noise = torch.randn(len(seeds), 3, 9, 16, generator=torch.Generator().manual_seed(1))
    (encoder(x, valid, times) * noise).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().flatten(1).amax(dim=1).min() > 1e-6, key


def test_a_constant_added_to_all_times_changes_nothing(build, inputs):
    x, valid, times = inputs()
    encoder = build()
    torch.testing.assert_close(encoder(x, valid, times + 123_456_789), encoder(x, valid, times), rtol=0, atol=0)


def test_gaps_are_seen(build, inputs, name):
    x, valid, times = inputs()
    encoder = build()
    change = (encoder(x, valid, times * 2) - encoder(x, valid, times)).abs().max()
    assert (change == 0) == (name in FRAME_WISE)


@pytest.mark.parametrize("neighbour", [3, 5])
def test_both_neighbours_are_seen(build, inputs, name, neighbour):
    x, valid, times = inputs()
    valid[..., 3:6] = True
    encoder = build()
    other = x.clone()
    other[:, :, neighbour] = -x[:, :, neighbour]
    change = (encoder(other, valid, times) - encoder(x, valid, times))[:, :, 4].abs().max()
    assert (change == 0) == (name in FRAME_WISE)


def test_causal_steps_see_no_later_one(build, seeds, inputs, name):
    """Neither values nor gaps nor which steps are there."""
    x, valid, times = inputs(num_heads=len(seeds))
    valid[..., 3:5] = True
    encoder = build(*seeds, causal=True)
    later = torch.arange(9) > 4
    other = torch.where(later.unsqueeze(-1), -x, x), torch.where(later, ~valid, valid), times + 50 * later
    before, after = encoder(x, valid, times), encoder(*other)
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5], rtol=0, atol=0)
    assert (build(*seeds)(x, valid, times) - build(*seeds)(*other))[:, :, 4].abs().max() > 1e-4 or name in FRAME_WISE


def test_causal_steps_see_earlier_ones(build, inputs, name):
    x, valid, times = inputs()
    valid[..., 3:6] = True
    encoder = build(causal=True)
    change = (encoder(x.where(torch.arange(9)[:, None] != 3, -x), valid, times) - encoder(x, valid, times))[:, :, 5]
    assert (change.abs().max() == 0) == (name in FRAME_WISE)


def test_windows_do_not_see_each_other(build, inputs):
    x, valid, times = inputs()
    encoder = build()
    alone = encoder(x[:, 1:2], valid[:, 1:2], times[:, 1:2])
    torch.testing.assert_close(alone, encoder(x, valid, times)[:, 1:2])


@pytest.mark.parametrize("side", ["before", "after"])
def test_padding_changes_nothing(build, inputs, side):
    x, valid, times = inputs()
    encoder = build()
    pad = (6, 0) if side == "before" else (0, 6)
    real = slice(6, None) if side == "before" else slice(None, 9)
    padded = [
        torch.nn.functional.pad(x, (0, 0, *pad), value=7.0),
        torch.nn.functional.pad(valid, pad, value=False),
        torch.nn.functional.pad(times, pad, value=-1),
    ]
    torch.testing.assert_close(encoder(*padded)[:, :, real], encoder(x, valid, times))


@pytest.mark.parametrize("name", sorted(SKIP_INVALID))
def test_invalid_steps_are_skipped(build, inputs):
    x, valid, times = inputs()
    encoder = build()
    y = encoder(x, valid, times)
    for window in range(3):
        real = valid[0, window]
        everywhere = torch.ones(1, 1, int(real.sum()), dtype=torch.bool)
        without = encoder(x[:, [window]][:, :, real], everywhere, times[:, [window]][:, :, real])
        torch.testing.assert_close(y[:, [window]][:, :, real], without)


def test_a_window_without_valid_steps_is_zero_and_breaks_nothing(build, inputs, junk):
    x, valid, times = inputs()
    expected = build()(x, valid, times)
    valid[:, 1] = False
    x[:, 1] = junk
    encoder = build()
    y = encoder(x, valid, times)
    y.square().sum().backward()
    assert not y[:, 1].any()
    torch.testing.assert_close(y[:, [0, 2]], expected[:, [0, 2]])
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_state_dict_round_trip(build, inputs):
    first, second = build(0), build(1)
    assert not torch.equal(first(*inputs()), second(*inputs()))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(*inputs()), first(*inputs()), rtol=0, atol=0)


def test_same_seed_same_numbers(build):
    for first, second in zip(build(3).parameters(), build(3).parameters(), strict=True):
        assert torch.equal(first, second)


def test_depth_adds_blocks(build, inputs):
    counts = [sum(p.numel() for p in build(depth=depth).parameters()) for depth in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def test_unknown_encoder_lists_the_known(config_of):
    with pytest.raises(
        ValueError, match="temporal encoder: unknown name 'rnn'; known: none, gru, lstm, ssm, tcn, tcn-multi, "
    ):
        build_temporal("rnn", config_of(), DropoutRng((0,), (0.0,)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_what_is_exported_computes_the_same(build, inputs, monkeypatch, num_steps, causal):
    """ONNX gets other operators for recurrences and gaps; run eagerly here, for each encoder."""
    x, valid, times = inputs(num_steps=num_steps)
    valid[0, 1] = False  # a window without a valid step
    with torch.no_grad():
        plain = build(causal=causal)(x, valid, times)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        torch.testing.assert_close(build(causal=causal)(x, valid, times), plain, rtol=0, atol=1e-6)


def test_gaps_by_hand():
    valid = torch.tensor([[[False, True, True, False, True], [False] * 5]])
    times = torch.tensor([[[999, 10, 11, -5, 111], [1, 2, 3, 4, 5]]])
    steps = steps_of(valid, times)
    assert steps.frames.tolist() == [[[0, 0, 1, 0, 101], [0] * 5]]
    gaps = log_gaps(steps)[0]
    assert gaps[0, :, 0].tolist() == pytest.approx([0, 0, math.log(2), 0, math.log(101)])
    assert gaps[0, :, 1].tolist() == pytest.approx([0, math.log(2), math.log(101), 0, 0])
    assert not gaps[1].any()


def test_absent_neighbours_are_made_up_for(config_of, drawn):
    """With equal taps and equal embeddings, a step cannot tell how many of its neighbours are there."""
    block = drawn(ConvolutionBlock(dilation=2, config=config_of(kernel=5), rng=DropoutRng((0,), (0.0,))), 0)
    weight = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(2))
    block.taps.weight.data = weight.repeat(1, 1, 5)
    x = torch.randn(16, generator=torch.Generator().manual_seed(3)).expand(1, 1, 9, 16)
    valid = torch.tensor([[[True, True, False, True, True, False, False, True, True]]])
    y = block(x, Steps(valid, torch.zeros(1, 1, 9, dtype=torch.int64)))[valid]
    assert y.std() > 0.01
    torch.testing.assert_close(y, y[:1].expand_as(y))


def test_rotation_depends_on_the_distance_alone():
    generator = torch.Generator().manual_seed(4)
    query, key = torch.randn(2, 1, 1, 1, 1, 8, generator=generator)

    def product(at: int, to: int) -> float:
        return float((rotate(query, torch.tensor([[[at]]])) * rotate(key, torch.tensor([[[to]]]))).sum())

    assert product(3, 10) == pytest.approx(product(103, 110), abs=1e-4)
    assert product(0, 1) != pytest.approx(product(0, 2), abs=1e-2)
    assert product(0, 300) != pytest.approx(product(0, 500), abs=1e-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 2), (5, 8)])
def test_the_gradient_of_taps_is_autograds(kernel: int, dilation: int, causal: bool) -> None:
    """Bit for bit; the widest reach beyond the window."""
    reach, generator = Reach(kernel, dilation, causal), torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 9, 4, generator=generator).requires_grad_()
    outer = torch.randn(2, 3, 9, 4 * kernel, generator=generator)
    (found,), (expected,) = (torch.autograd.grad(taps(x), x, outer) for taps in (reach.neighbours, reach.side_by_side))
    assert torch.equal(found, expected)
