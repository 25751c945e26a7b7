"""Progress where long work has parts: the stacks of a search, the choices of an ensemble, the commands of the demo."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.cli import invoke
from pipelines import cli, terminal
from pipelines import progress as progress_module
from pipelines.cli import demo as demo_module
from pipelines.cli.pages.ensemble import print_ensemble
from pipelines.cli.pages.search import SearchPage
from pipelines.ensemble.candidates import Candidate
from pipelines.ensemble.ensemble_folder import words_of
from pipelines.json_files import read_json
from pipelines.terminal import set_quiet


@pytest.fixture(autouse=True)
def every_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lines of progress come at once, however short the work."""
    monkeypatch.setattr(progress_module, "SHORT_S", 0.0)
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    yield
    set_quiet(False)


@pytest.fixture(scope="module")
def project(shared: Path) -> Path:
    (shared / "grid.toml").write_text('[product]\nfusion = ["sum", "gated"]\nseed = [0, 1]\n')
    return shared


def test_a_stack_says_its_steps_off_a_terminal(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    lines = invoke("search", "--grid", "grid.toml", "--study", "studies/s").stderr.splitlines()
    inside = [line for line in lines if "2 at once, joint step 6/12" in line]
    assert len(inside) == 2
    assert inside[0].startswith("searching: 0 of 4 trials")
    assert inside[1].startswith("searching: 2 of 4 trials")
    assert "best P" in inside[1]
    said = invoke("search", "--grid", "grid.toml", "--study", "studies/quiet", "--quiet")
    assert said.stderr == ""


def test_a_stack_is_told_once_a_step_and_without_a_bar_nothing() -> None:
    notes, told, size = SearchPage(terminal.make_console()), [], 3
    note = SimpleNamespace(model="va", step=40, num_steps=800)
    notes.on_evaluation(size, note)  # type: ignore[arg-type]
    bar: Any = SimpleNamespace(note=told.append)
    notes.bar = type("Bar", (), {"__call__": lambda self, count: None, "note": lambda self, text: bar.note(text)})()
    for step in (80, 80, 80, 120):
        notes.on_evaluation(size, SimpleNamespace(model="va", step=step, num_steps=800))  # type: ignore[arg-type]
    notes.on_best("best P 0.612")
    notes.on_evaluation(1, SimpleNamespace(model="expr", step=40, num_steps=800))  # type: ignore[arg-type]
    assert told == [
        "3 at once, va step 80/800",
        "3 at once, va step 120/800",
        "best P 0.612",
        "expr step 40/800, best P 0.612",
    ]


def test_an_ensemble_shows_progress_and_calls_its_members_by_words(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    invoke("search", "--grid", "grid.toml", "--study", "studies/e")
    said = invoke("ensemble", "studies/e")
    assert "reading predictions: 4 of 4 runs (100 %)" in said.stderr
    assert "choosing members: 3 of 3 choices (100 %)" in said.stderr  # two videos, so two folds
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("VA   x")][:1]
    digest, words = line.split(None, 4)[4].split(": ")
    assert (Path("studies/e/runs") / digest / "run.json").is_file()
    assert words.startswith("fusion ")
    assert ", seed " in words
    record = read_json(Path("studies/e/ensembles/best/ensemble.json"))
    long = "streams own, fusion cross-attention, temporal TCN + transformer, depth 5, inputs both, learning rate 0.0003"
    for members in record["members"].values():
        members[0]["strategy"] = long
    console = terminal.make_console(width=80)
    with console.capture() as shown:
        print_ensemble(record, console)
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(shown.get().split()).count("learning rate 0.0003") == len(record["members"])
    at = next(index for index, line in enumerate(lines) if line.startswith("VA   x"))
    assert lines[at + 1].index("temporal") == lines[at].index(digest[:4])  # below the first word, not below "VA"


def candidate(name: str, **strategy: Any) -> Candidate:
    return Candidate(Path(name), {"strategy": {"fusion": "sum", "temporal": "gru", "seed": 0, **strategy}})


def test_members_are_told_apart_by_what_differs() -> None:
    backbone = Candidate(Path("b"), {"kind": "backbone", "backbone": {"section": "expr"}, "strategy": {"fusion": "x"}})
    heads = [candidate("a"), candidate("c", fusion="attention"), candidate("d", seed=3)]
    assert words_of([*heads, backbone]) == [
        "fusion sum, seed 0",
        "fusion attention, seed 0",
        "fusion sum, seed 3",
        "backbone expr by itself",
    ]
    assert words_of([candidate("a"), candidate("b")]) == ["", ""]


@pytest.mark.parametrize("quiet", [True, False])
def test_the_demo_hands_quiet_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    """Two commands in the place of the demo's: each sets anew whether progress is shown."""
    monkeypatch.setattr(demo_module, "commands", lambda seed: [["score", "--help"], ["postprocess", "--help"]])
    called: list[list[str]] = []
    monkeypatch.setattr(demo_module, "run_command", lambda context, words: called.append(words))
    options = ["--quiet"] if quiet else []
    invoke("demo", str(tmp_path / "demo"), *options)
    assert called == [["score", "--help", *options], ["postprocess", "--help", *options]]


def test_the_demo_runs_other_commands_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command imports itself alone; this one needs them all."""
    monkeypatch.setattr(demo_module, "commands", lambda seed: [["recipes"]])
    monkeypatch.setattr(sys, "argv", ["mtl", "demo", str(tmp_path / "demo")])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    assert "liu-2024" in capsys.readouterr().out


def test_a_search_says_what_it_reads_from_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    SearchPage(terminal.make_console()).on_stored(["va", "expr"])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "va, expr: beyond [train] memory_gb, so read from the cache while training\n")
