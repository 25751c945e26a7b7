"""`mtl train-head` and `mtl evaluate`: what they print, their JSON, and their one-line errors."""

import json

import pytest
from typer.testing import CliRunner

from cache.locks import alone
from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from cache.store import Cache
from helpers.cli import call, refused
from helpers.processes import python
from pipelines.cli import app

KEYS = {
    "P",
    "va.ccc_valence",
    "va.ccc_arousal",
    "va.ccc_mean",
    "expr.f1_macro",
    "au.f1_mean",
    *(f"expr.f1.{name}" for name in EXPRESSIONS),
    *(f"au.f1.{name}" for name in ACTION_UNITS),
    *(f"num_frames.{task}" for task in TASKS),
}


@pytest.fixture(autouse=True)
def _typed_there(shared, monkeypatch):
    monkeypatch.chdir(shared)


def test_train_head_prints_both_scores_apart_and_the_run(shared):
    said = call("train-head", "--name", "plain")
    assert "selection" in said
    assert "held out" in said
    assert "run: runs/plain" in said
    assert (shared / "runs" / "plain" / "run.json").exists()
    again = call("train-head", "--name", "plain")
    assert said.splitlines()[:8] == again.splitlines()[:8]


def test_force_replaces_a_run_and_nothing_else(shared):
    mine = shared / "runs" / "mine"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("mine")
    for force in ((), ("--force",)):
        with pytest.raises(ValueError, match=r"runs/mine: .*no run\.json"):
            call("train-head", "--name", "mine", *force)
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    assert "run: runs/again" in call("train-head", "--name", "again")
    call("train-head", "--name", "again", "--force", "--seed", "3")
    assert json.loads((shared / "runs" / "again" / "run.json").read_text())["seed"] == 3


def test_a_name_has_one_writer(shared):
    (shared / "runs").mkdir(exist_ok=True)
    with alone(shared / "runs" / ".lock-two", "another"):
        with pytest.raises(ValueError, match=r"^runs/two is being written by process \d+; wait until it ends"):
            call("train-head", "--name", "two")
        call("train-head", "--name", "three")
    call("train-head", "--name", "two")
    with alone(shared / "runs" / ".lock-two", "another"):  # as in a shared that cannot be written to
        assert "run: runs/two" in call("train-head", "--name", "two")
    assert not list((shared / "runs").glob(".lock*"))


def test_train_head_takes_its_choices_from_options(shared):
    options = {"fusion": "gated", "temporal": "gru", "tasks": "va,au", "streams": "va,au", "method": "progressive"}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    said = json.loads(call("train-head", *words, "--seed", "4", "--set", "train.steps=6", "--runs", "other", "--json"))
    manifest = json.loads((shared / said["run"] / "run.json").read_text())
    chosen = {key: manifest["strategy"][key] for key in (*options, "seed", "steps")}
    expected = options | {"tasks": ["va", "au"], "streams": ["va", "au"], "seed": 4, "steps": 6}
    assert chosen == expected
    assert said["run"].startswith("other/gated-gru-progressive-va-au-s4-")
    assert said["select"]["P"] == said["select"]["va.ccc_mean"] + said["select"]["au.f1_mean"]
    assert said["step"].keys() == {"joint"}


def test_train_head_json_has_the_stable_keys():
    said = json.loads(call("train-head", "--json"))
    assert set(said["select"]) >= KEYS
    assert set(said["report"]) >= KEYS


def test_evaluate_prints_and_repeats_the_scores():
    trained = json.loads(call("train-head", "--name", "first", "--json"))
    evaluated = json.loads(call("evaluate", "runs/first", "--split", "val", "--json"))
    assert set(evaluated) >= KEYS
    assert {key: evaluated[key] for key in KEYS} == {key: trained["select"][key] for key in KEYS}
    said = call("evaluate", "first", "--split", "val")
    assert f"{evaluated['P']:.4f}" in said
    assert "AU26" in said
    assert "Surprise" in said
    assert "no held-out score: 120 of these frames" in said
    assert "no held-out score" not in call("evaluate", "first", "--split", "test")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["train-head", "--fusion", "sums"],
            "fusion: expected one of 'concat', 'sum', .*, found 'sums'",
        ),
        (["train-head", "--method", "jiont"], "mtl train-head method: expected one of"),
        (["train-head", "--tasks", "va,emotion"], "mtl train-head tasks"),
        (["train-head", "--streams", "va,clip"], "unknown stream 'clip'"),
        (["train-head", "--set", "train.lrr=1"], "unknown key 'lrr' .did you mean 'lr'"),
        (
            ["train-head", "--set", "train.steps=0"],
            r"\[train\] steps: expected a whole number from 1 to 1000000000, found 0",
        ),
        (["train-head", "--fold", "9"], "fold 9 of 5"),
        (["train-head", "--fold", "2.4"], "fold 2.4 of 5: of 5 folds, 4 are left to choose on"),
        (["train-head", "--fold", "1002"], 'fold: expected a fold such as 2, "2.1" or "none", found \'1002\''),
        (["train-head", "--device", "gpu"], "--device gpu"),
        (["train-head", "--config", "none.toml"], "mtl init"),
        (["evaluate", "nothing"], "no finished run"),
        (["evaluate", "first", "--split", "dev"], "unknown split"),
    ],
)
def test_errors_are_one_line(words, error):
    call("train-head", "--name", "first")
    with pytest.raises(ValueError, match=error) as caught:
        call(*words)
    assert "\n" not in str(caught.value)


def test_a_missing_stream_names_the_command(made, tmp_path):
    made.write(tmp_path)
    Cache.open(tmp_path / "cache.zarr").remove("au")
    with pytest.raises(ValueError, match="mtl extract --backbone au"):
        call("train-head", "--config", str(tmp_path / "mtl.toml"))


def test_an_error_is_exit_code_2_and_no_traceback():
    assert "runs/nothing" in refused("evaluate", "nothing")


@pytest.mark.parametrize("command", ["train-head", "evaluate"])
def test_help_has_examples(command):
    said = CliRunner().invoke(app, [command, "--help"]).stdout
    assert "Examples" in said
    assert f"mtl {command}" in said


@pytest.mark.slow
def test_training_does_not_import_the_compiler(shared):
    """torch.optim and modules on the device meta import torch._dynamo and sympy: 5 s of CPU before the first step."""
    code = """
import sys
from pipelines.cli import app
app(["train-head", "--name", "lean", "--json"], standalone_mode=False)
assert "torch" in sys.modules
print([name for name in ("torch._dynamo", "sympy", "timm", "optuna") if name in sys.modules])
"""
    assert python("-c", code, cwd=shared).stdout.splitlines()[-1] == "[]"
