"""Run folders: whole or absent, the saved weights give the saved score, other streams are refused."""

import dataclasses
import json
import tomllib

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from cache import durable
from cache.names import ACTION_UNITS, EXPRESSIONS
from cache.store import Cache
from extract.video.alignment import Alignment, Template
from helpers.made_project import make
from pipelines.config import read_config
from pipelines.faces import write_record
from pipelines.folds import NO_FOLD
from pipelines.metrics.challenge import score_predictions
from pipelines.results.evaluate import evaluate_run, scored_tasks
from pipelines.run_files import read_manifest, write_manifest
from pipelines.strategy import strategy_of
from pipelines.training import run as run_module
from pipelines.training.dataset import load_dataset
from pipelines.training.manifest import digest_on, run_name
from pipelines.training.resident import load_resident
from pipelines.training.run import load_run, predict_run, train_or_find, train_run, write_run
from pipelines.training.train import ALL_METHODS, train_strategy

CPU = torch.device("cpu")


def strategy(config, **values):
    return strategy_of(config).replace(values, "test")


@pytest.fixture(scope="module")
def project(shared):
    """A working folder with mtl.toml, frames, cache and one run, `runs/first`."""
    config = read_config(shared / "mtl.toml")
    train_or_find(config, strategy(config), "cpu", name="first")
    return config


@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_saved_weights_give_the_saved_score(small, made, tmp_path, method):
    """The code released with the paper saved the weights of one epoch later."""
    dataset = made.dataset(failed=(0, 70))
    metrics = train_run(small, dataset, strategy(small, method=method, streams="own", steps=18), tmp_path / "r")
    run, split = load_run(tmp_path / "r"), dataset.split(small.split, NO_FOLD)
    for part in ("select", "report"):
        again = score_predictions(predict_run(run, dataset, getattr(split, part)), dataset.labels, run.tasks)
        assert again == metrics[part] == run.metrics[part]
    names = {path.name for path in (tmp_path / "r" / "weights").iterdir()}
    assert names == {f"{model}.safetensors" for model in metrics["step"]}
    assert not any(module.training for _, module in run.models)


def test_what_stands_in_a_run_folder(small, made, tmp_path):
    dataset, chosen = made.dataset(failed=(0,)), strategy(small, fusion="sum", seed=3)
    alignment = Alignment(template=Template(), detector="d", detector_digest="0", long_side_px=640).to_json()
    (tmp_path / "cropped_aligned").mkdir()
    write_record(tmp_path / "cropped_aligned", {"alignment": alignment, "videos": {}})
    small = dataclasses.replace(small, folder=tmp_path)
    result = train_strategy(small, dataset, chosen)
    write_run(tmp_path / "runs" / "r", result, small, dataset)
    folder = tmp_path / "runs" / "r"
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["strategy"] == chosen.flat()
    assert manifest["streams"]["va"]["digest"] == made.identity("va").digest
    assert manifest["split"] == result.split.description
    assert manifest["alignment"] == alignment
    assert manifest["num_without_embedding"] == {"train": 1, "select": 0, "report": 0}
    assert manifest["num_parameters"] == sum(
        v.numel() for v in load_file(folder / "weights/joint.safetensors").values()
    )
    assert {"format", "seed", "commit", "versions", "frames", "labels", "seconds", "step", "device"} <= set(manifest)
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["head"]["fusion"] == "sum"
    assert config["train"]["seed"] == 3
    assert read_config(folder / "config.toml").head == chosen.head
    history = pl.read_csv(folder / "history.csv")
    assert history["step"].to_list() == [note.step for note in result.history]
    assert {"model", "lr", "loss", "loss.va", "score.au", "P", "best", "duration_s"} <= set(history.columns)
    assert [path.name for path in folder.parent.iterdir()] == ["r"], "nothing half-written is left beside it"


