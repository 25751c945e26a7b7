"""`mtl finetune` as it is typed: what it prints, what it refuses, in one line."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from PIL import Image
from typer.testing import CliRunner

from cache.frames import conform, write_frames
from helpers.cli import refused
from pipelines import cli
from pipelines.backbones.finetuning import finetune as job
from pipelines.backbones.finetuning import loop
from pipelines.config import read_config

MODEL = ["--model", "test_vit2", "--init", "random", "--device", "cpu"]
TOML = """# mine
[data]
faces = "faces"
[finetune]   # small
size_px = 32
epochs = 2
batch_size = 16
precision = "float32"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of 48 one-coloured faces, in which the commands are typed."""
    rng, rows = np.random.default_rng(0), []
    for index in range(48):
        path, expression = f"v{index // 8}/{index:05d}.png", index % 4
        (tmp_path / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((32, 32, 3), 60 * expression) + rng.integers(0, 40, (32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "faces" / path)
        split = ("train", "val", "test")[index // 8 % 3]
        rows.append({"video": f"v{index // 8}", "frame": index, "path": path, "split": split, "expression": expression})
    write_frames(conform(pl.DataFrame(rows), "test"), tmp_path / "frames.parquet")
    (tmp_path / "mtl.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_it_prints_and_registers(project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("EXPR: macro F1 0.")
    assert re.fullmatch(r"held out: EXPR: macro F1 0\.\d{4}  \(test; runs/backbone-expr\)", lines[1])
    assert lines[2] == "backbones/expr.safetensors: test_vit2, [backbones.expr] of mtl.toml"
    assert lines[-1] == "next: mtl extract --backbone expr"
    assert (project / "mtl.toml").read_text().startswith(TOML)
    again = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", "--init", "random", "--json"])
    assert again.exit_code == 0, again.output  # the model is that of the section
    shown = json.loads(again.stdout)
    assert (shown["section"], shown["model"], shown["tasks"]) == ("expr", "test_vit2", ["expr"])
    assert shown["select"]["P"] == shown["select"]["expr.f1_macro"]
    assert f"macro F1 {shown['select']['P']:.4f}" in lines[0]


def test_name_and_overrides(project: Path) -> None:
    arguments = [
        "--task",
        "expr",
        "--name",
        "mine",
        *MODEL,
        "--set",
        "finetune.size_px=48",
        "--set",
        "finetune.epochs=1",
    ]
    result = CliRunner().invoke(cli.app, ["finetune", *arguments])
    assert result.exit_code == 0, result.output
    section = read_config(project / "mtl.toml").backbones["mine"]
    assert (section.size_px, section.tasks, section.weights) == (48, ("expr",), "backbones/mine.safetensors")
    assert "(epoch 1 of 1" in result.stdout


def test_unreadable_faces_are_listed(project: Path) -> None:
    (project / "faces" / "v0" / "00003.png").write_bytes(b"")
    result = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL])
    assert result.exit_code == 0, result.output
    assert "1 face could not be read and did not count:\n  v0/00003.png: empty file\n" in result.stderr


def test_stopped_by_the_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a state to keep; and after, when the same command resumes."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "train_backbone", interrupt)
        result = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL, "--quiet"])
    assert result.exit_code == 130
    assert result.stderr == "mtl: stopped; nothing was written, earlier weights are kept\n"
    assert not (project / "backbones").exists()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", interrupted(loop.evaluate))
        result = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL, "--quiet"])
    assert result.exit_code == 130
    assert result.stderr == (
        "mtl: stopped; the same command resumes from backbones/expr.checkpoint.safetensors, --restart begins anew; "
        "earlier weights are kept\n"
    )
    foreseen = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL, "--dry-run"])
    assert "an earlier run was stopped" in foreseen.stdout
    changed = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL, "--set", "finetune.lr=0.1"])
    assert "now finetune.lr = 0.1" in str(changed.exception)
    anew = ["finetune", "--task", "expr", *MODEL, "--set", "finetune.lr=0.1", "--restart"]
    assert CliRunner().invoke(cli.app, anew).exit_code == 0
    assert not list(project.glob("backbones/*checkpoint*"))


def interrupted(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """`evaluate`, during which someone presses Ctrl-C the first time it is called."""

    def evaluated(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    return evaluated


def test_dry_run_trains_nothing(project: Path) -> None:
    arguments = ["finetune", "--task", "expr", *MODEL, "--set", "finetune.freeze=backbone", "--dry-run"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "[data]: 16 faces train, 16 of them shown in an epoch, 16 choose" in result.stdout
    assert "2 epochs of 1 steps, at most, learning rate 0.0003; nothing was trained or written" in result.stdout
    shown = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert shown["learning"] == 64 * 8 + 8
    assert shown["learning"] < shown["parameters"]
    assert not (project / "backbones").exists()


def test_weights_of_somebody_else(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed by rules of a file: seen from where the command is typed, or, in mtl.toml, from there."""
    from extract.backbones.build import build_trainable

    trainable, _ = build_trainable("test_vit2", 1, 32, "random", seed=5)
    theirs = {f"face.{name}": value for name, value in trainable.backbone.state_dict().items()}
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    safetensors.torch.save_file({**theirs, "arc.weight": torch.zeros(2)}, elsewhere / "theirs.safetensors")
    (elsewhere / "rules.toml").write_text("drop = ['^arc']\n[rename]\n'^face\\.' = ''\n")
    still = ["--device", "cpu", "--set", "finetune.freeze=backbone", "--set", "finetune.epochs=1"]
    still += ["--licence", "theirs", "--task", "expr", "--model", "test_vit2", "--config", str(project / "mtl.toml")]
    monkeypatch.chdir(elsewhere)
    given = ["--init", "theirs.safetensors", "--rename", "rules.toml"]
    result = CliRunner().invoke(cli.app, ["finetune", *still, *given])
    assert result.exit_code == 0, result.output
    assert f"matched      {len(theirs)} of {len(theirs)} tensors, 100.0% of the parameters" in result.stdout
    configured = [
        "--set",
        "finetune.init=elsewhere/theirs.safetensors",
        "--set",
        "finetune.rename=elsewhere/rules.toml",
    ]
    monkeypatch.chdir(project)
    result = CliRunner().invoke(cli.app, ["finetune", *still, *configured, "--name", "two", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["matched"]["share"] == 1
    for name in ("expr", "two"):
        saved = safetensors.torch.load_file(project / "backbones" / f"{name}.safetensors")
        assert all(torch.equal(saved[key.removeprefix("face.")], value) for key, value in theirs.items())
        assert read_config(project / "mtl.toml").backbones[name].licence == "theirs"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "emotion", *MODEL], "va, valence, arousal, expr, au"),
        (["--task", "au", *MODEL], "task au: no labelled frame in train"),
        (["--task", "expr"], "--model"),
        (["--task", "expr", "--model", "test_vitt", "--init", "random"], "did you mean"),
        (["--task", "expr", *MODEL, "--name", "../x"], "letters, digits"),
        (["--task", "expr", "--model", "test_vit2", "--init", "no.safetensors"], "no.safetensors"),
        (["--task", "expr", *MODEL, "--set", "finetune.epoch=1"], "did you mean 'epochs'"),
        (["--task", "expr", *MODEL, "--config", "none.toml"], "mtl init"),
        (["--task", "expr", *MODEL, "--set", "finetune.balance=some"], "one of 'none', 'videos'"),
        (["--task", "expr", *MODEL, "--set", "finetune.lora_rank=2", "--set", "finetune.freeze=partial"], "lora_rank"),
        (["--task", "expr", *MODEL, "--rename", "mae"], "--rename is for a file"),
        (["--task", "expr", *MODEL[:-1], "tpu"], "cpu, cuda"),
    ],
)
@pytest.mark.usefixtures("project")
def test_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    assert says in refused("finetune", *arguments)
    assert not Path("backbones").exists()


def test_weights_of_another_model(project: Path) -> None:
    from extract.backbones.build import build_trainable, save_backbone

    trainable, preprocessing = build_trainable("test_convnext", 1, 32, "random")
    save_backbone(project / "other.safetensors", trainable.backbone, "test_convnext", preprocessing, {})
    said = refused("finetune", "--task", "expr", "--model", "test_vit2", "--init", "other.safetensors")
    assert "other.safetensors" in said
    assert "test_vit2" in said
    assert not Path("backbones").exists()


def test_help_has_examples() -> None:
    result = CliRunner().invoke(cli.app, ["finetune", "--help"])
    assert "mtl finetune --task expr --model" in result.stdout
