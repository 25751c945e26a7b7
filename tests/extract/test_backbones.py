"""Backbones: weights from everywhere, of the right model or refused, and timm's own preprocessing."""

import argparse
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform

from extract.backbones.build import (
    Backbone,
    TrainableBackbone,
    build_trainable,
    face_transform,
    load_backbone,
    normalise,
    read_weights,
    save_backbone,
)
from extract.backbones.timm_models import cut_short
from extract.backbones.weights import DIGEST, save_tensors
from extract.config import BackboneConfig, Preprocessing

MODELS = ("test_vit", "test_convnext", "test_efficientnet", "test_resnet", "test_iresnet")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """torch's threads wait for one another spinning, which takes minutes where tests share the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(folder: Path = Path(), model: str = "test_vit", weights: str = "random", **options: object) -> Backbone:
    return load_backbone("expr", BackboneConfig(model=model, weights=weights, **options), folder)


def classifier(model: str = "test_vit", seed: int = 3, **options: object) -> torch.nn.Module:
    """timm's whole model, classifier and all, as other people's checkpoints have it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, num_classes=8, **options).eval()


def embeddings(module: torch.nn.Module, size_px: int = 160) -> torch.Tensor:
    x = torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return module(x)


def of_classifier(module: torch.nn.Module, size_px: int = 160) -> torch.Tensor:
    module.reset_classifier(0)
    return embeddings(module, size_px)


def some_preprocessing(**changes: object) -> Preprocessing:
    values = {"size_px": 64, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.875}
    return Preprocessing(**{**values, **changes})


# Random weights


