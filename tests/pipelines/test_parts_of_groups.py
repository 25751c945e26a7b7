"""Valence and arousal as tasks of their own: heads, methods, backbones, ensembles, predictions."""

from pathlib import Path

import numpy as np
import pytest

from cache.labels import ABAW
from heads.config import LossConfig
from helpers import stub_runs as stub
from pipelines.config import read_config
from pipelines.ensemble.candidates import find_runs, read_library
from pipelines.ensemble.members import choose, make_ensemble
from pipelines.metrics.predictions import joined
from pipelines.postprocess.run_folders import read_truth
from pipelines.strategy import strategy_of
from pipelines.training.train import train_strategy


def trained(config, dataset, **values):
    return train_strategy(config, dataset, strategy_of(config).replace(values, "test"))


@pytest.mark.parametrize("method", ["joint", "separate", "progressive"])
def test_both_apart_predict_all_of_valence_and_arousal(small, made, method):
    result = trained(small, made.dataset(), tasks=["valence", "arousal", "au"], method=method, temporal="none")
    report = result.metrics["report"]
    assert {"va.ccc_valence", "va.ccc_arousal", "va.ccc_mean", "au.f1_mean"} <= set(report)
    assert report["P"] == pytest.approx(report["va.ccc_mean"] + report["au.f1_mean"])
    said = result.predictions["report"].probabilities
    assert [task.name for task in said.tasks] == ["va", "au"]
    assert said.parts["va"].shape[1] == 2
    names = {"joint": ["joint"], "separate": ["valence", "arousal", "au"], "progressive": ["joint"]}[method]
    assert [model.spec.name for model in result.models] == names


def test_one_alone_is_scored_by_itself(small, made):
    result = trained(small, made.dataset(), tasks=["arousal"], temporal="none")
    report = result.metrics["report"]
    assert report["P"] == report["va.ccc_mean"] == report["va.ccc_arousal"]
    assert "va.ccc_valence" not in report
    assert [task.name for task in result.predictions["report"].probabilities.tasks] == ["arousal"]


def test_the_weight_of_a_task_is_its_own(small, made):
    """A weight of 0 stops what a task teaches: valence learns nothing then, arousal what it did."""
    both = {"tasks": ["valence", "arousal"], "temporal": "none"}
    without = trained(small, made.dataset(), **both, task_weights={"valence": 0.0}).metrics["select"]
    whole = trained(small, made.dataset(), **both).metrics["select"]
    assert whole["va.ccc_valence"] > without["va.ccc_valence"] + 0.2


def test_own_streams_of_a_part_are_those_of_its_group(small):
    assert small.own_streams(("valence",)) == small.own_streams(("va",)) == ("va",)


def test_columns_of_a_group_are_joined_in_its_order() -> None:
    rng = np.random.default_rng(0)
    one, other, units = rng.random((5, 1)), rng.random((5, 1)), rng.random((5, 12))
    said = joined({"arousal": one, "au": units, "valence": other}, ABAW)
    assert [task.name for task in said.tasks] == ["va", "au"]
    np.testing.assert_array_equal(said.parts["va"], np.concatenate([other, one], axis=1))
    np.testing.assert_array_equal(said.values("arousal"), one)
    with pytest.raises(KeyError):
        said.values("expr")


def test_an_ensemble_puts_runs_of_one_column_together(tmp_path: Path) -> None:
    """Three runs of all tasks, a better one of valence and a better one of arousal: each column has its best."""
    frames = stub.make_frames()
    stub.write_project(tmp_path, (1.0, 1.1, 1.2), frames)
    good = stub.predict(frames, 0.3, 9, tasks=("va",))
    for name, lost in (("run8", "arousal"), ("run9", "valence")):
        stub.write_run(tmp_path / "studies" / "s" / "runs" / name, frames, good.drop(lost))
    truth = read_truth(read_config(tmp_path / "mtl.toml"))
    found = find_runs([tmp_path / "studies" / "s"], truth, runs=tmp_path, studies=tmp_path)
    library = read_library(found, truth)[0]
    assert library.tasks == ("valence", "arousal", "expr", "au")
    mix = choose(library, np.ones(len(library.select.table), bool), 10)["ensemble"]
    assert mix.weights["valence"][3] > 0.5
    assert mix.weights["arousal"][4] > 0.5
    made = make_ensemble(library, 10)
    metrics = made.outcomes["ensemble"].metrics["report"]
    assert set(made.outcomes["ensemble"].report.predicted.parts) == {"va", "expr", "au"}
    assert metrics["va.ccc_mean"] > made.outcomes["single"].metrics["report"]["va.ccc_mean"] + 0.1
    assert metrics["P"] == pytest.approx(metrics["va.ccc_mean"] + metrics["expr.f1_macro"] + metrics["au.f1_mean"])


def test_the_configuration_names_them(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text('[head]\ntasks = ["valence", "au"]\n[loss]\ntask_weights = {valence = 2.0}\n')
    config = read_config(path)
    assert config.head.tasks == ("valence", "au")
    assert config.loss == LossConfig(task_weights={"valence": 2.0})
    path.write_text('[head]\ntasks = ["valance"]\n')
    with pytest.raises(ValueError, match=r"\[head\] tasks: unknown task 'valance' \(did you mean 'valence'\?\)"):
        read_config(path)
