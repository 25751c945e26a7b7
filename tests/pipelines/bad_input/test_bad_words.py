"""A grid, a configuration or a name with a mistake: one clear line, nothing lost, nothing half-written.

Everything goes through the entry point `mtl`. Where a command refuses, the whole working folder is compared byte for
byte with what it was: frames table, cache and marks, runs, studies, backbones and mtl.toml at once.
"""

from pathlib import Path

import pytest
import torch

from helpers.bad_input import EXTRACT, PREPARE, READERS, SEARCH, TOML, Refused, use

# Grids and mtl.toml


@use("extracted")
@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ('[product]\nfusoin = ["sum"]\n', "did you mean 'fusion'?"),
        ("[prodct]\nseed = [0]\n", "did you mean 'product'?"),
        ('[product]\ntemporal = ["gruu"]\n', "did you mean 'gru'?"),
        ("[product]\nseed = [0\n", "not valid TOML"),
        ('[product]\nstreams = [["expt"]]\n', "expt"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_grid_with_a_mistake(project: Path, refused: Refused, grid: str, says: str, dry_run: bool) -> None:
    (project / "grid.toml").write_text(grid)
    said = refused(*SEARCH, *(["--dry-run"] if dry_run else []))
    assert said.startswith("mtl: error: grid.toml: ")
    assert says in said


def test_a_grid_that_is_not_there(refused: Refused) -> None:
    said = refused("search", "--grid", "grids/jont.toml")
    assert "grids/jont.toml: no such file (did you mean 'joint.toml'?)" in said


@use("trained")
@pytest.mark.parametrize("command", [name for name in READERS if name != "prepare"])
def test_a_broken_configuration(project: Path, refused: Refused, command: str) -> None:
    said = refused(*READERS[command], "--set", "train.step=3")
    assert "step" in said
    assert "did you mean 'steps'?" in said
    assert "no_section" in refused(*READERS[command], "--set", "no_section.key=3")
    assert "steps" in refused(*READERS[command], "--set", "train.steps=many")
    broken_files(project, refused, READERS[command])


@use("trained")
def test_a_broken_configuration_of_prepare(project: Path, refused: Refused) -> None:
    broken_files(project, refused, PREPARE)


def broken_files(project: Path, refused: Refused, arguments: list[str]) -> None:
    path = project / "mtl.toml"
    for text in (b"[train\n", b"\xff\xfe", TOML.encode()[:40]):
        path.write_bytes(text)
        assert refused(*arguments).startswith("mtl: error: mtl.toml: not valid TOML: ")
    path.write_text(TOML.replace("steps", "step", 1))
    assert "mtl.toml: [train]: unknown key 'step' (did you mean 'steps'?)" in refused(*arguments)
    path.write_text(f"train = 3\n{TOML.replace('[train]', '[other]')}")
    assert "mtl.toml: " in refused(*arguments)
    path.unlink()
    assert refused(*arguments) == "mtl: error: mtl.toml: no such file; `mtl init` writes one\n"


def test_init_keeps_a_configuration(refused: Refused) -> None:
    assert "mtl.toml is there already; --force writes over it" in refused("init")


# Names


@use("trained")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*EXTRACT, "--backbone", "exprr"], "--backbone exprr: not in mtl.toml (did you mean 'expr'?); there: expr"),
        ([*EXTRACT, "--set", "backbones.expr.model=test_resnt"], "did you mean 'test_resnet'"),
        (["finetune", "--task", "va", "--model", "test_vitt"], "timm has no model 'test_vitt'; did you mean"),
        (["finetune", "--task", "emotion", "--model", "test_vit"], "unknown task 'emotion'; the schema abaw has va"),
        (["train-head", "--streams", "exprr"], "exprr"),
        (["train-head", "--fusion", "summ"], "'attention', 'cross-attention', found 'summ'"),
        (["train-head", "--tasks", "va,emotion"], "emotion"),
        (["evaluate", "two"], "runs/two: no finished run here (no run.json); `mtl train-head` makes one"),
        (["evaluate", "one", "--split", "vall"], "--split vall: unknown split; known: train, val, test"),
        (["cache", "info", "exprr"], "no stream exprr; there: expr"),
        (["cache", "rm", "exprr", "--yes"], "no stream exprr; there: expr"),
        (["score", "none.csv", "data/val_set.txt"], "none.csv: no such file"),
    ],
)
def test_an_unknown_name(refused: Refused, arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


@use("trained")
@pytest.mark.parametrize("command", ["finetune", "extract", "train-head", "evaluate", "search"])
def test_an_unknown_device(refused: Refused, command: str) -> None:
    arguments = [*READERS[command], "--device"]
    assert refused(*arguments, "tpu") == "mtl: error: --device tpu: expected auto, cpu, cuda or cuda:N\n"
    if not torch.cuda.is_available():
        assert "--device cuda:7: PyTorch finds no CUDA GPU here; use --device cpu" in refused(*arguments, "cuda:7")