def test_random_weights_come_from_the_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = load(), load(), load(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.weights_digest == again.weights_digest != other.weights_digest
    torch.testing.assert_close(embeddings(first.module), embeddings(again.module), rtol=0, atol=0)
    assert first.identity("f", 5) == again.identity("f", 5)


def test_identity_tells_what_matters_apart() -> None:
    base = load().identity("f", 5)
    assert base.backbone == "test_vit"
    assert (base.pooling, base.dtype, base.view, base.width) == ("token", "float16", "base", 64)
    for other in (load(seed=1), load(crop_pct=1.0), load(mean=(0.1, 0.2, 0.3)), load(model="test_vit4")):
        assert other.identity("f", 5).digest != base.digest
    assert load().identity("g", 5).digest != base.digest
    assert load().identity("f", 5, "hflip").digest != base.digest


@pytest.mark.parametrize("model", MODELS)
def test_preprocessing_is_timms(model: str) -> None:
    backbone = load(model=model)
    config = timm.data.resolve_model_data_config(timm.create_model(model))
    assert backbone.preprocessing.size_px == config["input_size"][1]
    for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
        assert getattr(backbone.preprocessing, key) == config[key]


def test_preprocessing_overrides() -> None:
    changes = {"size_px": 96, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}
    preprocessing = load(**changes, crop_pct=1.0, crop_mode="squash").preprocessing
    assert preprocessing == Preprocessing(**changes, crop_pct=1.0, crop_mode="squash")


@pytest.mark.parametrize("crop_pct", [0.0, -1.0, 1e-9, 2.1, float("inf"), float("nan")])
def test_a_crop_that_makes_no_sense(crop_pct: float) -> None:
    with pytest.raises(ValueError, match=r"\[backbones\.expr\]: .*crop_pct is .*expected 0\.1 to 2"):
        load(crop_pct=crop_pct)


@pytest.mark.parametrize("model", MODELS)
def test_another_input_size(model: str) -> None:
    backbone = load(model=model, size_px=112)
    assert embeddings(backbone.module, 112).shape == (2, backbone.width)


@pytest.mark.parametrize(("model", "size_px"), [("test_vit", 100), ("test_maxvit", 112)])
def test_an_impossible_input_size(model: str, size_px: int) -> None:
    with pytest.raises(ValueError, match=rf"\[backbones.expr\]: {model} cannot take faces of {size_px} px"):
        load(model=model, size_px=size_px)


# Names


@pytest.mark.parametrize(
    ("model", "weights", "says"),
    [
        ("test_vitt", "random", "did you mean 'test_vit'"),
        ("entirely_else", "random", "hf-hub:OWNER/NAME"),
        ("test_vit.none", "random", "timm's weights of test_vit are r160_in1k"),
        ("test_maxvit", "pretrained", "timm has no weights for test_maxvit"),
    ],
)
def test_unknown_names(model: str, weights: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load(model=model, weights=weights)


@pytest.mark.parametrize("model", ["test_vit", "hf-hub:someone/something"])
def test_no_network_is_one_line(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("An error happened while trying to locate the file on the Hub.\nRequest ID: 1\nmore lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=f"cannot get {model}: An error happened .* weights file") as caught:
        load(model=model, weights="pretrained")
    assert "\n" not in str(caught.value)


HUB_ERRORS = {
    "offline": (
        "An error happened while trying to locate the file on the Hub and we cannot find the requested files in the "
        "local cache. Please check your connection and try again or make sure your Internet connection is on.",
        "sure your Internet connection is on. To do without",
    ),
    "missing": (
        "404 Client Error. (Request ID: Root=1-66f0-7b2c;5d1e)\n\nRepository Not Found for url: "
        "https://huggingface.co/api/models/someone/something.\nPlease make sure you specified the correct `repo_id` "
        "and `repo_type`.\nIf you are trying to access a private or gated repo, make sure you are authenticated.",
        "404 Client Error. Repository Not Found for url: https://huggingface.co/api/models/someone/something. Please",
    ),
    "long word": ("x" * 1000, "x" * 200),
}


@pytest.mark.parametrize("name", HUB_ERRORS)
def test_errors_of_the_hub_end_with_a_word(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, says = HUB_ERRORS[name]

    def fail(*args: object, **options: object) -> None:
        raise OSError(text)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ValueError, match="cannot get") as caught:
        load(model="hf-hub:someone/something", weights="pretrained")
    said = str(caught.value)
    assert says in said
    assert "Request ID" not in said
    shown = said.partition("something: ")[2].partition(". To do without")[0]
    assert len(shown) <= 240
    if name != "long word":
        assert {word.strip(".") for word in shown.removesuffix(" ..").split()} <= {w.strip(".") for w in text.split()}


@pytest.mark.parametrize("num", [239, 240, 241, 300])
@pytest.mark.parametrize("letters", [1, 7, 236, 237])
def test_lines_are_cut_between_words(num: int, letters: int) -> None:
    line = " ".join(["w" * letters] * num)[:num].strip()
    found = cut_short(line)
    assert len(found) <= 240
    assert found == line if len(line) <= 240 else found.endswith(" ..")
    assert set(found.removesuffix(" ..").split(" ")) <= set(line.split(" "))


# Checkpoints


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": state},
        lambda state: {"state_dict": {"module." + key: value for key, value in state.items()}},
        lambda state: {
            "state_dict": {"model." + key: value for key, value in state.items()} | {"loss.w": torch.ones(1)}
        },
        lambda state: {"backbone." + key: value for key, value in state.items()},
        lambda state: {"state_dict": {}, "state_dict_ema": state},
        lambda state: {key: value.double() for key, value in state.items()},
    ],
    ids=["plain", "state_dict", "model", "module.", "model.", "backbone.", "ema", "float64"],
)
def test_pickled_checkpoints(tmp_path: Path, wrap: object) -> None:
    whole = classifier()
    torch.save(wrap(whole.state_dict()), tmp_path / "weights.pt")
    backbone = load(tmp_path, weights="weights.pt")
    torch.testing.assert_close(embeddings(backbone.module), of_classifier(whole), rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_weights_have_one_digest_in_any_file(tmp_path: Path, model: str) -> None:
    state = classifier(model).state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "c.bin")
    digests = {load(tmp_path, model, name).weights_digest for name in ("a.safetensors", "b.pth", "c.bin")}
    assert len(digests) == 1
    changed = {key: value.clone() for key, value in state.items()}
    next(value for key, value in changed.items() if "norm" in key or "bn" in key).view(-1)[0] += 1e-3
    safetensors.torch.save_file(changed, tmp_path / "d.safetensors")
    assert load(tmp_path, model, "d.safetensors").weights_digest not in digests


def test_weights_of_another_input_size(tmp_path: Path) -> None:
    """Position embeddings are resampled as timm does it."""
    whole = classifier()
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    backbone = load(tmp_path, weights="weights.pt", size_px=96)
    reference = timm.create_model("test_vit", num_classes=0, img_size=96).eval()
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    reference.load_state_dict(convert(whole.state_dict(), reference), strict=False)
    torch.testing.assert_close(embeddings(backbone.module, 96), embeddings(reference, 96), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("test_convnext", "test_vit"), ("test_vit", "test_resnet"), ("test_vit2", "test_vit")]
)
def test_another_architecture(tmp_path: Path, theirs: str, ours: str) -> None:
    torch.save(classifier(theirs).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=rf"\d+ of \d+ tensors match {ours} .*weights of another model") as caught:
        load(tmp_path, ours, "weights.pt")
    assert len(str(caught.value)) < 300


def test_a_deeper_model_is_another_architecture(tmp_path: Path) -> None:
    """All of our tensors are in it, but blocks are left over."""
    state = classifier().state_dict()
    state |= {key.replace("blocks.0.", "blocks.9."): value for key, value in state.items() if "blocks.0." in key}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"blocks\.9\..* has no place"):
        load(tmp_path, weights="weights.pt")


