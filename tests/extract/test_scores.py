"""Scores of a classifier beside the embedding: from every kind of weights, as two streams of one pass."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import timm
import torch

from cache.store import Cache
from extract.backbones.build import Backbone, load_backbone, save_backbone
from extract.config import BackboneConfig, section_problem
from extract.crops import CropEmbedder
from helpers import made_extraction as made

BOTH = ("embedding", "scores")
NAMES = ("Neutral", "Anger", "Happiness")


def load(folder: Path, model: str = "test_resnet", weights: str = "face.safetensors", **options: object) -> Backbone:
    settings = {"model": model, "weights": weights, "outputs": BOTH, "size_px": 32, **options}
    return load_backbone("hs", BackboneConfig(**settings), folder)


def whole(model: str, path: Path, rename: str = "", num_classes: int = 5) -> torch.nn.Module:
    """timm's whole model, its weights in `path`; `rename` goes behind the classifier's name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"img_size": 32} if "vit" in model else {}
        module = timm.create_model(model, num_classes=num_classes, **options).eval()
    name = module.pretrained_cfg["classifier"]
    state = {key.replace(f"{name}.", f"{name}{rename}."): value for key, value in module.state_dict().items()}
    safetensors.torch.save_file(state, path)
    return module


def run(module: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    ("model", "rename"),
    [("test_vit", ""), ("test_convnext", ""), ("test_efficientnet", ".0"), ("test_resnet", ""), ("test_byobnet", "")],
)
def test_logits_are_the_whole_models(tmp_path: Path, model: str, rename: str) -> None:
    theirs = whole(model, tmp_path / "face.safetensors", rename)
    backbone, plain = load(tmp_path, model, classes=NAMES), load(tmp_path, model, outputs=("embedding",))
    assert backbone.streams == ("hs", "hs-scores")
    found = run(backbone.module)
    torch.testing.assert_close(found[:, backbone.columns("hs-scores")], run(theirs))
    assert torch.equal(found[:, backbone.columns("hs")], run(plain.module))
    assert backbone.identity("f", 3) == plain.identity("f", 3)  # scores added later cost no second extraction of it
    scores = backbone.identity("f", 3, stream="hs-scores")
    assert (scores.width, scores.pooling, scores.preprocessing["classes"]) == (5, "logits", list(NAMES))
    assert scores.weights != plain.weights_digest


def test_weights_of_timm_and_names_of_the_classes(tmp_path: Path) -> None:
    backbone = load(tmp_path, weights="random")
    assert (backbone.scores.width, backbone.scores.classes) == (1000, ())
    assert "classes" not in backbone.identity("f", 3, stream="hs-scores").preprocessing


def test_outputs_that_a_finetuning_left(tmp_path: Path) -> None:
    """TASK.weight and TASK.bias of several tasks in the file beside the weights, of this backbone alone."""
    plain = load(tmp_path, weights="random", outputs=("embedding",))
    weights = tmp_path / "face.safetensors"
    save_backbone(weights, plain.module, "test_resnet", plain.preprocessing, {})
    tensors = {f"{task}.weight": torch.randn(k, plain.width) for task, k in (("va", 2), ("expr", 3))}
    tensors |= {"va.bias": torch.zeros(2), "expr.bias": torch.ones(3)}
    metadata = {"tasks": "va,expr", "backbone": plain.weights_digest}
    safetensors.torch.save_file(tensors, tmp_path / "face.output.safetensors", metadata)
    found, embedding = run(load(tmp_path).module), run(plain.module)
    wanted = [embedding @ tensors[f"{task}.weight"].T + tensors[f"{task}.bias"] for task in ("va", "expr")]
    torch.testing.assert_close(found[:, plain.width :], torch.cat(wanted, dim=1))
    safetensors.torch.save_file(tensors, tmp_path / "face.output.safetensors", {**metadata, "backbone": "other"})
    with pytest.raises(ValueError, match=r"face.output.safetensors has the outputs of another backbone"):
        load(tmp_path)


