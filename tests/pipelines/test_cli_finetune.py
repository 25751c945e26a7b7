"""`mtl finetune` as it is typed: what it prints, what it refuses, in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from cache.frames import conform, write_frames
from pipelines import cli
from pipelines.backbones import finetune as job
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


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command prints when it ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["mtl", "finetune", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert not Path("backbones").exists()
    return printed.err


def test_what_it_prints_and_registers(project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("EXPR: macro F1 0.")
    assert lines[1] == "backbones/expr.safetensors: test_vit2, [backbones.expr] of mtl.toml"
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
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train_backbone", interrupt)
    result = CliRunner().invoke(cli.app, ["finetune", "--task", "expr", *MODEL])
    assert result.exit_code == 130
    assert result.stderr == "mtl: stopped; nothing was written, earlier weights stay as they were\n"
    assert not (project / "backbones").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "emotion", *MODEL], "va, expr, au"),
        (["--task", "au", *MODEL], "task au: no labelled frame in train"),
        (["--task", "expr"], "--model"),
        (["--task", "expr", "--model", "test_vitt", "--init", "random"], "did you mean"),
        (["--task", "expr", *MODEL, "--name", "../x"], "letters, digits"),
        (["--task", "expr", "--model", "test_vit2", "--init", "no.safetensors"], "no.safetensors"),
        (["--task", "expr", *MODEL, "--set", "finetune.epoch=1"], "did you mean 'epochs'"),
        (["--task", "expr", *MODEL, "--config", "none.toml"], "mtl init"),
        (["--task", "expr", *MODEL[:-1], "tpu"], "cpu, cuda"),
    ],
)
@pytest.mark.usefixtures("project")
def test_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in refused(monkeypatch, capsys, *arguments)


def test_weights_of_another_model(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from extract.backbones.build import build_trainable, save_backbone

    trainable, preprocessing = build_trainable("test_convnext", 1, 32, "random")
    save_backbone(project / "other.safetensors", trainable.backbone, "test_convnext", preprocessing, {})
    said = refused(monkeypatch, capsys, "--task", "expr", "--model", "test_vit2", "--init", "other.safetensors")
    assert "other.safetensors" in said
    assert "test_vit2" in said


def test_help_has_examples() -> None:
    result = CliRunner().invoke(cli.app, ["finetune", "--help"])
    assert "mtl finetune --task expr --model" in result.stdout