def test_a_missing_tensor(tmp_path: Path) -> None:
    state = classifier().state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"norm\.weight is missing"):
        load(tmp_path, weights="weights.pt")


class Malicious:
    """Its pickle makes a folder when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
def test_a_pickle_that_would_run_code(tmp_path: Path, legacy: bool) -> None:
    trap = {"state_dict": classifier().state_dict(), "extra": Malicious(str(tmp_path / "run"))}
    if legacy:
        (tmp_path / "weights.pt").write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt: holds more than tensors .*\.safetensors") as caught:
        load(tmp_path, weights="weights.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_arguments_and_paths_beside_the_tensors_are_no_code(tmp_path: Path) -> None:
    arguments = argparse.Namespace(output_dir=Path("a/b"), epochs=50)
    torch.save({"model": {"weight": torch.ones(2)}, "args": arguments}, tmp_path / "weights.pth")
    state, _ = read_weights(tmp_path / "weights.pth")
    assert state["weight"].tolist() == [1, 1]


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("cut", [0, 7, 5000])
def test_damaged_files(tmp_path: Path, name: str, cut: int) -> None:
    path = tmp_path / name
    state = classifier().state_dict()
    (torch.save if name.endswith("pt") else safetensors.torch.save_file)(state, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"{name}: not a (whole safetensors file|PyTorch checkpoint)"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.pt", None, "no such weights file"),
        ("pretained", None, r"no such weights file \(did you mean 'pretrained'\?\)"),
        ("weights.onnx", b"x", "weights are read from"),
        ("weights.pt", {"epoch": 3}, "no tensors by name"),
        ("weights.pt", [torch.ones(1)], "no tensors by name"),
        ("weights.pt", torch.ones(1), "no tensors by name"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, name: str, content: object, says: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(ValueError, match=says):
        load(tmp_path, weights=name)


# Saving


def test_equal_content_is_saved_as_equal_bytes(tmp_path: Path) -> None:
    """safetensors writes metadata in an order of chance, another one at each call."""
    state = {"conv.weight": torch.randn(4, 3, 2, 2), "count": torch.tensor(7)}
    metadata = {f"key{number}": "é" * number for number in range(20)}
    found = set()
    for number in range(20):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, state, dict(sorted(metadata.items(), reverse=number % 2 == 1)))
        found.add(path.read_bytes())
        tensors, said = read_weights(path)
        assert said == metadata
        assert all(torch.equal(tensors[name], value) for name, value in state.items())
    assert len(found) == 1


def test_one_bit_of_what_was_saved_is_found(tmp_path: Path) -> None:
    """Of header, metadata and numbers; where the digest's own name is hit, all else is as it was."""
    path = tmp_path / "expr.safetensors"
    state = {"conv.weight": torch.randn(4, 3, 2, 2), "conv.bias": torch.zeros(4), "count": torch.tensor(7)}
    save_tensors(path, state, {"model": "test_vit", "preprocessing": '{"size_px": 64, "mean": [0.5, 0.5, 0.5]}'})
    whole, wanted = path.read_bytes(), read_weights(path)[1]
    assert set(wanted) == {"model", "preprocessing"}
    found = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            tensors, metadata = read_weights(path)
        except ValueError as error:
            found += "expr.safetensors: " in str(error)
            continue
        assert {key: metadata[key] for key in wanted} == wanted, place
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
            name: tensor.tolist() for name, tensor in state.items()
        }, place
    assert found >= len(whole) - len(DIGEST) - 8


def test_weights_from_elsewhere_need_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"format": "pt"})
    assert read_weights(path)[1] == {"format": "pt"}


@pytest.mark.parametrize("model", MODELS)
def test_save_and_load(tmp_path: Path, model: str) -> None:
    backbone = load(model=model, size_px=112, crop_pct=1.0, mean=(0.1, 0.2, 0.3))
    path = tmp_path / "backbones" / "expr.safetensors"
    save_backbone(path, backbone.module, model, backbone.preprocessing, {"task": "expr", "score": {"P": 0.5}})
    again = load(tmp_path, model, "backbones/expr.safetensors")
    assert again.preprocessing == backbone.preprocessing
    assert again.identity("f", 5) == backbone.identity("f", 5)
    torch.testing.assert_close(embeddings(again.module, 112), embeddings(backbone.module, 112), rtol=0, atol=0)
    assert read_weights(path)[1]["task"] == "expr"
    assert os.listdir(path.parent) == ["expr.safetensors"]


