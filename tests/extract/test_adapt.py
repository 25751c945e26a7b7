"""What of a backbone learns: layers, freezing, gradient checkpoints, drop path and LoRA, over timm's families."""

import copy
import sys
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import nn

from extract.backbones.adapt import add_lora, checkpoint_gradients, freeze, merge_lora
from extract.backbones.build import build_trainable
from extract.backbones.layers import block_names, layer_ids, num_layers

CONVOLUTIONS = ("test_convnext", "test_efficientnet", "test_resnet", "test_iresnet", "test_byobnet", "test_mambaout")
TRANSFORMERS = ("test_vit", "test_vit2", "test_vit3", "test_vit_relpos", "test_maxvit")
WITH_NORM_STATISTICS = ("test_efficientnet", "test_resnet", "test_iresnet")
# Of other families, and larger: built, never run.
OTHERS = ("mobilenetv3_small_050", "mobilenetv4_conv_small", "repvit_m0_9", "regnetx_002", "densenet121", "vgg11")
SIZE_PX = {"test_iresnet": 112}
LORA = ("test_vit", "test_vit3", "test_maxvit")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """torch's threads wait for one another spinning, which takes minutes where tests share the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(model: str, seed: int = 0, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, num_classes=0, **options)


def some_faces(model: str, num: int = 3, seed: int = 0) -> torch.Tensor:
    size_px = SIZE_PX.get(model, 160)
    return torch.randn(num, 3, size_px, size_px, generator=torch.Generator().manual_seed(seed))


def one_step(module: nn.Module, model: str) -> None:
    """One step of training with a large rate on everything that learns."""
    module.train()
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.1)
    module(some_faces(model)).square().mean().backward()
    optimiser.step()


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# Layers


@pytest.mark.parametrize("model", CONVOLUTIONS + TRANSFORMERS + OTHERS)
def test_layers_are_timms(model: str) -> None:
    """Every parameter has a layer, no number is skipped, and the rates are those of timm's own grouping."""
    module = made(model)
    layers = layer_ids(module)
    assert set(layers) == {name for name, _ in module.named_parameters()}
    assert sorted({*layers.values()}) == list(range(num_layers(module)))
    named = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in timm.optim.param_groups_layer_decay(module, layer_decay=0.5):
        for parameter in group["params"]:
            assert group["lr_scale"] == 0.5 ** (num_layers(module) - 1 - layers[named[id(parameter)]])


@pytest.mark.parametrize(
    ("model", "stem", "block", "last"),
    [
        ("test_vit", "patch_embed.proj.weight", ("blocks.2.attn.qkv.weight", 3), "norm.bias"),
        ("test_convnext", "stem.0.weight", ("stages.0.blocks.0.gamma", 1), "head.norm.weight"),
        ("test_resnet", "conv1.0.weight", ("layer2.0.conv1.weight", 2), "layer4.0.bn2.weight"),
        ("test_iresnet", "prelu.weight", ("layer2.1.prelu.weight", 3), "fc.weight"),
        ("test_efficientnet", "conv_stem.weight", ("blocks.1.0.bn1.weight", 2), "conv_head.weight"),
    ],
)
def test_layers_by_name(model: str, stem: str, block: tuple[str, int], last: str) -> None:
    layers = layer_ids(made(model))
    assert layers[stem] == 0
    assert layers[block[0]] == block[1]
    assert layers[last] == max(layers.values())


def test_adapters_are_of_their_block() -> None:
    module = made("test_vit")
    before = layer_ids(module)
    add_lora(module, 2, 4.0)
    after = layer_ids(module)
    assert after["blocks.3.attn.qkv.lora_A.default.weight"] == before["blocks.3.attn.qkv.weight"]
    assert num_layers(module) == max(before.values()) + 1


def test_a_norm_alone_is_no_block() -> None:
    blocks = block_names(made("test_convnext"))
    assert "head.norm.weight" in blocks[-1]
    assert any(name.startswith("stages.3.") for name in blocks[-1])
    assert len(blocks) < num_layers(made("test_convnext"))


# Freezing


