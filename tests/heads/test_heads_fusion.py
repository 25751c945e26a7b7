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
    def build(*seeds, stream_widths=widths, dropout=0.0):
        seeds = seeds or (0,)
        return drawn(build_fusion(name, stream_widths, config_of(), DropoutRng(seeds, [dropout] * len(seeds))), *seeds)

    return build


@pytest.fixture(params=[(0,), (0, 1, 2)], ids=["alone", "stacked"])
def seeds(request):
    """One a head."""
    return request.param


@pytest.mark.parametrize(("num_windows", "num_steps"), [(3, 9), (1, 9), (3, 1), (1, 1)])
def test_shape(build, seeds, windows, num_windows, num_steps):
    streams, valid, _ = windows(num_windows, num_steps)
    fused = build(*seeds)(streams, valid)
    assert fused.shape == (len(seeds), num_windows, num_steps, 16)
    assert fused.isfinite().all()


def test_values_at_invalid_steps_change_nothing(build, seeds, windows, spoiled, junk):
    streams, valid, _ = windows()
    results = []
    for value in (0.0, junk):
        fusion = build(*seeds)
        inputs = {key: spoiled(x, valid, value).requires_grad_() for key, x in streams.items()}
        fused = fusion(inputs, valid)
        fused.square().sum().backward()
        results.append([fused, *(p.grad for p in fusion.parameters()), *(x.grad for x in inputs.values())])
    for clean, spoilt in zip(*results, strict=True):
        torch.testing.assert_close(clean, spoilt, rtol=0, atol=0)
    assert not results[1][0][:, ~valid[0]].any()


def test_gradient_reaches_every_parameter(build, seeds, windows):
    streams, valid, _ = windows()
    fusion = build(*seeds, dropout=0.2)
    noise = torch.randn(len(seeds), 3, 9, 16, generator=torch.Generator().manual_seed(1))
    (fusion(streams, valid) * noise).sum().backward()
    for key, parameter in fusion.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().flatten(1).amax(dim=1).min() > 1e-6, key


@pytest.mark.parametrize("only", ["expr", "va", "au.b16"])
def test_one_stream_alone(build, windows, widths, only):
    streams, valid, _ = windows()
    fused = build(stream_widths={only: widths[only]})(streams, valid)
    assert fused.shape == (1, 3, 9, 16)
    assert fused[valid].std() > 0.01


def test_order_of_streams_does_not_matter(build, windows, widths):
    streams, valid, _ = windows()
    turned = build(stream_widths=dict(reversed(widths.items())))
    expected = build()(streams, valid)
    torch.testing.assert_close(turned(dict(reversed(streams.items())), valid), expected, rtol=0, atol=0)


def test_every_stream_counts(build, windows):
    streams, valid, _ = windows()
    fusion = build()
    for changed in streams:
        other = {key: -x if key == changed else x for key, x in streams.items()}
        assert (fusion(other, valid) - fusion(streams, valid))[valid].abs().max() > 0.01, changed


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scale_of_a_stream_does_not_matter(build, windows, scale):
    streams, valid, _ = windows()
    fusion = build()
    scaled = streams | {"va": streams["va"] * scale}
    torch.testing.assert_close(fusion(scaled, valid), fusion(streams, valid), rtol=1e-3, atol=1e-3)


def test_half_precision_embeddings_are_read(build, windows):
    streams, valid, _ = windows()
    fused = build()({key: x.half() for key, x in streams.items()}, valid)
    assert fused.dtype == torch.float32


def test_steps_and_windows_do_not_see_each_other(build, windows):
    streams, valid, _ = windows()
    fusion = build()
    alone = fusion({key: x[:, 1:2, 4:5] for key, x in streams.items()}, valid[:, 1:2, 4:5])
    torch.testing.assert_close(alone, fusion(streams, valid)[:, 1:2, 4:5])


def test_a_window_without_valid_steps_is_zero(build, windows):
    streams, valid, _ = windows()
    assert not build()(streams, torch.zeros_like(valid)).any()


def test_state_dict_round_trip(build, windows):
    streams, valid, _ = windows()
    first, second = build(0), build(1)
    assert not torch.equal(first(streams, valid), second(streams, valid))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(streams, valid), first(streams, valid), rtol=0, atol=0)


def test_same_seed_same_numbers(build):
    for first, second in zip(build(3).parameters(), build(3).parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_missing_stream_is_named(build, windows):
    streams, valid, _ = windows()
    del streams["va"]
    with pytest.raises(ValueError, match=r"'va' is missing: this head reads au\.b16, expr, va"):
        build()(streams, valid)


def test_unknown_fusion_lists_the_known(config_of, widths):
    with pytest.raises(ValueError, match="fusion: unknown name 'sun'; known: concat, sum, gated, attention"):
        build_fusion("sun", widths, config_of(), DropoutRng((0,), (0.0,)))


def test_gates_differ_between_steps(config_of, widths, windows, drawn):
    """A gate set by the step's streams is not a constant weight."""
    streams, valid, _ = windows()
    fusion = drawn(build_fusion("gated", widths, config_of(), DropoutRng((0,), (0.0,))), 0)
    gates = []
    fusion.gates.register_forward_hook(lambda module, inputs, output: gates.append(output))
    fusion(streams, valid)
    assert gates[0].shape == (1, 3, 9, 3)
    assert gates[0].std(dim=(0, 1, 2)).min() > 0.01
