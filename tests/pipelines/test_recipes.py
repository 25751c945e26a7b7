"""Recipes: what `mtl recipes` and `mtl init --recipe` say and write, and every recipe's commands on made data."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import timm
import tomlkit
import torch

from cache.names import LABEL_COLUMNS, VA_COLUMNS
from extract.backbones.catalogue import catalogue
from helpers.cli import call, invoke, refused
from pipelines import studies
from pipelines.config import parse_config, read_config
from pipelines.recipes import FACES, PAGE, Recipe, packaged_recipes
from pipelines.search.grid import check, expand, read_grid
from pipelines.strategy import strategy_of

RECIPES = [*packaged_recipes().values()]
WINNERS = ["cprl-2026", "hsemotion-2024", "hsemotion-2026", "liu-2024", "sun-gao-2026"]
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
HEADINGS = ["What the source did", "What is different here", "Download", "Commands"]
# Names of the pages and what stands for them on made data.
FILES = {
    "FOLDER": "data/cropped_aligned",
    "training_set_annotations.txt": "data/train_set.txt",
    "validation_set_annotations.txt": "data/val_set.txt",
    "test_list.txt": "data/test_list.txt",
}
MODEL, SIDE = "test_vit2", 32
TRIALS = "3"  # of every search
SMALL: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 1, "batch_size": 32, "size_px": SIDE, "precision": "float32", "warmup_epochs": 0},
    "head": {"width": 16},
    "train": {"steps": 4, "eval_steps": 4, "warmup_steps": 1, "batch_windows": 4},
}


def test_what_gained_nothing_on_made_data_is_in_a_recipe() -> None:
    """Pieces that are kept because a source uses them (bench/RESULTS.md)."""
    grids = "\n".join(path.read_text("utf-8") for recipe in RECIPES for path in recipe.grids)
    for piece in (
        *('class_loss = "ldam"', 'classes_from = "both"', "latent_smoothness = 0.1", '"balanced_mse"'),
        *("subject_adversarial = 1.0", "class_embeddings        = ", 'coupling = "gated"'),
    ):
        assert piece in grids, piece


def test_the_winners_are_there() -> None:
    assert [recipe.name for recipe in RECIPES] == WINNERS


@each_recipe
def test_a_recipe_is_read_as_it_is_written(recipe: Recipe, tmp_path: Path) -> None:
    """mtl.toml, grids and page agree with the program; a file of class embeddings is the user's."""
    document = read_toml(recipe)
    document["backbones"] = trained(recipe.commands()) | document.get("backbones", {})
    config = parse_config(document, tmp_path, recipe.name)
    for path in recipe.further:
        parse_config(tomllib.loads(path.read_text("utf-8")), Path(), path.name)
    assert FACES in recipe.config
    assert recipe.title
    assert recipe.source
    for path in recipe.grids:
        strategies = expand(read_grid(path), strategy_of(config))
        assert strategies
        files = {one.loss.class_embeddings for one in strategies} - {""}
        if files:
            with pytest.raises(ValueError, match="no such file; name one with a row per class"):
                check(strategies, config, path.name)
        for file in files:
            assert file in recipe.page
            (tmp_path / file).parent.mkdir(exist_ok=True)
            np.save(tmp_path / file, np.eye(8, 12, dtype=np.float32))
        check(strategies, config, path.name)
    assert re.findall(r"^## (.*)$", recipe.page, flags=re.MULTILINE) == HEADINGS
    assert max(map(len, (line for line in recipe.page.splitlines() if not line.startswith("| ")))) <= 120


@each_recipe
def test_the_page_names_what_is_to_be_downloaded(recipe: Recipe) -> None:
    download = recipe.page.partition("## Download")[2].partition("## Commands")[0]
    for entry in recipe.weights():
        assert entry.source in download
        assert entry.licence in download
        assert f"`mtl backbones show {entry.name}`" in download or not entry.target