@pytest.mark.parametrize("mode", ["frozen", "partial"])
@pytest.mark.parametrize("model", CONVOLUTIONS[:4] + TRANSFORMERS[:2])
def test_what_is_frozen_stays_bit_for_bit(model: str, mode: str) -> None:
    """Statistics included; the rest moves. The output below stands in for the heads, which always learn."""
    module = nn.Sequential(made(model), nn.LazyLinear(2))
    module(some_faces(model))
    backbone = module[0]
    learning = freeze(backbone, mode, 2 if mode == "partial" else 0)
    last_two = {name for names in block_names(backbone)[-2:] for name in names}
    assert set(learning) == (last_two if mode == "partial" else set())
    before = tensors(backbone)
    one_step(module, model)
    moved = changed(before, backbone)
    parts = {name.rpartition(".")[0] for name in learning}
    assert {name for name in moved if name in dict(backbone.named_parameters())} <= set(learning)
    assert {name.rpartition(".")[0] for name in moved} <= parts
    assert bool(moved) == (mode == "partial")
    if mode == "partial" and model in WITH_NORM_STATISTICS:
        assert any(name.endswith("running_mean") for name in moved)
    frozen = [parameter for name, parameter in backbone.named_parameters() if name not in learning]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_the_backward_pass_ends_at_the_frozen_part(model: str) -> None:
    module = made(model).train()
    blocks = [part for name, part in module.named_modules() if name in ("blocks.0", "layer1.0")]
    ends: list[bool] = []
    blocks[0].register_forward_hook(lambda _, __, maps: ends.append(maps.requires_grad))
    module(some_faces(model))
    freeze(module, "partial", 1)
    module(some_faces(model)).sum().backward()
    assert ends == [True, False]


def test_freezing_everything_gives_the_evaluated_embedding() -> None:
    """In training mode too: batch statistics are not used and no block is skipped."""
    module = made("test_efficientnet", drop_path_rate=0.5)
    freeze(module, "frozen")
    faces = some_faces("test_efficientnet")
    torch.testing.assert_close(module.train()(faces), module.eval()(faces), rtol=0, atol=0)


def test_full_undoes_freezing() -> None:
    module, plain = made("test_resnet"), made("test_resnet")
    before = tensors(module)
    freeze(module, "frozen")
    assert set(freeze(module, "full")) == {name for name, _ in module.named_parameters()}
    one_step(module, "test_resnet")
    one_step(plain, "test_resnet")
    assert changed(tensors(plain), module) == set()
    assert "bn1.running_mean" in changed(before, module)


def test_freezing_goes_with_a_copy() -> None:
    """A copy's parts are its own: setting one to train touches no other."""
    module = made("test_resnet")
    freeze(module, "partial", 1)
    twin = copy.deepcopy(module).eval()
    module.train()
    assert not any(part.training for part in twin.modules())
    twin.train()
    assert [part.training for part in twin.modules()] == [part.training for part in module.modules()]
    assert not twin.bn1.training
    assert twin.layer4[0].bn1.training


def test_parts_put_in_later_stand_still_too() -> None:
    module = made("test_resnet")
    freeze(module, "partial", 1)
    module.bn1 = nn.BatchNorm2d(module.bn1.num_features)
    assert not module.train().bn1.training


@pytest.mark.parametrize(("mode", "num"), [("partial", 0), ("partial", 99), ("half", 1)])
def test_what_cannot_be_frozen(mode: str, num: int) -> None:
    with pytest.raises(ValueError, match=r"known are full, partial, frozen|test_vit has 7 blocks, so 1 to 7"):
        freeze(made("test_vit"), mode, num)  # type: ignore[arg-type]


# Gradient checkpoints


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "test_iresnet"])
def test_checkpoints_change_no_number(model: str) -> None:
    """Gradients, and the statistics of norms, which see each batch twice."""
    plain, frugal = made(model, drop_path_rate=0.3), made(model, drop_path_rate=0.3)
    checkpoint_gradients(frugal)
    kept = [0, 0]
    for place, module in enumerate((plain, frugal)):

        def pack(tensor: torch.Tensor, place: int = place) -> torch.Tensor:
            kept[place] += tensor.numel()
            return tensor

        with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            torch.manual_seed(3)
            loss = module.train()(some_faces(model)).square().mean()
        loss.backward()
    assert kept[1] < kept[0]
    for (name, one), (_, other) in zip(plain.named_parameters(), frugal.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7, msg=name)
    for (name, one), (_, other) in zip(plain.named_buffers(), frugal.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    norms = [[part.momentum for part in m.modules() if isinstance(part, nn.BatchNorm2d)] for m in (plain, frugal)]
    assert norms[0] == norms[1]


def test_a_model_without_checkpoints() -> None:
    with pytest.raises(ValueError, match=r"vgg11 has no gradient checkpointing in timm; turn it off"):
        checkpoint_gradients(made("vgg11"))
    with pytest.raises(ValueError, match="Linear has no gradient checkpointing"):
        checkpoint_gradients(nn.Linear(2, 2))


# Drop path


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "test_iresnet"])
def test_drop_path_skips_blocks(model: str) -> None:
    module, _ = build_trainable(model, 2, None, "random", drop_path=0.4)
    rates = [part.drop_prob for part in module.modules() if type(part).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.4, abs=0.15)  # EfficientNet's last block gets less
    assert min(rates, default=0.0) < 0.3
    plain, _ = build_trainable(model, 2, None, "random")
    faces = some_faces(model)
    torch.testing.assert_close(module.eval()(faces), plain.eval()(faces), rtol=0, atol=0)
    assert module.state_dict().keys() == plain.state_dict().keys()


