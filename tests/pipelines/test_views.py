"""Predictions as the mean over views: of runs, their post-processing, ensembles and bundles."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cache.frames import read_frames
from cache.identity import StreamIdentity
from cache.store import Cache
from extract.config import Preprocessing
from extract.view_names import in_view, preprocessing_of
from helpers.cli import call, refused
from helpers.made_project import Made
from pipelines.config import parse_config, read_config
from pipelines.export.record import bundle_models
from pipelines.metrics.challenge import score
from pipelines.postprocess.run_folders import read_postprocess
from pipelines.predict.predictor import load_predictor, predict_frames
from pipelines.training.dataset import load_dataset
from pipelines.training.run import load_run, predict_run

CPU = torch.device("cpu")
BOTH = "base,hflip"


@pytest.fixture(scope="module")
def trained(made: Made, shared: Path) -> Path:
    """Two runs trained on the view base, and the view hflip of every stream: the same with other noise."""
    cache, rng = Cache.open(shared / "cache.zarr"), np.random.default_rng(7)
    for name, values in made.streams.items():
        other = (values + rng.normal(scale=0.5, size=values.shape)).astype(np.float16)
        stream = cache.create(name, replace(made.identity(name), view="hflip"), shard_rows=len(other), provenance={})
        stream.write_shard(0, other, np.zeros((len(other), 16), np.uint8), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        for seed in ("1", "2"):
            call("train-head", "--name", f"r{seed}", "--set", f"train.seed={seed}")
    return shared


@pytest.fixture(autouse=True)
def inside(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    for folder in ("r1", "r2"):
        (trained / "runs" / folder / "postprocess.json").unlink(missing_ok=True)


def mean_of_views(name: str, part: np.ndarray) -> dict[str, np.ndarray]:
    run, found = load_run(Path("runs") / name, CPU), []
    config = read_config(Path("mtl.toml"))
    for view in ("base", "hflip"):
        dataset = load_dataset(config, [(stream, view) for stream in run.streams], CPU)
        found.append(predict_run(run.in_view(view), dataset, part).probabilities.parts)
    return {task: (found[0][task].astype(np.float64) + found[1][task]) / 2 for task in found[0]}


def test_evaluate_scores_the_mean_over_views() -> None:
    frames = read_frames(Path("frames.parquet"))
    part = (frames["split"] == "test").to_numpy()
    means = mean_of_views("r1", part)
    found = json.loads(call("evaluate", "r1", "--split", "test", "--views", BOTH, "--json"))
    plain = json.loads(call("evaluate", "r1", "--split", "test", "--json"))
    assert (found["views"], plain["views"]) == (["base", "hflip"], ["base"])
    assert found["P"] != plain["P"]
    va = frames.filter(part).select("valence", "arousal").to_numpy()
    x, y = means["va"][:, 0], va[:, 0].astype(np.float64)
    ccc = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert found["va.ccc_valence"] == pytest.approx(ccc, abs=1e-5)
    assert "mean of views base, hflip" in call("evaluate", "r1", "--split", "test", "--views", BOTH)


def test_predict_takes_views_from_the_option_and_from_the_configuration() -> None:
    frames = read_frames(Path("frames.parquet"))
    means = mean_of_views("r1", (frames["split"] == "test").to_numpy())
    call("predict", "r1", "--views", BOTH, "--out", "one.parquet", "--force")
    call("predict", "r1", "--set", 'predict.views=["hflip", "base"]', "--out", "two.parquet", "--force")
    one, two = (pl.read_parquet(name) for name in ("one.parquet", "two.parquet"))
    np.testing.assert_allclose(one.select("valence", "arousal").to_numpy(), means["va"], atol=1e-6)
    np.testing.assert_allclose(two["p_Happiness"], one["p_Happiness"], atol=1e-6)


def test_post_processing_keeps_the_views_it_was_fitted_on() -> None:
    """Prediction and evaluation then take them by themselves; others are refused unless it is left out."""
    call("postprocess", "r1", "--views", BOTH)
    record = read_postprocess(Path("runs/r1"))
    assert record["views"] == ["base", "hflip"]
    done = json.loads(call("predict", "r1", "--out", "post.parquet", "--force", "--json"))
    assert done["views"] == ["base", "hflip"]
    after = json.loads(call("evaluate", "r1", "--split", "report", "--post", "--json"))
    assert after["views"] == ["base", "hflip"]
    assert after["P"] == pytest.approx(record["plain"]["report"]["P"], abs=1e-5)
    assert after["post"]["P"] == pytest.approx(record["post"]["report"]["P"], abs=1e-5)
    error = refused("predict", "r1", "--views", "base", "--out", "x.parquet")
    assert "fitted on predictions of the views base, hflip, not of base" in error
    assert "--views base --force` fits it on these" in error
    plain = json.loads(call("predict", "r1", "--no-post", "--out", "plain.parquet", "--force", "--json"))
    assert plain["views"] == ["base"]
    assert "fitted on predictions of the views" in refused("postprocess", "r1", "--views", "hflip")
    call("postprocess", "r1", "--force")
    assert read_postprocess(Path("runs/r1"))["views"] == []
    assert "fitted on predictions of the run's own view" in refused("predict", "r1", "--views", BOTH)


def test_an_ensemble_selects_and_predicts_over_views() -> None:
    call("ensemble", "runs/r1", "runs/r2", "--views", BOTH, "--name", "over", "--force")
    record = json.loads(Path("ensembles/over/ensemble.json").read_text())
    assert record["views"] == ["base", "hflip"]
    weights = {one["run"]: one["weight"] for one in record["members"]["va"]}
    part = (read_frames(Path("frames.parquet"))["split"] == "test").to_numpy()
    wanted = sum(weight * mean_of_views(Path(run).name, part)["va"] for run, weight in weights.items())
    stored = pl.read_parquet("ensembles/over/predictions.parquet").filter(pl.col("part") == "report")
    np.testing.assert_allclose(stored.select("valence", "arousal").to_numpy(), wanted, atol=1e-6)
    predictor = load_predictor(Path("ensembles/over"), CPU, post=False)
    dataset = load_dataset(read_config(Path("mtl.toml")), predictor.streams, CPU)
    found = predict_frames(predictor, dataset, part)
    np.testing.assert_allclose(found.probabilities.parts["va"], wanted, atol=1e-6)
    assert score(found.decide(), dataset.labels.take(part))["va.ccc_mean"] == pytest.approx(
        record["scores"]["ensemble"]["plain"]["report"]["va.ccc_mean"], abs=1e-5
    )
    assert "other views" in refused("ensemble", "runs/r1", "runs/r2", "--views", "hflip", "--name", "over")


def test_a_bundle_holds_each_head_once_and_shares_its_weight_between_the_views() -> None:
    """What such a bundle predicts is compared with torch in test_export.py and test_predict_faces.py."""
    found = bundle_models(load_predictor(Path("runs/r1"), CPU, views=("base", "hflip")))
    assert [model.file for model in found] == ["head-1.onnx"] * 2
    one, two = (model.to_json() for model in found)
    assert (one["streams"]["stream_va"], two["streams"]["stream_va"]) == ("va", "va/hflip")
    assert set(one["weights"].values()) == set(two["weights"].values()) == {0.5}


def test_a_refit_takes_over_the_views_of_its_runs_post_processing() -> None:
    call("postprocess", "r1", "--views", BOTH)
    call("refit", "r1", "--seeds", "1", "--name", "over", "--force")
    record = read_postprocess(Path("refits/over"))
    assert set(record["views"]) == {"base", "hflip"}
    part = (read_frames(Path("frames.parquet"))["split"] == "test").to_numpy()
    stored = pl.read_parquet("refits/over/predictions.parquet").filter(pl.col("part") == "report")
    np.testing.assert_allclose(
        stored.select("valence", "arousal").to_numpy(), mean_of_views("r1", part)["va"], atol=1e-6
    )
    predictor = load_predictor(Path("refits/over"), CPU)
    assert set(predictor.views) == {"base", "hflip"}
    dataset = load_dataset(read_config(Path("mtl.toml")), predictor.streams, CPU)
    (name,) = (path.name for path in Path("refits/over/runs").iterdir())
    one = load_run(Path("refits/over/runs") / name, CPU)
    wanted = [predict_run(one.in_view(view), dataset, part).probabilities.parts["va"] for view in ("base", "hflip")]
    found = predict_frames(predictor, dataset, part).raw.parts["va"]
    np.testing.assert_allclose(found, (wanted[0] + wanted[1]) / 2, atol=1e-6)
    done = json.loads(call("predict", "refits/over", "--split", "test", "--out", "r.parquet", "--force", "--json"))
    assert set(done["views"]) == {"base", "hflip"}
    call("postprocess", "r1", "--force")
    assert "other views or another outside classifier" in refused("refit", "r1", "--seeds", "1", "--name", "over")
    call("refit", "r1", "--seeds", "1", "--name", "own", "--force")
    assert read_postprocess(Path("refits/own"))["views"] == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("evaluate", "r1", "--views", "flip"), "view 'flip': there are base, hflip, crop0.5 to crop0.99"),
        (("evaluate", "r1", "--views", "crop0.9"), "crop0.9"),
        (("predict", "r1", "--set", 'predict.views=["base", "base"]'), "[predict] views: each once"),
        (("predict", "r1", "--set", 'predict.views=["side"]'), "[predict] views: view 'side': there are base"),
        (("evaluate", "r1", "--views", ","), "--views: names no view"),
    ],
)
def test_views_that_are_not_there_are_one_line(words: tuple[str, ...], error: str) -> None:
    assert error in refused(*words)


def test_views_of_the_configuration_are_checked_when_it_is_read() -> None:
    with pytest.raises(ValueError, match=r"mtl.toml: \[predict\] views: view 'hlfip'"):
        parse_config({"predict": {"views": ["hlfip"]}}, Path(), "mtl.toml")


@pytest.mark.parametrize("view", ["hflip", "crop0.9", "crop0.55", "aug3"])
def test_the_identity_of_another_view_is_that_of_an_extraction(view: str) -> None:
    base = Preprocessing(size_px=64, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.875)
    identity = StreamIdentity(
        backbone="b",
        weights="w",
        preprocessing=base.to_json(),
        pooling="avg",
        dtype="float16",
        view="base",
        frames="f",
        num_frames=1,
        width=2,
    )
    found = in_view(identity, view)
    assert found.view == view
    assert found.preprocessing["crop_pct"] == preprocessing_of(view, base).crop_pct
    assert ("augmentation" in found.preprocessing) == (view == "aug3")
    assert in_view(found, "base") == identity
