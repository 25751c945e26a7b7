"""The catalogue of public weights: its facts agree with timm and the documentation, its steps do what they say."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import timm
import torch

import extract.backbones.iresnet  # noqa: F401  registers its models with timm
from extract.backbones.build import _preprocessing, load_backbone
from extract.backbones.catalogue import PublicBackbone, catalogue, public_backbone
from extract.backbones.onnx_model import load_onnx
from extract.backbones.rename import PRESETS
from extract.backbones.timm_models import create, known_preprocessing
from extract.config import BackboneConfig, RenamePreset
from pipelines.typed import from_mapping

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"
ENTRIES = [*catalogue().values()]
OF_TIMM = [each for each in ENTRIES if ":" not in each.model]
FACE_NETS = ("iresnet", "adaface")  # they are drawn at random when made, which `meta` cannot do


def config_of(entry: PublicBackbone, **changes: Any) -> BackboneConfig:
    return from_mapping(BackboneConfig, {**entry.section(), **changes}, entry.name)


def row(entry: PublicBackbone) -> str:
    """Its row in docs/backbones.md."""
    _, _, host, owner, *_ = entry.source.split("/")
    size = [] if entry.size_px is None else [f"{entry.size_px} px"]
    scale = [f"mean {_short(entry.mean)}; std {_short(entry.std)}"] if entry.mean and entry.std else []
    cells = [
        f"`{entry.name}`",
        entry.what,
        f"`{entry.model}`" + (f", rename `{entry.rename}`" if entry.rename else ""),
        "" if entry.width is None else str(entry.width),
        ", ".join(size + scale),
        entry.licence,
        (f"`{entry.file}`, " if entry.file else "") + f"[{host}/{owner}]({entry.source})",
        "yes" if entry.tried else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _short(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in dict.fromkeys(values))


def test_the_page_has_a_row_per_entry() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `") and "https://" in line]
    assert rows == [row(entry) for entry in ENTRIES]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_facts_are_stated(entry: PublicBackbone) -> None:
    config_of(entry)
    assert entry.source.startswith("https://")
    assert entry.licence
    assert bool(entry.file) == bool(entry.target)
    assert not entry.target or Path(entry.target).parent == Path("weights")
    assert entry.steps()[0].startswith("download" if entry.file else "timm fetches")


@pytest.mark.parametrize("entry", OF_TIMM, ids=lambda entry: entry.name)
def test_models_are_timms_and_as_wide_as_stated(entry: PublicBackbone) -> None:
    name = entry.model.partition(".")[0]
    assert timm.is_model(name)
    assert entry.file or entry.model in timm.list_pretrained()
    if not name.startswith(FACE_NETS):
        with torch.device("meta"):
            assert timm.create_model(name, num_classes=0).num_features == entry.width


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_input_that_is_shown_is_that_of_the_model(entry: PublicBackbone) -> None:
    known = known_preprocessing(entry)
    assert set(known) == {"size_px", "mean", "std", "interpolation"}
    section = config_of(entry)
    if entry in OF_TIMM and not entry.model.startswith(FACE_NETS):
        small = dataclasses.replace(section, weights="random", rename=None, outputs=("embedding",), classes=())
        with torch.device("meta"):
            module = create(small, small.size_px, 0.0, "here")
        made = _preprocessing(module, small, {}, "here")
        assert known == {key: as_json(getattr(made, key)) for key in known}


def as_json(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value


def test_a_target_is_one_entrys() -> None:
    targets = [entry.target for entry in ENTRIES if entry.target]
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize("name", ["fsfm-b", "hsemotion-mbf-mtl"])
def test_weights_that_are_not_there_are_said_to_be_had_from_where(tmp_path: Path, name: str) -> None:
    entry = public_backbone(name)
    with pytest.raises(ValueError, match=r"no such (weights|ONNX) file; get ") as caught:
        load_backbone(name, config_of(entry), tmp_path)
    assert f"get {entry.file} from {entry.source}, licence {entry.licence}" in str(caught.value)
    assert f"`mtl backbones show {name}`" in str(caught.value)


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match="no public backbone of that name; did you mean dinov2-b"):
        public_backbone("dino2-b")
    with pytest.raises(ValueError, match=r"did you mean fsfm-b or fsfm-l\?"):
        public_backbone("fsfm")
    with pytest.raises(ValueError, match="`mtl backbones` lists them"):
        public_backbone("?")


def test_a_pickled_model_is_converted_by_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step of HSEmotion's files, on a smaller net of the same kind: its classifier replaced by a Sequential."""
    net = timm.create_model("test_efficientnet", num_classes=0)
    net.classifier = torch.nn.Sequential(torch.nn.Linear(net.num_features, 10))
    torch.save(net, tmp_path / "enet_b0_8_va_mtl.pt")
    entry = public_backbone("hsemotion-b0-mtl")
    monkeypatch.chdir(tmp_path)
    run_steps(entry)
    loaded = load_backbone("x", config_of(entry, model="test_efficientnet"), tmp_path)
    classifier, net.classifier = net.classifier, torch.nn.Identity()
    faces = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        embeddings = net.eval()(faces)
        torch.testing.assert_close(loaded.module(faces), torch.cat([embeddings, classifier(embeddings)], dim=1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_gets_its_embedding_by_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smaller net, written with the scores alone as HSEmotion's files are."""
    pytest.importorskip("onnx")
    net = timm.create_model("test_efficientnet", num_classes=10).eval()
    free = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        net,
        (torch.zeros(2, 3, 112, 112),),
        str(tmp_path / "mbf_va_mtl.onnx"),
        input_names=["input"],
        output_names=["output"],
        dynamic_axes=free,
        dynamo=False,
    )
    entry = public_backbone("hsemotion-mbf-mtl")
    monkeypatch.chdir(tmp_path)
    run_steps(entry)
    loaded = load_onnx(config_of(entry), tmp_path, "x")
    faces = torch.rand(3, 3, 112, 112)
    scores = load_onnx(config_of(entry, output="scores", classes=["Anger"]), tmp_path, "x")
    with torch.inference_mode():
        torch.testing.assert_close(scores.module(faces), net(faces), atol=1e-5, rtol=1e-4)
        net.classifier = torch.nn.Identity()
        torch.testing.assert_close(loaded.module(faces), net(faces), atol=1e-5, rtol=1e-4)


def run_steps(entry: PublicBackbone) -> None:
    """The commands among the steps, in the current folder; Python's in this process."""
    for line in entry.steps():
        words = shlex.split(line) if line.startswith(("python ", "mkdir ")) else []
        if words[:2] == ["python", "-c"]:
            exec(words[2], {})
        elif words:
            Path(words[-1]).mkdir()


@pytest.mark.parametrize(
    "beside",
    [
        ("mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_norm.weight"),  # MAE
        ("projector.projection_head.0.weight", "predictor.projection_head.1.bias", "rep_decoder_norm.weight"),  # FSFM
    ],
)
def test_what_masked_pretraining_leaves_beside_the_encoder_is_passed_over(
    tmp_path: Path, beside: tuple[str, ...]
) -> None:
    net = timm.create_model("test_vit", num_classes=0)
    state = {**net.state_dict(), **{name: torch.ones(3) for name in beside}}
    torch.save({"model": state, "epoch": 600, "optimizer": {}, "scaler": {}}, tmp_path / "mae.pth")
    loaded = load_backbone("x", BackboneConfig(model="test_vit", weights="mae.pth"), tmp_path)
    assert loaded.module.blocks[0].norm1.weight.equal(net.blocks[0].norm1.weight)


# rename in a section


def test_a_section_names_the_presets() -> None:
    assert get_args(RenamePreset) == tuple(PRESETS)


def test_a_section_renames_by_a_preset(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", num_classes=0)
    state = {f"backbone.{name}": value.contiguous() for name, value in net.state_dict().items()}
    head = {"backbone.head.mlp.0.weight": torch.ones(2, 2), "head.weight": torch.ones(2, 2)}
    safetensors.torch.save_file(state | head, tmp_path / "dino.safetensors")
    config = BackboneConfig(model="test_vit", weights="dino.safetensors", rename="dino")
    loaded = load_backbone("x", config, tmp_path)
    assert loaded.module.norm.weight.equal(net.norm.weight)
    with pytest.raises(ValueError, match="rename goes with a file"):
        load_backbone("x", BackboneConfig(model="test_vit", weights="random", rename="dino"), tmp_path)
