"""`mtl compare`: ranks, runs and folders, in 80 columns; whatever is wrong is one line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from cache.frames import write_frames
from helpers import stub_study as stub
from helpers.cli import Ended, typed
from helpers.made_project import make
from pipelines.search.grid import expand
from pipelines.search.loop import one_at_a_time, run_trials
from pipelines.search.record import Record
from pipelines.search.study import Study, make_trials, open_study, read_study
from pipelines.strategy import strategy_of

GRID = {
    "product": {"tasks": [["va", "expr", "au"], ["va", "au"]], "temporal": ["none", "tcn"], "seed": [0, 1]},
    "set": {"fusion": "sum"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a study "s" of two tables of two strategies, two seeds each."""
    folder = tmp_path_factory.mktemp("made")
    frames, config = stub.make_frames(30, 30), stub.make_config()
    write_frames(frames, folder / "frames.parquet")
    (folder / "mtl.toml").write_text('[backbones.va]\nmodel = "test_vit2"\n')
    grid, inputs = stub.make_grid(GRID), stub.make_inputs(frames, config)
    trials = make_trials(expand(grid, strategy_of(config)), config, inputs)
    with open_study(folder / "studies" / "s", grid, inputs, trials) as study:
        engine = one_at_a_time(study, stub.make_trainer(frames, config))
        run_trials(study, trials, engine, Record(study, grid.fields))
    return folder


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def mtl(*words: str) -> Ended:
    return typed("compare", *words)


def runs_of(study: Study, **values: object) -> list[Path]:
    flats = {trial.digest: trial.strategy.flat() for trial in study.trials.values()}
    return [study.path / "runs" / d for d, flat in flats.items() if all(flat[k] == v for k, v in values.items())]


def test_two_places_of_a_study_are_compared_in_80_columns(project: Path) -> None:
    code, out, _ = mtl("s", "1", "2")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "A: 1 (temporal TCN)" in out
    assert "A is significantly better, taken alone (10 held-out videos, 2 pairs of runs)" in out
    assert all(words in out for words in ("95 % interval", "VA (mean CCC)", "EXPR (macro F1)", "AU (mean F1)"))


def test_json_has_the_difference_of_the_leaderboards_scores(project: Path) -> None:
    found = json.loads(mtl("studies/s", "1", "2", "--json")[1])
    study = read_study(project / "studies" / "s")
    means = []
    for temporal in ("tcn", "none"):
        runs = runs_of(study, temporal=temporal, tasks=["va", "expr", "au"])
        means.append(sum(json.loads((run / "metrics.json").read_text())["report"]["P"] for run in runs) / 2)
    assert found["differences"]["P"]["value"] == pytest.approx(means[0] - means[1])
    assert found["first"]["scores"]["P"] == pytest.approx(means[0])
    assert found["differences"]["P"]["p"] < 0.05
    assert sorted(found["differences"]) == ["P", "au", "expr", "va"]
    assert len(found["first"]["runs"]) == 2


def test_a_run_stands_for_its_strategy_and_other_tasks_compare_over_those_in_common(project: Path) -> None:
    study = read_study(project / "studies" / "s")
    run = runs_of(study, temporal="tcn", tasks=["va", "au"])[0]
    for name in (run.name, str(run)):
        found = json.loads(mtl("s", name, "2", "--json")[1])
        assert found["tasks"] == ["va", "au"]
        assert found["num_pairs"] == 2
    assert "P over 2 of 3 tasks" in mtl("s", run.name, "2")[1]
    assert mtl("s", "1", "2", "--tasks", "va,au")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("s", "1", "9"), "no 9 here; name a rank from 1 to 2"),
        (("s", "1", "0"), "no 0 here"),
        (("s", "1", "nothing"), "no nothing here"),
        (("s", "1", "1"), "the same strategy"),
        (("nix", "1", "2"), "nix: no finished study"),
        (("s", "1"), "s: no finished run"),
        (("s",), "takes STUDY A B or RUN_A RUN_B, not 1 names"),
        (("s", "1", "2", "3"), "not 4 names"),
        (("s", "1", "2", "--tasks", "expr"), "no strategy with the tasks expr; it has va,expr,au; va,au"),
        (("a", "b", "--tasks", "va"), "--tasks picks a table of a study"),
    ],
)
def test_wrong_input_is_one_line(project: Path, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = mtl(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_changed_labels_are_refused(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "copy")
    frames = stub.make_frames(30, 30).with_columns(valence=-pl.col("valence"))
    write_frames(frames, tmp_path / "copy" / "frames.parquet")
    code, _, err = mtl("s", "1", "2", "--config", str(tmp_path / "copy" / "mtl.toml"))
    assert code == 2
    assert "the labels have changed since" in err


def test_two_real_runs_compare_and_those_of_other_splits_do_not(
    tmp_path: Path, made_runs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made_runs.folder)
    code, out, _ = mtl("first", "second")
    assert code == 0
    assert "A: first (concat, none, joint, seed 0)" in out
    assert "1 pair of runs" in out
    code, _, err = mtl("first", "other")
    assert code == 2
    assert "only runs of one split compare" in err


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Three runs of one epoch: "first", "second", and "other", which was scored on a fold."""
    import torch

    from pipelines.config import read_config
    from pipelines.training.dataset import load_dataset
    from pipelines.training.run import train_run

    folder = tmp_path_factory.mktemp("runs")
    make().write(folder)
    config = read_config(folder / "mtl.toml", ["train.steps=6"])
    dataset = load_dataset(config, [(name, "base") for name in config.backbones], torch.device("cpu"))
    base = strategy_of(config).replace({"fusion": "concat", "temporal": "none"}, "here")
    for name, values in (("first", {}), ("second", {"lr": 0.01, "seed": 1}), ("other", {"fold": 0})):
        train_run(config, dataset, base.replace(values, "here"), folder / "runs" / name)
    return SimpleNamespace(folder=folder)