def test_drop_path_where_there_are_no_blocks() -> None:
    with pytest.raises(ValueError, match=r"vgg11: vgg11 has no blocks to skip .*set drop_path to 0"):
        build_trainable("vgg11", 2, None, "random", drop_path=0.1)
    with pytest.raises(ValueError, match="test_vit: drop_path is 1"):
        build_trainable("test_vit", 2, None, "random", drop_path=1)


# LoRA


@pytest.mark.parametrize("model", LORA)
def test_adapters_learn_and_merge(model: str) -> None:
    module = made(model).eval()
    before, faces = tensors(module), some_faces(model, 2)
    embeddings = module(faces)
    learning = add_lora(module, 2, 4.0, seed=1)
    torch.testing.assert_close(module(faces), embeddings, rtol=1e-5, atol=1e-6)  # B is zero
    assert all(".lora_A." in name or ".lora_B." in name for name in learning)
    assert any(".attn." in name for name in learning)
    few = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert few < 0.1 * sum(parameter.numel() for parameter in module.parameters())
    one_step(module, model)
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)
    for name, parameter in module.named_parameters():
        if ".lora_B." in name:  # as after a long training
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
    adapted = module.eval()(faces)
    merged = merge_lora(copy.deepcopy(module))
    assert [*merged.state_dict()] == [*before]
    torch.testing.assert_close(merged(faces), adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapted, embeddings, atol=1e-3)
    plain = made(model, seed=9).eval()
    plain.load_state_dict(merged.state_dict())
    torch.testing.assert_close(plain(faces), merged(faces), rtol=0, atol=0)
    assert changed(before, merged) == {name for name in before if name + "_" in _adapted(learning)}
    assert merged.train().training
    assert merge_lora(merged) is merged


def _adapted(learning: tuple[str, ...]) -> set[str]:
    """The weights under adapters, marked by a dash."""
    return {name.partition(".lora_")[0] + ".weight_" for name in learning}


def test_what_lies_under_adapters_stays() -> None:
    """Batch statistics of the hybrid's convolutions too, before and after the first step."""
    module = made("test_maxvit")
    learning = add_lora(module, 2, 4.0)
    before = tensors(module)
    one_step(module, "test_maxvit")
    assert changed(before, module) <= set(learning)


def test_adapters_come_from_their_seed() -> None:
    state = torch.random.get_rng_state()
    one, again, other = made("test_vit"), made("test_vit"), made("test_vit")
    for module, seed in ((one, 1), (again, 1), (other, 2)):
        add_lora(module, 2, 4.0, seed=seed)
    name = "blocks.0.attn.qkv.lora_A.default.weight"
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_adapters_of_attention_alone() -> None:
    names = add_lora(made("test_vit"), 2, 4.0, mlp=False)
    assert {name.split(".")[2] for name in names} == {"attn"}


def test_no_adapter_where_it_would_be_passed_by() -> None:
    """BEiT multiplies by the weights of its qkv layer without calling it."""
    names = add_lora(made("beit_base_patch16_224", depth=1, embed_dim=48, num_heads=3), 2, 4.0)
    assert {".".join(name.split(".")[2:4]) for name in names} == {"attn.proj", "mlp.fc1", "mlp.fc2"}


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext"])
def test_adapters_are_for_transformers(model: str) -> None:
    with pytest.raises(ValueError, match=f"{model} has no attention that LoRA can adapt"):
        add_lora(made(model), 4, 8.0)


@pytest.mark.parametrize("numbers", [(0, 8.0, 0.0), (4, 0.0, 0.0), (4, 8.0, 1.0)])
def test_numbers_that_make_no_adapter(numbers: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match=rf"LoRA of rank {numbers[0]}"):
        add_lora(made("test_vit"), *numbers)


def test_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"LoRA needs peft: pip install 'mtl-affect\[lora\]'"):
        add_lora(made("test_vit"), 4, 8.0)