def test_predictions_are_a_table_that_can_be_scored(small, made, tmp_path):
    dataset = made.dataset()
    train_run(small, dataset, strategy(small), tmp_path / "r")
    table = pl.read_parquet(tmp_path / "r" / "predictions.parquet")
    split = dataset.split(small.split, NO_FOLD)
    assert table["part"].value_counts(sort=True)["count"].to_list() == [split.select.sum(), split.report.sum()]
    assert table.select("video", "frame").is_duplicated().sum() == 0
    probabilities = table.select(f"p_{name}" for name in EXPRESSIONS).to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (table["expression"].to_numpy() == probabilities.argmax(axis=1)).all()
    assert table["expression"].dtype == pl.Int8
    for name in ACTION_UNITS:
        assert (table[name].to_numpy() == (table[f"p_{name}"].to_numpy() >= 0.5)).all()
    assert table["valence"].is_between(-1, 1).all()


def test_a_run_of_some_tasks_predicts_only_those(small, made, tmp_path):
    metrics = train_run(small, made.dataset(), strategy(small, tasks=["expr"]), tmp_path / "r")
    columns = pl.read_parquet(tmp_path / "r" / "predictions.parquet").columns
    assert "expression" in columns
    assert not {"valence", "AU1", "p_AU1"} & set(columns)
    assert metrics["tasks"] == ["expr"]
    assert metrics["select"]["P"] == metrics["select"]["expr.f1_macro"]


def test_a_killed_writer_leaves_no_run(small, made, tmp_path, monkeypatch):
    dataset, folder = made.dataset(), tmp_path / "runs" / "r"
    result = train_strategy(small, dataset, strategy(small))
    for module, victim in ((run_module, "manifest_of"), (durable, "sync_tree")):
        with monkeypatch.context() as patch:
            patch.setattr(module, victim, kill)
            patch.setattr(durable.shutil, "rmtree", lambda *args, **kwargs: None)  # a kill cleans nothing up
            with pytest.raises(KeyboardInterrupt):
                write_run(folder, result, small, dataset)
        assert not folder.exists()
        with pytest.raises(ValueError, match="no finished run"):
            load_run(folder)
        assert all(path.name.startswith(".") for path in folder.parent.iterdir())
    write_run(folder, result, small, dataset)
    assert load_run(folder).metrics == result.metrics


def kill(*args):
    raise KeyboardInterrupt


def test_a_failed_replacement_leaves_the_old_run(small, made, tmp_path, monkeypatch):
    dataset, folder = made.dataset(), tmp_path / "r"
    first, second = (train_strategy(small, dataset, strategy(small, seed=seed)) for seed in (0, 1))
    write_run(folder, first, small, dataset)
    with pytest.raises(ValueError, match="--force"):
        write_run(folder, second, small, dataset)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "manifest_of", kill)
        with pytest.raises(KeyboardInterrupt):
            write_run(folder, second, small, dataset, force=True)
    assert load_run(folder).metrics == first.metrics
    write_run(folder, second, small, dataset, force=True)
    assert load_run(folder).metrics == second.metrics
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_run_of_another_format_is_refused(project, tmp_path):
    write_manifest(tmp_path, {"format": 99})
    with pytest.raises(ValueError, match="run format 99"):
        load_run(tmp_path)


def test_names_tell_strategies_apart(small, made):
    dataset = made.dataset()
    base = strategy(small)
    digest = digest_on(dataset, small, base)
    assert run_name(base, digest) == f"concat-ssm-joint-s0-{digest[:8]}"
    others = [strategy(small, lr=0.5), strategy(small, seed=1), strategy(small, streams=["va"])]
    assert len({digest_on(dataset, small, other) for other in [base, *others]}) == 4
    part = strategy(small, tasks=["va", "au"], fold=2)
    assert run_name(part, digest) == f"concat-ssm-joint-va-au-s0-f2-{digest[:8]}"
    relabelled = dataclasses.replace(made, frames=made.frames.with_columns(valence=pl.lit(0, pl.Float32)))
    assert digest_on(relabelled.dataset(), small, base) != digest


def test_the_same_strategy_is_not_trained_twice(project):
    first = train_or_find(project, strategy(project, seed=7), "cpu")
    again = train_or_find(project, strategy(project, seed=7), "cpu")
    assert (first.found, again.found) == (False, True)
    assert again.manifest == first.manifest
    forced = train_or_find(project, strategy(project, seed=7), "cpu", force=True)
    assert not forced.found
    assert forced.metrics == first.metrics
    with pytest.raises(ValueError, match="another run has this name"):
        train_or_find(project, strategy(project, seed=8), "cpu", name=first.folder.name)


