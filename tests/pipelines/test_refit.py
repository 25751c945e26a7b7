"""Refits: the chosen steps on train and val, seeds averaged, the scores of the runs beside them; what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tomlkit
import torch

from helpers.cli import call, refused
from helpers.made_project import Made, make
from pipelines.config import Config, read_config
from pipelines.postprocess.fit import fit
from pipelines.postprocess.run_folders import read_parameters, read_truth
from pipelines.predict.predictor import load_predictor, predict_frames
from pipelines.refit import training
from pipelines.refit.record import read_refit
from pipelines.refit.sources import best_steps, find_sources
from pipelines.refit.training import train_refit
from pipelines.report.command import make_report
from pipelines.run_files import read_manifest
from pipelines.splits import pooled_split, resolve_split
from pipelines.strategy import strategy_of
from pipelines.training.dataset import load_dataset
from pipelines.training.run import load_run, predict_run
from pipelines.training.train import predict_models, train_strategy

SPLITS = ("train", "train", "val", "train", "test", "val", "val", "val")
CPU = torch.device("cpu")
METHODS = {
    "joint": {"temporal": "gru"},
    "separate": {"method": "separate", "task.va.window": 5, "task.va.steps": 18, "task.expr.eval_steps": 4},
    "progressive": {"method": "progressive", "frozen_steps": 8, "task.au.temporal": "none"},
}


@pytest.mark.parametrize("name", METHODS)
def test_on_the_same_rows_it_is_the_run_itself(
    small: Config, made: Made, monkeypatch, tmp_path: Path, name: str
) -> None:
    """Learning rate, order of data and frozen trunks are those of the run, up to the step it chose."""
    dataset = made.dataset()
    strategy = strategy_of(small).replace({"steps": 30, "lr": 0.03, **METHODS[name]}, "test")
    wanted = train_strategy(small, dataset, strategy)
    steps = {note.model: note.step for note in wanted.history if note.best}
    own = resolve_split(made.frames, small.split)
    monkeypatch.setattr(training, "pooled_split", lambda frames, labels: own)
    (found,), _ = train_refit(small, dataset, [strategy], steps, tmp_path / "x")
    assert found.metrics["step"] == wanted.metrics["step"]
    for one, other in zip(found.models, wanted.models, strict=True):
        for key, value in other.module.state_dict().items():
            assert torch.equal(one.module.state_dict()[key], value), key


def test_the_joint_part_of_a_progressive_strategy_may_train_for_no_step(
    small: Config, made: Made, tmp_path: Path
) -> None:
    dataset = made.dataset()
    strategy = strategy_of(small).replace({"method": "progressive"}, "test")
    separate = strategy.replace({"method": "separate"}, "test")
    steps = {"va": 6, "expr": 12, "au": 6}
    (joined,), _ = train_refit(small, dataset, [strategy], {**steps, "joint": 0}, tmp_path / "x")
    (apart,), _ = train_refit(small, dataset, [separate], steps, tmp_path / "y")
    rows = (made.frames["split"] == "test").to_numpy()
    ours, theirs = (
        predict_models([(m.spec, m.module) for m in one.models], dataset, one.strategy, one.streams, rows)
        for one in (joined, apart)
    )
    for name, values in ours.probabilities.parts.items():
        np.testing.assert_allclose(values, theirs.probabilities.parts[name], atol=1e-6)


def test_it_trains_on_train_and_val_and_on_nothing_else(made: Made, small: Config) -> None:
    split = pooled_split(made.frames, made.dataset().labels)
    parts = made.frames.filter(split.train)["split"].unique().sort().to_list()
    assert parts == ["train", "val"]
    assert split.train.sum() == made.frames["split"].is_in(["train", "val"]).sum()
    assert not split.select.any()
    assert not split.report.any()


def test_stopped_and_resumed_it_is_as_undisturbed(small: Config, made: Made, tmp_path: Path) -> None:
    dataset, calls = made.dataset(), iter(range(100))
    strategies = [strategy_of(small).replace({"seed": seed, **METHODS["separate"]}, "test") for seed in (0, 1)]
    steps = {"va": 12, "expr": 8, "au": 6}

    def stop() -> None:
        if next(calls) == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_refit(small, dataset, strategies, steps, tmp_path / "x", poll=stop)
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished-x-0"]
    resumed, _ = train_refit(small, dataset, strategies, steps, tmp_path / "x")
    undisturbed, _ = train_refit(small, dataset, strategies, steps, tmp_path / "y")
    for one, other in zip(resumed, undisturbed, strict=True):
        for ours, theirs in zip(one.models, other.models, strict=True):
            assert all(torch.equal(ours.module.state_dict()[k], v) for k, v in theirs.module.state_dict().items())


@pytest.fixture(scope="module")
def refitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the run `one`, the study `g` of two seeds, and the refits of both."""
    folder = tmp_path_factory.mktemp("refitted")
    make(8, splits=SPLITS).write(folder)
    (folder / "g.toml").write_text(
        '[set]\nmethod = "separate"\ntask.va.window = 5\n[product]\nseed = [3, 4]\nfusion = ["sum", "concat"]\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("train-head", "--name", "one", "--refit")
        call("search", "--grid", "g.toml")
        call("refit", "g", "--seeds", "2")
    return folder


@pytest.fixture
def project(refitted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(refitted)
    return refitted


def test_a_refit_predicts_the_mean_of_its_seeds_post_processed_as_its_runs(project: Path) -> None:
    config = read_config(project / "mtl.toml")
    folder = Path("studies/g/refits/best-refit")
    predictor = load_predictor(folder, CPU)
    assert (predictor.kind, predictor.tasks, len(predictor.runs)) == ("refit", ("va", "expr", "au"), 2)
    dataset = load_dataset(config, predictor.streams, CPU)
    rows = (dataset.frames["split"] == "test").to_numpy()
    found = predict_frames(predictor, dataset, rows)
    alone = [predict_run(load_run(folder / "runs" / name), dataset, rows).probabilities for name in ("s3", "s4")]
    for name, values in found.raw.parts.items():
        np.testing.assert_allclose(values, (alone[0].parts[name] + alone[1].parts[name]) / 2, atol=1e-6)
    truth = read_truth(config)
    sources = find_sources(config, Path("g"), truth)
    assert read_parameters(folder).to_json() == fit(*sources.parts(truth)).parameters.to_json()
    said = call("predict", "best-refit", "--split", "val", "--out", "val.csv", "--force")
    assert "no held-out predictions: 240 of these frames trained the model" in said


def test_it_is_said_what_it_is_of_and_that_it_has_no_score(project: Path) -> None:
    folder = Path("studies/g/refits/best-refit")
    record = json.loads((folder / "refit.json").read_text())
    board = json.loads(Path("studies/g/leaderboard.json").read_text())
    first = {Path(run).name for run in board["rankings"][0]["rows"][0]["runs"]}
    assert {Path(run).name for run in record["of"]} == first
    steps = [best_steps(folder / run, read_manifest(folder / run)) for run in record["of"]]
    assert record["num_steps"] == {task: min(one[task] for one in steps) for task in ("va", "expr", "au")}
    for name in record["runs"]:
        assert read_manifest(folder / name)["refit"] == {key: record[key] for key in ("of", "num_steps")}
    card = (folder / "model_card.md").read_text()
    assert "No held-out score of it exists" in card
    assert "| train and val: trained its weights | 7 |" in card
    assert "selected its weights |" not in card
    done = make_report(read_config(Path("mtl.toml")), folder, Path("page.html"), force=True)
    page = Path("page.html").read_text()
    assert done["kind"] == "refit"
    assert "No held-out score of it exists" in page
    score = f"{record['scores']['post']['report']['P']:.3f}"
    assert score in page
    note = "refits/best-refit: a refit on train and val, without a held-out score; that of its 2 runs: "
    assert note in " ".join(call("search", "--grid", "g.toml").split())
    make_report(read_config(Path("mtl.toml")), Path("studies/g"), Path("page.html"), force=True)
    assert note in Path("page.html").read_text()


def test_it_is_made_once(project: Path) -> None:
    before = Path("refits/one-refit/refit.json").read_bytes()
    assert json.loads(call("refit", "one", "--json"))["seeds"] == [0, 1, 2]
    assert "warning" not in call("refit", "one")
    said = call(
        "refit", "one", "--seeds", "1", "--name", "tuned", "--set", "backbones.va.score=va 0.4 on the selection"
    )
    assert "warning: va: fine-tuned on train alone" in said
    assert Path("refits/one-refit/refit.json").read_bytes() == before
    assert "other runs or seeds" in refused("refit", "one", "--seeds", "2")
    assert not list(Path("refits").glob(".unfinished*"))


def test_a_run_trained_again_by_force_takes_its_refit_along(project: Path) -> None:
    call("train-head", "--name", "twice", "--refit")
    before = read_refit(Path("refits/twice-refit"))
    call("train-head", "--name", "twice", "--refit", "--seed", "7", "--force")
    after = read_refit(Path("refits/twice-refit"))
    assert (before["seeds"], after["seeds"]) == ([0, 1, 2], [7, 8, 9])


def test_what_cannot_be_refitted_is_refused(project: Path) -> None:
    call("train-head", "--fold", "1", "--name", "folded")
    call("ensemble", "g")
    cases = {
        ("folded",): "runs/folded: trained with fold 1",
        ("nothing",): "nothing: no finished run and no study here",
        ("one-refit",): "a refit already",
        ("studies/g/ensembles/best",): "an ensemble",
        ("refits/one-refit/runs/s0",): "part of a refit, with no row held out; name the runs it was made from: one",
        ("one", "--name", "../x"): "one folder, no path",
    }
    for words, message in cases.items():
        assert message in refused("refit", *words), words
    assert "a fold holds part of them out" in refused("train-head", "--refit", "--fold", "0")
    assert "part of a refit" in refused("postprocess", "refits/one-refit/runs/s0")
    assert "part of a refit" in refused("ensemble", "refits/one-refit/runs/s0", "one")


def test_a_backbone_that_came_after_the_run_is_none_of_its_streams(project: Path) -> None:
    call("refit", "one", "--name", "later", "--set", "backbones.later.model=m")
    refit, run = (read_manifest(Path(folder)) for folder in ("refits/later/runs/s0", "runs/one"))
    assert refit["streams"].keys() == run["streams"].keys()


def test_data_that_have_changed_are_refused(project: Path) -> None:
    frames = Path("frames.parquet").read_bytes()
    pl.read_parquet("frames.parquet").with_columns(valence=-pl.col("valence")).write_parquet("frames.parquet")
    try:
        assert "labels, splits or subjects" in refused("refit", "one", "--name", "again")
    finally:
        Path("frames.parquet").write_bytes(frames)
    settings = Path("mtl.toml").read_text()
    document = tomlkit.parse(settings)
    document["backbones"].popitem()
    Path("mtl.toml").write_text(tomlkit.dumps(document))
    try:
        assert "by mtl.toml its strategy now reads" in refused("refit", "one", "--name", "again")
    finally:
        Path("mtl.toml").write_text(settings)
    Path("cache.zarr").rename("old.zarr")
    make(8, splits=SPLITS).write(project, weights="others")
    assert "is not the one this run was trained on" in refused("refit", "one", "--name", "again")
    shutil.rmtree("cache.zarr")
    Path("old.zarr").rename("cache.zarr")
    assert not list(Path("refits").glob("*again*"))