@each_recipe
def test_every_file_that_commands_and_sections_name_is_written_or_public(recipe: Recipe) -> None:
    """Weights are those of the catalogue or of an earlier command, grids those of the recipe."""
    public = {entry.target for entry in catalogue().values()}
    words = [word for line in recipe.commands() for word in shlex.split(line)]
    made = {f"{name}.safetensors" for name in trained(recipe.commands())}
    for word in words:
        if word.startswith("weights/"):
            assert word in public, word
        if word.startswith("backbones/"):
            assert Path(word).name in made, word
        if word.startswith("grids/"):
            assert Path(word).name in [path.name for path in recipe.grids], word
    for section in read_toml(recipe).get("backbones", {}).values():
        files = [section.get("weights", "pretrained"), section["model"].removeprefix("onnx:")]
        assert not files[0].startswith("weights/") or files[0] in public
        assert not files[0].startswith("backbones/") or Path(files[0]).name in made
        assert not section["model"].startswith("onnx:") or files[1] in public


def read_toml(recipe: Recipe) -> dict[str, Any]:
    return tomllib.loads(recipe.config)


def trained(commands: list[str]) -> dict[str, dict[str, Any]]:
    """The sections that the `mtl finetune` and `mtl pretrain` lines write, each in the file that --config names."""
    sections = {}
    for line in commands:
        options = dict(zip(*[iter(pairs_of(line))] * 2, strict=False))
        if line.startswith(("mtl finetune", "mtl pretrain")):
            tasks = options.get("--task", "mae").split(",")
            name = options.get("--name", tasks[0] if len(tasks) == 1 else "joint")
            sections[name] = {"model": MODEL, "tasks": tasks if "--config" not in options else []}
    return sections


def pairs_of(line: str) -> list[str]:
    words = shlex.split(line)
    return [word for at, word in enumerate(words) if word.startswith("--") or words[at - 1].startswith("--")]


def flat(text: str) -> str:
    """`text` in one line, as if the terminal were wide enough."""
    return " ".join(text.split())


def test_the_list() -> None:
    shown = flat(call("recipes"))
    for recipe in RECIPES:
        assert f"{recipe.name} {recipe.title}" in shown
        assert "](" not in shown
    assert [each["name"] for each in json.loads(call("recipes", "--json"))] == WINNERS


@each_recipe
def test_init_writes_a_recipe_and_says_what_to_get(recipe: Recipe, tmp_path: Path) -> None:
    shown = flat(call("init", tmp_path / "work", "--recipe", recipe.name, "--faces", "my faces"))
    config = read_config(tmp_path / "work" / "mtl.toml")
    assert config.data.faces == Path("my faces")
    page = (tmp_path / "work" / PAGE).read_text("utf-8")
    begun = f"mtl init --recipe {recipe.name} --faces FOLDER\n"
    assert page == recipe.page.replace(begun, f"# done: mtl init --recipe {recipe.name}\n") != recipe.page
    assert "\nmtl init" not in page
    assert sorted(path.name for path in (tmp_path / "work" / "grids").iterdir()) == [path.name for path in recipe.grids]
    assert len(recipe.downloads()) >= 2
    for entry in recipe.weights():
        for text in (entry.target, entry.source, entry.licence):
            assert text in shown
        assert "is there already" not in shown
    for entry in recipe.weights():
        if entry.target:
            (tmp_path / "work" / entry.target).parent.mkdir(exist_ok=True)
            (tmp_path / "work" / entry.target).touch()
            again = call("init", tmp_path / "work", "--recipe", recipe.name, "--force")
            assert f"{entry.target} is there already" in again


def test_what_init_refuses(tmp_path: Path) -> None:
    assert "did you mean cprl-2026?" in refused("init", tmp_path, "--recipe", "cprl2026")
    assert "there are cprl-2026, " in refused("init", tmp_path, "--recipe", "?")
    assert "leave --labels or --recipe out" in refused("init", tmp_path, "--recipe", "liu-2024", "--labels", "disfa")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "folds.toml").write_text("mine")
    assert "folds.toml is there already; --force" in refused("init", tmp_path, "--recipe", "liu-2024")
    assert [path.name for path in tmp_path.rglob("*")] == ["grids", "folds.toml"]
    call("init", tmp_path, "--recipe", "liu-2024", "--force")
    assert (tmp_path / "grids" / "folds.toml").read_text() != "mine"


