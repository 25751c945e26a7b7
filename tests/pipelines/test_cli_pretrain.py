"""`mtl pretrain` as it is typed: what it prints, what it refuses, in one line."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.cli import refused
from helpers.made_faces import make_project
from pipelines import cli
from pipelines.backbones.pretraining import loop as pretrain_loop

MODEL = ["--model", "test_vit", "--device", "cpu"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of 48 made faces, in which the commands are typed."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_it_prints(project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["pretrain", *MODEL, "--quiet"])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("loss ")
    assert lines[0].endswith("on 6 held-out faces  (epoch 3, 36 faces)")
    assert lines[1] == "6 faces of videos that are scored were left out (--split takes them in)"
    assert lines[2] == "backbones/mae.safetensors: test_vit"
    assert lines[3].startswith("backbones/mae.pretraining/report.html")
    assert lines[4] == "next: mtl finetune --task expr --model test_vit --init backbones/mae.safetensors"
    again = CliRunner().invoke(cli.app, ["pretrain", *MODEL, "--json"])
    assert again.exit_code == 0, again.output
    shown = json.loads(again.stdout)
    assert shown["was_finished"]
    assert f"loss {shown['history'][-1]['loss']:.4f}, " in lines[0]


def test_a_dry_run_does_nothing(project: Path) -> None:
    arguments = ["pretrain", *MODEL, "--faces", "faces/v0", "--dry-run", "--set", "pretrain.held_out_faces=0"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "6 faces of 1 video under faces/v0; 0 held out, 0 left out as scored"
    assert "sees 4 of 16 patches" in result.stdout
    assert "3 epochs, 3 steps, about 0.0 GiB of memory" in result.stdout
    shown = json.loads(CliRunner().invoke(cli.app, ["pretrain", *MODEL, "--dry-run", "--json"]).stdout)
    assert (shown["num_faces"], shown["num_videos"], shown["steps"]) == (36, 6, 9)
    assert not (project / "backbones").exists()


def test_finetuning_begins_where_it_ended(project: Path) -> None:
    assert CliRunner().invoke(cli.app, ["pretrain", *MODEL, "--set", "pretrain.epochs=1"]).exit_code == 0
    arguments = ["finetune", "--task", "expr", *MODEL, "--init", "backbones/mae.safetensors"]
    arguments += ["--set", "finetune.epochs=1", "--set", "finetune.batch_size=12"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert (project / "backbones/expr.safetensors").is_file()


def test_stopped_by_the_user(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os
    import signal

    train_step = pretrain_loop.train_step

    def step(*arguments: object) -> None:
        train_step(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pretrain_loop, "train_step", step)
    monkeypatch.setattr(sys, "argv", ["mtl", "pretrain", *MODEL, "--quiet"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 143
    assert capsys.readouterr().err == cli.STOPPED
    assert (project / "backbones/mae.pretraining/checkpoint.safetensors").is_file()


def test_unreadable_faces_are_listed(project: Path) -> None:
    (project / "faces/v0/00003.png").write_bytes(b"")
    result = CliRunner().invoke(cli.app, ["pretrain", *MODEL, "--quiet", "--set", "pretrain.epochs=1"])
    assert result.exit_code == 0, result.output
    assert result.stderr == "mtl: 1 face or video could not be read and did not count:\n  v0/00003.png: empty file\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "test_convnext"], "masked pretraining is for ViTs"),
        (["--model", "test_vitt"], "did you mean 'test_vit'"),
        ([*MODEL, "--set", "pretrain.size_px=60"], "60 px (Input height (60) should be divisible by patch size (16)"),
        (
            [*MODEL, "--set", "pretrain.mask_ratio=1.0"],
            "[pretrain] mask_ratio: expected a number above 0 and below",
        ),
        ([*MODEL, "--set", "pretrain.mask_ratio=0.01"], "of 16 patches per face it shows 16"),
        (
            [*MODEL, "--set", "pretrain.batch_size=0"],
            "[pretrain] batch_size: expected a whole number from 1 to",
        ),
        ([*MODEL, "--set", "pretrain.decoder_width=50"], "and a multiple of 32, found 50"),
        ([*MODEL, "--set", "pretrain.epoch=1"], "did you mean 'epochs'"),
        ([*MODEL, "--faces", "nowhere"], "nowhere: no such folder of faces"),
        ([*MODEL, "--faces", "one"], "1 face to pretrain on, and at least two are needed"),
        ([*MODEL, "--split", "tset"], "'tset' is no split"),
        ([*MODEL, "--name", "../x"], "letters, digits"),
        ([*MODEL, "--init", "no.safetensors"], "no.safetensors"),
        (["--model", "test_vit", "--device", "tpu"], "cpu, cuda"),
        ([*MODEL, "--config", "none.toml"], "mtl init"),
    ],
)
def test_one_line_and_exit_code_2(project: Path, arguments: list[str], says: str) -> None:
    (project / "one").mkdir()
    (project / "one/00001.png").write_bytes((project / "faces/v0/00000.png").read_bytes())
    assert says in refused("pretrain", *arguments)
    assert not Path("backbones").exists()
