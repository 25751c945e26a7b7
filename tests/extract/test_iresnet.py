"""IR face nets: timm's in every respect, and the published families' checkpoints, mapped only where they are alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from extract.backbones import iresnet
from extract.backbones.build import Backbone, build_trainable, load_backbone, save_backbone
from extract.backbones.iresnet import IResNet, checkpoint_filter_fn
from extract.backbones.iresnet_families import ADAFACE, EVOLVE, EVOLVE_SE, INSIGHTFACE, Family
from extract.backbones.layers import num_layers
from extract.config import BackboneConfig

FAMILIES = {"insightface": INSIGHTFACE, "adaface": ADAFACE, "evolve": EVOLVE, "evolve_se": EVOLVE_SE}
WIDTHS, DEPTHS, WIDTH = (16, 16, 32, 32), (1, 2, 1, 1), 24


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """torch's threads wait for one another spinning, which takes minutes where tests share the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The architectures of the test_iresnet in every family, under the names of the large ones."""
    for name, family in (
        ("iresnet50", INSIGHTFACE),
        ("adaface_ir50", ADAFACE),
        ("ir50", EVOLVE),
        ("irse50", EVOLVE_SE),
    ):
        entry = {"depths": DEPTHS, "widths": WIDTHS, "num_features": WIDTH, "family": family}
        monkeypatch.setitem(iresnet.ARCHITECTURES, name, entry)


def net(family: Family, seed: int = 0, **options: object) -> IResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = IResNet(**{"depths": DEPTHS, "widths": WIDTHS, "num_features": WIDTH, "family": family, **options})
    return stirred(module)


def stirred(module: nn.Module) -> nn.Module:
    """Norms as after training, so that an exchange of two of them shows."""
    random = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=random) * 0.1)
        elif name.endswith("running_var") or value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
    return module.eval()


def faces(size_px: int = 112, num: int = 2) -> Tensor:
    return torch.randn(num, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


class Squeeze(nn.Module):
    """Squeeze and excitation as face.evoLVe names its parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(width // 16, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Block(nn.Module):
    """A block as AdaFace and face.evoLVe name its parts."""

    def __init__(self, before: int, width: int, stride: int, family: Family) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if before == width
            else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, width, 3, 1, 1, bias=False),
            *([nn.BatchNorm2d(width)] if family.middle_norm else []),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            *([Squeeze(width)] if family.se else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def theirs(family: Family, depths: tuple[int, ...] = DEPTHS) -> nn.Sequential:
    """A net of the other two families, with their names, written down apart from ours."""
    body, before = [], WIDTHS[0]
    for width, depth in zip(WIDTHS, depths, strict=True):
        for place in range(depth):
            body.append(Block(before, width, 1 if place else 2, family))
            before = width
    whole = nn.Sequential()
    whole.add_module(
        "input_layer", nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.PReLU(16))
    )
    whole.add_module("body", nn.Sequential(*body))
    ends = (nn.Linear(32 * 49, WIDTH), nn.BatchNorm1d(WIDTH, affine=family.last_norm_weights))
    whole.add_module("output_layer", nn.Sequential(nn.BatchNorm2d(32), nn.Dropout(), nn.Flatten(), *ends))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for part in whole.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.reset_parameters()
    return stirred(whole)


def load(folder: Path, model: str, weights: str = "weights.pt") -> Backbone:
    return load_backbone("face", BackboneConfig(model=model, weights=weights), folder)


# timm's in every respect


@pytest.mark.parametrize("model", [*iresnet.ARCHITECTURES])
def test_timm_knows_them(model: str) -> None:
    assert timm.is_model(model)
    config = timm.get_pretrained_cfg(model)
    assert config.input_size == (3, 112, 112)
    assert (config.mean, config.std, config.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bilinear")
    assert not timm.is_model_pretrained(model)


@pytest.mark.parametrize(
    ("model", "millions"), [("iresnet18", 24.03), ("iresnet50", 43.59), ("ir50", 43.57), ("irse50", 43.80)]
)
def test_as_large_as_published(model: str, millions: float) -> None:
    module = timm.create_model(model)
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert module.fc.weight.shape == (512, 512 * 7 * 7)
    assert num_layers(module) == sum(module.depths) + 2


@pytest.mark.parametrize("size_px", [64, 96, 112, 160, 224])
@pytest.mark.parametrize("family", [*FAMILIES])
def test_any_input_size(family: str, size_px: int) -> None:
    assert net(FAMILIES[family])(faces(size_px)).shape == (2, WIDTH)


def test_a_classifier_on_top() -> None:
    module = timm.create_model("test_iresnet", num_classes=5).eval()
    assert module(faces()).shape == (2, 5)
    embedding = module.forward_head(module.forward_features(faces()), pre_logits=True)
    torch.testing.assert_close(module.get_classifier()(embedding), module(faces()), rtol=0, atol=0)
    module.reset_classifier(0)
    torch.testing.assert_close(module(faces()), embedding, rtol=0, atol=0)
    assert not any(name.startswith("head") for name in module.state_dict())


def test_saved_and_found_again(tmp_path: Path) -> None:
    module, preprocessing = build_trainable("test_iresnet", 2, 96, "random", seed=3)
    save_backbone(tmp_path / "face.safetensors", module.backbone, "test_iresnet", preprocessing, {})
    backbone = load(tmp_path, "test_iresnet", "face.safetensors")
    assert (backbone.width, backbone.preprocessing.size_px, backbone.architecture) == (64, 96, "test_iresnet")
    torch.testing.assert_close(backbone.module(faces(96)), module.eval().backbone(faces(96)), rtol=0, atol=0)


# insightface's names


def test_the_names_are_insightfaces() -> None:
    """As published for iresnet18, written out by hand."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", "prelu.weight", "fc.weight", "fc.bias"}
    names |= {f"{layer}.{part}" for layer in ("bn1", "bn2", "features") for part in norm}
    for stage in (1, 2, 3, 4):
        for block in (f"layer{stage}.0", f"layer{stage}.1"):
            names |= {f"{block}.conv1.weight", f"{block}.conv2.weight", f"{block}.prelu.weight"}
            names |= {f"{block}.bn{number}.{part}" for number in (1, 2, 3) for part in norm}
        names |= {f"layer{stage}.0.downsample.0.weight"}
        names |= {f"layer{stage}.0.downsample.1.{part}" for part in norm}
    assert set(timm.create_model("iresnet18").state_dict()) == names


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_a_checkpoint_of_insightface(tmp_path: Path, prefix: str) -> None:
    published = net(INSIGHTFACE, seed=7)
    torch.save({prefix + name: value for name, value in published.state_dict().items()}, tmp_path / "weights.pt")
    torch.testing.assert_close(load(tmp_path, "iresnet50").module(faces()), published(faces()), rtol=0, atol=0)


