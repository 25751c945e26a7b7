"""`mtl backbones`, `show` and `add` as they are typed."""

import json
import tomllib
from pathlib import Path

import pytest

from extract.backbones.catalogue import catalogue
from helpers.cli import call, refused, typed
from pipelines.config import read_config

TOML = '# mine\n[data]\nfaces = "faces"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mtl.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_names_every_entry_and_its_licence() -> None:
    shown = typed("backbones", columns=120)
    assert shown.code == 0
    for each in catalogue().values():
        (line,) = [line for line in shown.out.splitlines() if f" {each.name} " in line]
        assert each.licence.split()[0] in line
    assert [each["name"] for each in json.loads(call("backbones", "--json"))] == [*catalogue()]


def test_what_show_says_is_what_to_do() -> None:
    out = call("backbones", "show", "mae-face-b")
    entry = catalogue()["mae-face-b"]
    for text in (entry.source, entry.file, entry.target, "MIT", "no: the file could not be had"):
        assert text in out
    shown = json.loads(call("backbones", "show", "mae-face-b", "--json"))
    assert shown["section"] == entry.section()
    assert shown["preprocessing"]["size_px"] == 224


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("hsemotion-mbf-mtl", ["input    112 px", "mean     0.5 0.5 0.5", "std      0.5 0.5 0.5", "resize   bilinear"]),
        ("mae-face-b", ["input    224 px", "mean     0.485 0.456 0.406", "std      0.229 0.224 0.225"]),
        ("clip-l14", ["input    224 px", "mean     0.4815 0.4578 0.4082", "resize   bicubic"]),
    ],
)
def test_show_has_the_input_of_the_entry_or_of_timm(name: str, lines: list[str]) -> None:
    assert set(lines) <= set(call("backbones", "show", name).splitlines())


@pytest.mark.parametrize("name", [*catalogue()])
def test_what_add_writes_can_be_read(folder: Path, name: str) -> None:
    out = call("backbones", "add", name, "--name", "mine")
    text = (folder / "mtl.toml").read_text()
    assert text.startswith(TOML)
    assert tomllib.loads(text)["backbones"]["mine"] == catalogue()[name].section()
    assert read_config(Path("mtl.toml")).backbones["mine"].model == catalogue()[name].model
    assert catalogue()[name].source in out
    assert out.splitlines()[-1] == "next: mtl extract --backbone mine"


def test_a_file_that_is_there_needs_no_steps(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "FMAE_ViT_base.pth").write_bytes(b"x")
    assert "download" not in call("backbones", "add", "fmae-b")


def test_what_is_refused(folder: Path) -> None:
    assert "did you mean fmae-b?" in refused("backbones", "add", "fmea-b")
    assert "mtl.toml" in refused("backbones", "add", "fmae-b", "--config", "other/mtl.toml")
    assert (folder / "mtl.toml").read_text() == TOML
    call("backbones", "add", "dinov2-b")
    assert "[backbones.dinov2-b] is there already; --force replaces it" in refused("backbones", "add", "dinov2-b")
    call("backbones", "add", "dinov2-l", "--name", "dinov2-b", "--force")
    assert read_config(Path("mtl.toml")).backbones["dinov2-b"].model.startswith("vit_large")
    assert "--name" in refused("backbones", "add", "dinov2-b", "--name", "a b")


def test_weights_that_are_not_there_are_named_before_anything_is_written(folder: Path) -> None:
    call("backbones", "add", "fsfm-b")
    error = refused(
        "finetune", "--task", "expr", "--model", "vit_base_patch16_224", "--init", "weights/fsfm_vit_base.pth"
    )
    assert "frames.parquet" in error
    assert not [path for path in folder.iterdir() if path.name != "mtl.toml"]