def test_evaluating_a_run_repeats_its_scores(project):
    folder = project.at("runs/first")
    recorded = load_run(folder).metrics
    for split, part in (("val", "select"), ("test", "report"), ("select", "select"), ("report", "report")):
        metrics = evaluate_run(folder, project, split, CPU)
        assert {key: metrics[key] for key in recorded[part]} == recorded[part]
    assert evaluate_run(folder, project, "report", CPU)["num_seen"] == 0
    trained = evaluate_run(folder, project, "train", CPU)
    assert trained["num_seen"] == trained["num_frames.va"]
    with pytest.raises(ValueError, match="unknown split"):
        evaluate_run(folder, project, "dev", CPU)
    with pytest.raises(ValueError, match="no frame is in split none"):
        evaluate_run(folder, project, "none", CPU)


def test_a_task_without_labels_in_the_split_is_left_out_of_the_sum(project, made, tmp_path):
    masked = made.frames.with_columns(
        pl.when(pl.col("split") != "test").then(name).alias(name) for name in ("valence", "arousal")
    )
    dataclasses.replace(made, frames=masked).write(tmp_path)
    config = read_config(tmp_path / "mtl.toml")
    metrics = evaluate_run(project.at("runs/first"), config, "test", CPU)
    assert metrics["P"] is None
    assert metrics["va.ccc_mean"] is None
    shown = scored_tasks(metrics)
    assert shown["P"] == shown["expr.f1_macro"] + shown["au.f1_mean"]
    assert "va.ccc_mean" not in shown


def test_a_run_refuses_streams_of_other_weights_but_takes_other_frames(project, tmp_path):
    folder, other = project.at("runs/first"), make(6, 40, seed=1)
    other.write(tmp_path)
    config = read_config(tmp_path / "mtl.toml")
    metrics = evaluate_run(folder, config, "val", CPU)
    assert metrics["num_seen"] is None
    with pytest.raises(ValueError, match="not those this run was trained on"):
        evaluate_run(folder, config, "select", CPU)
    (tmp_path / "b").mkdir()
    other.write(tmp_path / "b", weights="otherweights")
    with pytest.raises(ValueError, match="stream va is not the one this run was trained on: weights") as caught:
        evaluate_run(folder, read_config(tmp_path / "b" / "mtl.toml"), "val", CPU)
    assert "\n" not in str(caught.value)


def test_a_missing_stream_says_what_to_type(project, made, tmp_path):
    made.write(tmp_path)
    Cache.open(tmp_path / "cache.zarr").remove("expr")
    config = read_config(tmp_path / "mtl.toml")
    with pytest.raises(ValueError, match="mtl extract --backbone expr"):
        train_or_find(config, strategy(config), "cpu")
    assert train_or_find(config, strategy(config, streams=["va"]), "cpu").metrics["select"]["P"] is not None


def test_streams_of_another_frames_table_are_refused(made, tmp_path):
    made.write(tmp_path)
    with pytest.raises(ValueError, match=r"another frame list \(cached 360 frames, wanted 240\)"):
        load_resident(Cache.open(tmp_path / "cache.zarr"), make(6, 40).frames, [("va", "base")], CPU)


def test_no_frames_table(project, tmp_path):
    (tmp_path / "mtl.toml").write_text("")
    with pytest.raises(ValueError, match="mtl prepare"):
        load_dataset(read_config(tmp_path / "mtl.toml"), [], CPU)


def test_damaged_weights_are_no_model(project, tmp_path):
    import shutil

    shutil.copytree(project.at("runs/first"), tmp_path / "r")
    path = tmp_path / "r" / "weights" / "joint.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"joint\.safetensors.*train it again"):
        load_run(tmp_path / "r")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"joint\.safetensors.*train it again"):
        load_run(tmp_path / "r")
    assert read_manifest(tmp_path / "r")["name"] == "first"