# The other families' names


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("family", "model", "prefix"),
    [("evolve", "ir50", ""), ("evolve_se", "irse50", "module."), ("adaface", "adaface_ir50", "model.")],
)
def test_a_checkpoint_of_another_family(tmp_path: Path, family: str, model: str, prefix: str) -> None:
    """The same embedding as the net written down in their names; AdaFace's sees the colours the other way round."""
    published = theirs(FAMILIES[family])
    state = {prefix + name: value for name, value in published.state_dict().items()}
    torch.save({"state_dict": state | {"head.kernel": torch.ones(WIDTH, 9)}}, tmp_path / "weights.pt")
    seen = faces().flip(1) if family == "adaface" else faces()
    embeddings = load(tmp_path, model).module(faces())
    torch.testing.assert_close(embeddings, published(seen), rtol=1e-4, atol=1e-5)
    if family == "adaface":
        assert not torch.allclose(embeddings, published(faces()), atol=1e-3)


@pytest.mark.parametrize("of", ["adaface", "evolve", "evolve_se"])
@pytest.mark.parametrize("into", [*FAMILIES])
def test_only_equal_structures_are_mapped(of: str, into: str) -> None:
    state = theirs(FAMILIES[of]).state_dict()
    if of == into:
        assert set(checkpoint_filter_fn(state, net(FAMILIES[into]))) == set(net(FAMILIES[into]).state_dict())
    else:
        with pytest.raises(ValueError, match="another family or depth"):
            checkpoint_filter_fn(state, net(FAMILIES[into]))


def test_another_depth_is_not_mapped() -> None:
    for depths in ((1, 2, 1, 2), (1, 1, 1, 1)):
        with pytest.raises(ValueError, match="another family or depth"):
            checkpoint_filter_fn(theirs(EVOLVE, depths).state_dict(), net(EVOLVE))


@pytest.mark.usefixtures("small")
def test_a_wrong_family_is_refused_for_training_too(tmp_path: Path) -> None:
    torch.save(theirs(ADAFACE).state_dict(), tmp_path / "weights.pt")
    for model in ("iresnet50", "ir50"):
        with pytest.raises(ValueError, match=rf"0 of \d+ tensors match {model}"):
            build_trainable(model, 2, None, "weights.pt", folder=tmp_path)