def test_timm_reads_what_we_save(tmp_path: Path) -> None:
    backbone = load(model="test_resnet", seed=5)
    path = tmp_path / "weights.safetensors"
    save_backbone(path, backbone.module, "test_resnet", backbone.preprocessing, {})
    theirs = timm.create_model("test_resnet", num_classes=0, checkpoint_path=str(path)).eval()
    torch.testing.assert_close(embeddings(theirs), embeddings(backbone.module), rtol=0, atol=0)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_backbone(path, backbone.module, "test_vit", backbone.preprocessing, {})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.safetensors"]


@pytest.mark.parametrize("text", ["{", "[1]", "3", '{"mean": "x"}', '{"size_px": "big"}', '{"interpolation": "magic"}'])
def test_odd_metadata_are_a_clear_error(tmp_path: Path, text: str) -> None:
    state = classifier("test_resnet").state_dict()
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors", {"preprocessing": text})
    with pytest.raises(ValueError, match=r"preprocessing|interpolation|size_px"):
        load(tmp_path, "test_resnet", "weights.safetensors")


# Training


def test_build_trainable() -> None:
    module, preprocessing = build_trainable("test_efficientnet", 8, 96, "random", seed=2)
    assert isinstance(module, TrainableBackbone)
    assert module.training
    assert preprocessing.size_px == 96
    logits = module(torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 8)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    again, _ = build_trainable("test_efficientnet", 8, 96, "random", seed=2)
    torch.testing.assert_close(again.output.weight, module.output.weight, rtol=0, atol=0)


def test_trained_backbone_becomes_a_stream(tmp_path: Path) -> None:
    module, preprocessing = build_trainable("test_vit", 2, None, "random")
    save_backbone(tmp_path / "va.safetensors", module.backbone, "test_vit", preprocessing, {})
    backbone = load(tmp_path, weights="va.safetensors")
    torch.testing.assert_close(embeddings(backbone.module), embeddings(module.eval().backbone), rtol=0, atol=0)
    further, _ = build_trainable("test_vit", 8, 0, "va.safetensors", folder=tmp_path)
    torch.testing.assert_close(embeddings(further.eval().backbone), embeddings(backbone.module), rtol=0, atol=0)


# Transforms


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("shape", [(64, 64, 3), (112, 112, 3), (100, 80, 3), (40, 50, 3)])
def test_transform_is_timms(interpolation: str, crop_mode: str, crop_pct: float, shape: tuple[int, ...]) -> None:
    preprocessing = some_preprocessing(interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    face = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    theirs = create_transform((3, 64, 64), **{k: v for k, v in preprocessing.to_json().items() if k != "size_px"})
    expected = theirs(Image.fromarray(face))
    ready = torch.from_numpy(face_transform(preprocessing)(face).copy())[None]
    torch.testing.assert_close(normalise(ready, preprocessing, torch.float32)[0], expected, rtol=0, atol=1e-6)


def test_a_face_of_the_right_size_is_not_touched() -> None:
    face = np.zeros((64, 64, 3), np.uint8)
    assert face_transform(some_preprocessing(crop_pct=1.0))(face) is face
    assert face_transform(some_preprocessing(crop_pct=0.875))(face) is not face


def test_normalise_dtype_and_layout() -> None:
    batch = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    x = normalise(batch, some_preprocessing(), torch.bfloat16)
    assert x.dtype == torch.bfloat16
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert not batch.any()


@pytest.mark.real
@pytest.mark.parametrize("model", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_real_weights(real_data: Path, model: str) -> None:
    backbone = load(real_data / "weights", model, f"{model}.imagenet.safetensors")
    path = real_data / "weights" / f"{model}.imagenet.safetensors"
    reference = timm.create_model(model, checkpoint_path=str(path)).eval()
    torch.testing.assert_close(embeddings(backbone.module), of_classifier(reference), rtol=0, atol=0)
    other = {"mobilenetv2_100": "tf_efficientnet_lite0", "tf_efficientnet_lite0": "mobilenetv2_100"}[model]
    with pytest.raises(ValueError, match=rf"of \d+ tensors match {model}"):
        load(real_data / "weights", model, f"{other}.imagenet.safetensors")
