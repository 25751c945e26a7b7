"""Every fusion of the registry keeps the promises of heads/fusion.py."""

import pytest
import torch

from heads.fusion import FUSIONS, build_fusion
from heads.layers import DropoutRng


@pytest.fixture(params=FUSIONS)
def name(request):
    return request.param


@pytest.fixture
def build(name, config_of, widths, drawn):
    def build(*seeds, stream_widths=widths, dropout=0.0, **values):
        seeds = seeds or (0,)
        rng = DropoutRng(seeds, [dropout] * len(seeds))
        return drawn(build_fusion(name, stream_widths, config_of(**values), rng), *seeds)

    return build


@pytest.fixture(params=[(0,), (0, 1, 2)], ids=["alone", "stacked"])
def seeds(request):
    """One a head."""
    return request.param


@pytest.mark.parametrize(("num_windows", "num_steps"), [(3, 9), (1, 9), (3, 1), (1, 1)])
def test_shape(build, seeds, windows, num_windows, num_steps):
    streams, valid, times = windows(num_windows, num_steps)
    fused = build(*seeds)(streams, valid, times)
    assert fused.shape == (len(seeds), num_windows, num_steps, 16)
    assert fused.isfinite().all()


def test_values_at_invalid_steps_change_nothing(build, seeds, windows, spoiled, junk):
    streams, valid, times = windows()
    results = []
    for value, time in ((0.0, times), (junk, times.masked_fill(~valid, -(2**40)))):
        fusion = build(*seeds)
        inputs = {key: spoiled(x, valid, value).requires_grad_() for key, x in streams.items()}
        fused = fusion(inputs, valid, time)
        fused.square().sum().backward()
        results.append([fused, *(p.grad for p in fusion.parameters()), *(x.grad for x in inputs.values())])
    for clean, spoilt in zip(*results, strict=True):
        torch.testing.assert_close(clean, spoilt, rtol=0, atol=0)
    assert not results[1][0][:, ~valid[0]].any()


def test_gradient_reaches_every_parameter(build, seeds, windows):
    streams, valid, times = windows()
    fusion = build(*seeds, dropout=0.2)
    noise = torch.randn(len(seeds), 3, 9, 16, generator=torch.Generator().manual_seed(1))
    (fusion(streams, valid, times) * noise).sum().backward()
    for key, parameter in fusion.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().flatten(1).amax(dim=1).min() > 1e-6, key


@pytest.mark.parametrize("only", ["expr", "va", "au.b16"])
def test_one_stream_alone(build, windows, widths, only):
    streams, valid, times = windows()
    fused = build(stream_widths={only: widths[only]})(streams, valid, times)
    assert fused.shape == (1, 3, 9, 16)
    assert fused[valid].std() > 0.01


def test_order_of_streams_does_not_matter(build, windows, widths):
    streams, valid, times = windows()
    turned = build(stream_widths=dict(reversed(widths.items())))
    expected = build()(streams, valid, times)
    torch.testing.assert_close(turned(dict(reversed(streams.items())), valid, times), expected, rtol=0, atol=0)


def test_every_stream_counts(build, windows):
    streams, valid, times = windows()
    fusion = build()
    for changed in streams:
        other = {key: -x if key == changed else x for key, x in streams.items()}
        assert (fusion(other, valid, times) - fusion(streams, valid, times))[valid].abs().max() > 0.01, changed


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scale_of_a_stream_does_not_matter(build, windows, scale):
    streams, valid, times = windows()
    fusion = build()
    scaled = streams | {"va": streams["va"] * scale}
    torch.testing.assert_close(fusion(scaled, valid, times), fusion(streams, valid, times), rtol=1e-3, atol=1e-3)


def test_half_precision_embeddings_are_read(build, windows):
    streams, valid, times = windows()
    fused = build()({key: x.half() for key, x in streams.items()}, valid, times)
    assert fused.dtype == torch.float32


def test_windows_do_not_see_each_other(build, windows):
    streams, valid, times = windows()
    fusion = build()
    alone = fusion({key: x[:, 1:2] for key, x in streams.items()}, valid[:, 1:2], times[:, 1:2])
    torch.testing.assert_close(alone, fusion(streams, valid, times)[:, 1:2])


def test_which_steps_see_each_other(build, windows, name):
    streams, valid, times = windows()
    valid[...] = True
    fusion = build()
    other = {key: x.clone() for key, x in streams.items()}
    other["va"][:, :, 4] *= -1
    change = (fusion(other, valid, times) - fusion(streams, valid, times)).abs().amax(dim=(0, 1, 3))
    elsewhere = torch.cat([change[:4], change[5:]])
    assert change[4] > 0.01
    assert (elsewhere > 1e-5).all() if name == "cross-attention" else not elsewhere.any()


def test_a_window_without_valid_steps_is_zero(build, windows):
    streams, valid, times = windows()
    assert not build()(streams, torch.zeros_like(valid), times).any()


def test_state_dict_round_trip(build, windows):
    streams, valid, times = windows()
    first, second = build(0), build(1)
    assert not torch.equal(first(streams, valid, times), second(streams, valid, times))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(streams, valid, times), first(streams, valid, times), rtol=0, atol=0)


