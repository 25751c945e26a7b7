"""The masked autoencoder: what its encoder sees, what its loss counts, which models it takes."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from extract.backbones.mae import (
    MaskedAutoencoder,
    check_vit,
    draw_orders,
    patches_of,
    pixels_of,
    spread_of,
)

SIDE = 64
# Class token, registers, class pooling by attention, norm after pooling: every kind of ViT that timm has tests for.
MODELS = [name for name in timm.list_models("test_vit*") if name != "test_vit_relpos"]


def make(model: str = "test_vit", ratio: float = 0.75, normalise: bool = True, **options: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = timm.create_model(model, num_classes=0, img_size=SIDE, **options)
    return MaskedAutoencoder(encoder, mask_ratio=ratio, decoder_width=32, decoder_depth=1, normalise=normalise)


def faces(num: int = 3) -> Tensor:
    return torch.randn(num, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def orders(model: MaskedAutoencoder, num: int = 3, seed: int = 0) -> Tensor:
    return torch.from_numpy(draw_orders(num, model.num_patches, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", MODELS)
def test_with_nothing_masked_it_is_timms_forward_pass(name: str) -> None:
    model = make(name, ratio=0.0)
    order = orders(model)
    tokens = model.encode(faces(), order)
    plain = timm.create_model(name, num_classes=0, img_size=SIDE)
    plain.load_state_dict(model.encoder.state_dict())
    expected = plain.fc_norm(plain.forward_features(faces()))
    prefix = plain.num_prefix_tokens
    torch.testing.assert_close(tokens[:, :prefix], expected[:, :prefix], rtol=1e-4, atol=1e-5)
    shuffled = expected[:, prefix:].gather(1, order[..., None].expand(-1, -1, plain.embed_dim))
    torch.testing.assert_close(tokens[:, prefix:], shuffled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_pixels_change_nothing_that_is_encoded(name: str) -> None:
    model = make(name)
    order, pixels = orders(model), faces()
    hidden = ~model.seen(order)
    patches = patches_of(pixels, model.patch_px)
    patches[hidden] += 7
    other = pixels_of(patches, model.grid)
    assert not torch.equal(other, pixels)
    assert torch.equal(model.encode(other, order), model.encode(pixels, order))


def test_the_blocks_see_only_what_is_visible() -> None:
    model = make()
    seen: list[int] = []
    model.encoder.blocks[0].register_forward_hook(lambda module, given, out: seen.append(given[0].shape[1]))
    model.encode(faces(), orders(model))
    assert seen == [model.encoder.num_prefix_tokens + 4]  # 4 of 16 patches


@pytest.mark.parametrize(("ratio", "visible"), [(0.75, 4), (0.5, 8), (0.9, 2), (0.0, 16), (1.0, 0)])
def test_the_masked_share_is_exact(ratio: float, visible: int) -> None:
    model = make(ratio=ratio)
    assert model.num_visible == visible
    assert model.seen(orders(model)).sum(dim=1).tolist() == [visible] * 3


def test_the_loss_is_the_mean_over_masked_patches_alone() -> None:
    model = make()
    order, pixels = orders(model), faces()
    targets, drawn = model.targets(pixels), model.draw(pixels, order)
    expected = []
    for face in range(3):
        hidden = order[face, 4:]
        expected.append((drawn[face, hidden] - targets[face, hidden]).square().mean())
    torch.testing.assert_close(model(pixels, order), torch.stack(expected))


def test_targets_are_normalised_a_patch() -> None:
    targets = make().targets(5 + 3 * faces())
    assert targets.shape == (3, 16, 3 * 16 * 16)
    mean, deviation = spread_of(targets)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)
    raw = make(normalise=False).targets(faces())
    assert torch.equal(raw, patches_of(faces(), 16))


def test_patches_are_cut_row_by_row_and_put_back() -> None:
    pixels = faces()
    patches = patches_of(pixels, 16)
    assert torch.equal(patches[1, 6].reshape(16, 16, 3), pixels[1, :, 16:32, 32:48].permute(1, 2, 0))
    assert torch.equal(pixels_of(patches, (4, 4)), pixels)


@pytest.mark.parametrize("normalise", [True, False])
def test_reconstructions_keep_what_was_seen(normalise: bool) -> None:
    model = make(normalise=normalise)
    order, pixels = orders(model), faces()
    seen = model.seen(order)
    patches, drawn = patches_of(pixels, 16), patches_of(model.reconstruct(pixels, order), 16)
    assert torch.equal(drawn[seen], patches[seen])
    assert not torch.isclose(drawn[~seen], patches[~seen]).all()


@pytest.mark.parametrize("name", MODELS)
def test_gradient_reaches_every_trained_parameter(name: str) -> None:
    model = make(name)
    model(faces(), orders(model)).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum()]
    assert not without
    assert all("attn_pool" in name for name, p in model.named_parameters() if not p.requires_grad)


def test_the_encoder_keeps_timms_names() -> None:
    assert list(make("test_vit3").encoder.state_dict()) == list(
        timm.create_model("test_vit3", num_classes=0, img_size=SIDE).state_dict()
    )


def test_gradient_checkpointing_changes_no_number() -> None:
    model = make()
    order = orders(model)
    expected = model(faces(), order)
    model.encoder.set_grad_checkpointing(True)
    assert torch.equal(model.train()(faces(), order), expected)


@pytest.mark.parametrize(
    ("name", "size_px", "says"),
    [
        ("test_convnext", 64, "vit_small_patch16_224"),
        ("test_vit_relpos", 160, "cut straight from the face"),
        ("test_vit", 100, "patches of 16 px; set pretrain.size_px to a multiple, as 96"),
    ],
)
def test_other_models_are_refused(name: str, size_px: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_vit(timm.create_model(name, num_classes=0), name, size_px)
