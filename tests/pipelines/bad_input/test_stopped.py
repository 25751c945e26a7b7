"""Commands stopped by the user: one line, exit code 130, and every file as it was.

Everything goes through the entry point `mtl`. Where a command refuses, the whole working folder is compared byte for
byte with what it was: frames table, cache and marks, runs, studies, backbones and mtl.toml at once.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from helpers.bad_input import EXTRACT, FINETUNE, PREPARE, SEARCH, contents, use
from helpers.cli import typed

# Ctrl-C and help


@use("trained")
@pytest.mark.parametrize(
    ("arguments", "inside"),
    [
        (PREPARE, "extract.annotations.gather.merge"),
        ([*FINETUNE, "va"], "pipelines.backbones.finetuning.finetune.train_backbone"),
        ([*FINETUNE, "va"], "cache.frames.read_frames"),
        (EXTRACT, "pipelines.extraction.run.open_frames"),
        (["train-head", "--seed", "1"], "pipelines.training.run.train_strategy"),
        (["evaluate", "one"], "pipelines.results.evaluate.predict_views"),
        (["cache", "verify"], "cache.verify.verify_named"),
        (["score", "data/val_set.txt", "data/val_set.txt"], "pipelines.results.score.score_tables"),
        (["demo-data", "more"], "extract.made.dataset.make_data"),
    ],
)
def test_stopped_by_the_user(project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], inside: str) -> None:
    monkeypatch.setattr(inside, interrupt)
    before = contents(project)
    code, out, err = typed(*arguments)
    assert (code, out) == (130, "")
    assert err.strip("\n").count("\n") == 0
    assert err.strip("\n").startswith("mtl: stopped; ")
    assert contents(project) == before


@use("extracted")
def test_a_search_stopped_by_the_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.training.run.train_strategies", interrupt)
        code, out, err = typed(*SEARCH)
    assert (code, err) == (130, "")
    assert "stopped by Ctrl-C: 2 trials left; the same command resumes" in out
    assert not list((project / "studies/grid/runs").glob("*/run.json"))
    assert typed(*SEARCH)[0] == 0


@use("extracted")
@pytest.mark.parametrize("arguments", [SEARCH, ["train-head", "--seed", "1"]])
def test_sigterm_is_heard_between_two_steps(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    heard = list[bool]()

    def step(*arguments: Any, **named: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        heard.append(True)  # nothing is broken off
        checkpoint = named.get("checkpoint") or arguments[-1]
        checkpoint._poll()

    monkeypatch.setattr("pipelines.training.run.train_strategies", step)
    monkeypatch.setattr("pipelines.training.run.train_strategy", step)
    code, out, err = typed(*arguments)
    assert (code, heard) == (143, [True])
    assert "stopped by SIGTERM: 2 trials left; the same command resumes" in out or err.startswith("mtl: stopped; ")


def interrupt(*arguments: object, **named: object) -> None:
    raise KeyboardInterrupt