def test_same_seed_same_numbers(build):
    for first, second in zip(build(3).parameters(), build(3).parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_missing_stream_is_named(build, windows):
    streams, valid, times = windows()
    del streams["va"]
    with pytest.raises(ValueError, match=r"'va' is missing: this head reads au\.b16, expr, va"):
        build()(streams, valid, times)


def test_unknown_fusion_lists_the_known(config_of, widths):
    with pytest.raises(ValueError, match="fusion: unknown name 'sun'; known: concat, sum, gated, attention, cross"):
        build_fusion("sun", widths, config_of(), DropoutRng((0,), (0.0,)))


def test_gates_differ_between_steps(config_of, widths, windows, drawn):
    """A gate set by the step's streams is not a constant weight."""
    streams, valid, times = windows()
    fusion = drawn(build_fusion("gated", widths, config_of(), DropoutRng((0,), (0.0,))), 0)
    gates = []
    fusion.gates.register_forward_hook(lambda module, inputs, output: gates.append(output))
    fusion(streams, valid, times)
    assert gates[0].shape == (1, 3, 9, 3)
    assert gates[0].std(dim=(0, 1, 2)).min() > 0.01


# Streams of other rates


@pytest.fixture
def aged(windows, widths):
    """Windows whose stream "va" has an age: no row at steps 3 and 5, else rows that began 0 to 8 frames ago."""
    streams, valid, times = windows()
    age = torch.arange(9.0).expand(1, 3, 9).clone()
    age[..., [3, 5]] = -1
    return streams | {"va:age": age.unsqueeze(-1)}, valid, times, widths | {"va:age": 1}


def test_what_stands_where_a_stream_has_no_row_never_matters(build, seeds, aged, junk):
    streams, valid, times, stream_widths = aged
    results = []
    for value in (0.0, junk):
        fusion = build(*seeds, stream_widths=stream_widths)
        x = streams["va"].clone()
        x[:, :, [3, 5]] = value
        fused = fusion(streams | {"va": x.requires_grad_()}, valid, times)
        fused.square().sum().backward()
        results.append([fused, x.grad, *(p.grad for p in fusion.parameters())])
    for clean, spoilt in zip(*results, strict=True):
        torch.testing.assert_close(clean, spoilt, rtol=0, atol=0)
    assert results[0][0][:, valid[0]].abs().amax(dim=-1).min() > 0.01  # the other streams are seen there
    assert all(grad.abs().flatten(1).amax(dim=1).min() > 1e-6 for grad in results[0][2:])


def test_an_age_is_seen(build, aged):
    streams, valid, times, stream_widths = aged
    fusion = build(stream_widths=stream_widths)
    older = streams["va:age"].where(streams["va:age"] < 0, streams["va:age"] + 50)
    change = fusion(streams | {"va:age": older}, valid, times) - fusion(streams, valid, times)
    assert change.abs().max() > 0.01


def test_a_stream_without_any_row_is_as_good_as_none(build, aged):
    streams, valid, times, stream_widths = aged
    fusion = build(stream_widths=stream_widths)
    without = [
        fusion(streams | {"va": x, "va:age": torch.full_like(streams["va:age"], -1)}, valid, times)
        for x in (streams["va"], -streams["va"])
    ]
    torch.testing.assert_close(*without, rtol=0, atol=0)
    assert without[0].isfinite().all()
    assert (without[0] - fusion(streams, valid, times)).abs().max() > 0.01


def test_times_of_rows_are_those_at_which_they_began(config_of, widths, windows, drawn):
    """A row seen at the second or at the third step, and older there, is the same key."""
    fusion = build_fusion("cross-attention", widths | {"va:age": 1}, config_of(), DropoutRng((0,), (0.0,)))
    drawn(fusion, 0)
    for parameter in fusion.tokens.ages.parameters():
        parameter.data.zero_()  # all that is left of an age are the times of keys
    streams, _, times = windows(1, 4)
    streams["va"][...] = streams["va"][:, :, :1]
    valid, age = torch.ones(1, 1, 4, dtype=torch.bool), (times - times[..., :1]).unsqueeze(-1).float()

    def fused(age, step):
        only = torch.arange(4)[:, None] == step
        return fusion(streams | {"va:age": age.where(only, -1)}, valid, times)

    torch.testing.assert_close(fused(age, 1), fused(age, 2), rtol=1e-5, atol=1e-5)
    assert (fused(age, 1) - fused(torch.zeros_like(age), 2)).abs().max() > 1e-3


def test_causal_steps_see_no_later_one(build, aged):
    streams, valid, times, stream_widths = aged
    valid[..., 4:] = True
    fusion = build(stream_widths=stream_widths, causal=True)
    other = {key: torch.cat([x[:, :, :5], -x[:, :, 5:]], dim=2) for key, x in streams.items()}
    before, after = fusion(streams, valid, times), fusion(other, valid, times + 7 * (torch.arange(9) > 4))
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5], rtol=0, atol=0)
    assert (before - after)[:, :, 5:].abs().max() > 0.01