# Every recipe on made data


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of writing ONNX
@each_recipe
def test_the_commands_run(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the page in order: small models for the public ones, few steps, three trials of each grid."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "write_study_report", lambda *_: None)  # it takes longer than such trainings
    call("demo-data", "data", "--videos", 16, "--frames", 10)
    for path in recipe.further:
        labels = tomllib.loads(path.read_text("utf-8"))["labels"]["name"]
        call("demo-data", path.stem, "--videos", 12, "--frames", 8, "--labels", labels)
        if labels == "abaw":
            write_table(Path(path.stem))
    for line in recipe.commands():
        run(line, tmp_path)
        if " init " in line:
            shrink(tmp_path)
    assert (tmp_path / "submission.txt").is_file()


def run(line: str, folder: Path) -> None:
    words = [FILES.get(word, word) for word in shlex.split(line)[1:]]
    if words[0] == "finetune":
        words[words.index("--model") + 1] = MODEL
        words += [] if "--init" in words else ["--init", "random"]  # in place of what timm fetches
    if words[0] == "search":
        words += ["--limit", TRIALS]
    if words[0] in ("finetune", "extract", "train-head", "search"):
        words += ["--device", "cpu"] if words[0] != "search" else []
    invoke(*words)


def write_table(folder: Path) -> None:
    """The annotation files of made data as one table, as the pages ask for: missing labels are empty cells."""
    parts = [pl.read_csv(folder / f"{split}_set.txt").with_columns(split=pl.lit(split)) for split in ("train", "val")]
    table = pl.concat(parts)
    table = table.rename(dict(zip(table.columns[1:-1], LABEL_COLUMNS, strict=True)))
    lowest = {name: -1 if name in VA_COLUMNS else 0 for name in LABEL_COLUMNS}
    labels = [pl.when(pl.col(name) >= least).then(pl.col(name)) for name, least in lowest.items()]
    table.select("image", "split", *labels).write_csv(folder / "labels.csv")


def shrink(folder: Path) -> None:
    """The recipe's files with small numbers and small models, and a file in place of each public one."""
    for path in folder.glob("*.toml"):
        document = tomlkit.parse(path.read_text("utf-8"))
        for section, values in SMALL.items():
            document.setdefault(section, {}).update(values)
        for section in document.get("backbones", {}).values():
            section.pop("size_px", None)
            if section["model"].startswith("onnx:"):
                section.update(size_px=SIDE)
            else:
                section.update(model=MODEL)
        path.write_text(tomlkit.dumps(document))
    (folder / "weights").mkdir(exist_ok=True)
    net = timm.create_model(MODEL, num_classes=10, img_size=SIDE)
    for entry in catalogue().values():
        if entry.target.endswith(".onnx"):
            write_onnx(folder / entry.target)
        elif entry.target.endswith(".safetensors"):
            safetensors.torch.save_file(net.state_dict(), folder / entry.target)
        elif entry.target:
            torch.save({"model": net.state_dict()}, folder / entry.target)


def write_onnx(path: Path) -> None:
    """A small net with its embedding and its scores as outputs."""
    net = timm.create_model("test_efficientnet", num_classes=10).eval().requires_grad_(False)

    class Both(torch.nn.Module):
        def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            embeddings = net.forward_head(net.forward_features(faces), pre_logits=True)
            return embeddings, net.get_classifier()(embeddings)

    names = ["embedding", "scores"]
    free = {name: {0: "batch"} for name in ("input", *names)}
    faces = (torch.zeros(2, 3, SIDE, SIDE),)
    torch.onnx.export(
        Both(), faces, str(path), input_names=["input"], output_names=names, dynamic_axes=free, dynamo=False
    )