def test_weights_without_what_is_asked_for(tmp_path: Path) -> None:
    plain = load(tmp_path, weights="random", outputs=("embedding",))
    save_backbone(tmp_path / "face.safetensors", plain.module, "test_resnet", plain.preprocessing, {})
    with pytest.raises(ValueError, match=r"\[backbones.hs\]: .*face.safetensors has no classifier \(fc.weight"):
        load(tmp_path)
    whole("test_resnet", tmp_path / "face.safetensors", num_classes=2)
    with pytest.raises(ValueError, match="3 classes, but the classifier has 2 outputs"):
        load(tmp_path, classes=NAMES)
    with pytest.raises(ValueError, match="deit_tiny_distilled_patch16_224 has several classifiers"):
        load(tmp_path, "deit_tiny_distilled_patch16_224", "random", size_px=None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"outputs": ()}, "outputs = []: name"),
        ({"outputs": ("scores", "scores")}, "'scores' stands there twice"),
        ({"model": "onnx:a.onnx", "outputs": BOTH}, "onnx:a.onnx has one, its embedding"),
        ({"model": "imported:a.npy", "outputs": ("scores",)}, "imported:a.npy has one"),
        ({"classes": ("a", "b")}, "classes names the scores, and outputs has none"),
        ({"outputs": BOTH, "classes": ("a", "a")}, "'a' stands there twice"),
        ({"model": "onnx:a.onnx", "classes": ("a",)}, None),
        ({"outputs": ("scores",), "classes": ("a",)}, None),
    ],
)
def test_sections_that_cannot_be(options: dict[str, object], says: str | None) -> None:
    found = section_problem(BackboneConfig(**{"model": "test_vit", **options}))
    assert says in found if says else found is None


def test_two_streams_of_one_pass(tmp_path: Path) -> None:
    """The backbone runs once per face, whatever is already there; a view of scores is as one of embeddings."""
    frames = made.make_faces(tmp_path / "faces")
    backbone = made.tiny(num_scores=4)
    made.run(frames, tmp_path, backbone, views=("base", "hflip"))
    assert (
        backbone.module.backbone.num_forwards == 1 + 2 * 18
    )  # one face; 4 shards of 4 batches, one of 2; each view once
    cache = Cache.open(tmp_path / "cache.zarr")
    keys = [("expr", "base"), ("expr", "hflip"), ("expr-scores", "base"), ("expr-scores", "hflip")]
    assert cache.streams() == keys
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "faces").symlink_to(tmp_path / "faces")
    made.run(frames, apart, made.tiny())
    np.testing.assert_array_equal(cache.stream("expr").read(), Cache.open(apart / "cache.zarr").stream("expr").read())
    scores = {view: cache.stream("expr-scores", view).read() for view in ("base", "hflip")}
    backbone = made.tiny(num_scores=4)
    cache.remove("expr-scores", "hflip")
    made.run(frames, tmp_path, backbone, views=("base", "hflip"))
    np.testing.assert_array_equal(cache.stream("expr-scores", "hflip").read(), scores["hflip"])
    assert backbone.module.backbone.num_forwards == 1 + 18
    assert made.run(frames, tmp_path, made.tiny(num_scores=4, dying=True)).num_done == 0
    embedder = CropEmbedder(dict.fromkeys(keys, backbone), torch.device("cpu"), 5)
    before = backbone.module.backbone.num_forwards
    found = embedder([np.zeros((made.SIZE_PX, made.SIZE_PX, 3), np.uint8)], ["v0"])
    assert {key: value.shape for key, value in found.items()} == {key: (1, 4 if "s" in key[0] else 6) for key in keys}
    assert backbone.module.backbone.num_forwards - before == 2  # one per view
    assert pl.Series(scores["base"][:, 0]).n_unique() > 1
