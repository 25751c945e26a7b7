"""An outside classifier's class above a threshold that is fitted out of fold: fitted, stored, applied everywhere."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache.frames import frames_digest, read_frames
from cache.identity import StreamIdentity
from cache.labels import ABAW, AFFECTNET8
from cache.names import EXPRESSIONS
from cache.store import Cache
from helpers import stub_runs as stub
from helpers.cli import call, refused
from helpers.made_project import Made
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.postprocess.apply import Parameters, apply
from pipelines.postprocess.fit import Fitted, fit
from pipelines.postprocess.outside import (
    THRESHOLDS,
    Outside,
    OutsideScores,
    class_columns,
    class_probabilities,
    take_surer,
)
from pipelines.postprocess.parts import make_part
from pipelines.postprocess.run_folders import read_parameters, read_postprocess
from pipelines.postprocess.smoothing import GRID, Smoothing

EXPR = ABAW.group("expr")
NAMES = ("neutral", "Happiness", "Contempt", "Fear")


def identity_of(frames: pl.DataFrame, names: tuple[str, ...] = EXPRESSIONS, **changes: object) -> StreamIdentity:
    values: dict = {
        "backbone": "judge",
        "weights": "w",
        "preprocessing": {"classes": list(names)} if names else {},
        "pooling": "logits",
        "dtype": "float32",
        "view": "base",
        "frames": frames_digest(frames),
        "num_frames": len(frames),
        "width": 10,
    }
    return StreamIdentity(**(values | changes))


def test_probabilities_go_by_the_names_of_the_classes() -> None:
    """In whatever case; what only the classifier has counts in its softmax, and columns behind the classes do not."""
    assert class_columns(NAMES, EXPR) == [0, -1, -1, 3, 1, -1, -1, -1]
    scores = np.log(np.array([[0.1, 0.2, 0.3, 0.4, 50.0], [0.25, 0.25, 0.25, 0.25, 1.0]]))
    found = class_probabilities(scores, np.array([True, False]), NAMES, EXPR)
    np.testing.assert_allclose(found[0], [0.1, 0, 0, 0.4, 0.2, 0, 0, 0], atol=1e-12)
    assert found[1].tolist() == [0.0] * 8
    broken = np.full((1, 5), np.nan)
    assert class_probabilities(broken, np.array([False]), NAMES, EXPR).tolist() == [[0.0] * 8]


def test_what_is_surer_is_the_most_probable_after_the_offsets() -> None:
    own = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    said = np.array([[0.1, 0.1, 0.8], [0.1, 0.2, 0.7]])
    offsets = np.array([3.0, 0.0, -2.0])
    found = take_surer(own, said, 0.75, offsets)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[1].tolist() == own[1].tolist()
    assert (np.log(found) + offsets).argmax(axis=1).tolist() == [2, 0]
    np.testing.assert_allclose(np.exp(np.log(found[0]) + offsets) / np.exp(np.log(found[0]) + offsets).sum(), said[0])


def fitted_with(share: float, seed: int = 0) -> Fitted:
    """Of a weak run beside a classifier that is sure of the right class in `share` of the rows, of any class else."""
    frames = stub.make_frames(num_videos=24)
    rng, classes = np.random.default_rng(seed), labels_of(frames).values["expr"][:, 0]
    right = rng.random(len(frames)) < share
    logits = 6.0 * np.eye(8)[np.where(right, classes, rng.integers(0, 8, len(frames)))]
    logits *= rng.uniform(0.2, 1, (len(frames), 1)) if share else 1
    said = class_probabilities(logits, np.ones(len(frames), bool), EXPRESSIONS, EXPR)
    scores = OutsideScores(stream="judge", identity=identity_of(frames), probabilities={"expr": said})
    table = stub.predict(frames, 2.0, 0)
    parts = [make_part(table.filter(pl.col("part") == name), frames, ABAW, scores) for name in ("select", "report")]
    return fit(*parts, grid=GRID[:3])


def test_a_classifier_that_knows_better_is_kept_and_gains_on_videos_that_fitted_nothing() -> None:
    fitted = fitted_with(0.9)
    kept = next(step for step in fitted.steps if step.kept and step.task.name == "expr")
    assert "outside" in kept.components
    assert fitted.parameters.outside["expr"].threshold == kept.choice.outside
    assert kept.choice.outside in THRESHOLDS
    without = {step.components: step for step in fitted.steps if step.task.name == "expr" and not step.choice.outside}
    assert kept.report > max(step.report for step in without.values()) + 0.05
    assert fitted.post["report"]["expr.f1_macro"] == pytest.approx(kept.report, abs=1e-9)
    assert kept.in_fold == pytest.approx(fitted.post["in_fold"]["expr.f1_macro"], abs=1e-9)


def test_a_classifier_that_guesses_is_left_out() -> None:
    for seed in range(3):
        assert not fitted_with(0.0, seed).parameters.outside


def test_parameters_with_a_classifier_round_trip_and_odd_ones_are_refused() -> None:
    frames = stub.make_frames(num_videos=2)
    one = Outside(stream="judge", threshold=0.85, identity=identity_of(frames))
    stored = Parameters(outside={"expr": one}).to_json()
    assert Parameters.from_json(json.loads(json.dumps(stored)), "here").outside == {"expr": one}
    for wrong in ({"threshold": 0}, {"threshold": "high"}, {"identity": {}}):
        other = {**stored, "outside": {"expr": stored["outside"]["expr"] | wrong}}
        with pytest.raises(ValueError, match="here: not parameters of post-processing"):
            Parameters.from_json(other, "here")
    with pytest.raises(ValueError, match="here: not parameters of post-processing"):
        Parameters.from_json({**stored, "outside": {"smell": stored["outside"]["expr"]}}, "here")


@pytest.fixture(scope="module")
def trained(made: Made, shared: Path) -> Path:
    """Two runs, and the streams of classifiers: `judge` knows the expressions, the others cannot be used."""
    cache, frames = Cache.open(shared / "cache.zarr"), made.frames
    classes = frames["expression"].fill_null(0).to_numpy()
    logits = np.zeros((len(frames), 10), np.float32)
    logits[:, :8] = 8.0 * np.eye(8)[classes]
    dogs = ("beagle", "poodle")
    twins = ("Neutral", "beagle", "beagle", "neutral")
    named = {"judge": EXPRESSIONS, "nameless": (), "dogs": dogs, "twins": twins, "changed": EXPRESSIONS}
    for name, names in named.items():
        stream = cache.create(name, identity_of(frames, names), shard_rows=len(frames), provenance={})
        stream.write_shard(0, logits, np.zeros((len(frames), 16), np.uint8), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        for seed in ("1", "2"):
            call("train-head", "--name", f"r{seed}", "--set", f"train.seed={seed}", "--set", 'head.streams=["va"]')
    return shared


@pytest.fixture(autouse=True)
def inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "trained" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("trained"))


@pytest.mark.usefixtures("trained")
def test_the_classifier_is_stored_and_applied_by_every_command() -> None:
    printed = call("postprocess", "r1", "--outside", "judge", "--force")
    assert "outside classifier  expr of judge from" in printed
    record = read_postprocess(Path("runs/r1"))
    assert record["outside"] == "judge"
    assert record["parameters"]["outside"]["expr"]["stream"] == "judge"
    assert record["post"]["report"]["expr.f1_macro"] > 0.9 > record["plain"]["report"]["expr.f1_macro"]
    after = json.loads(call("evaluate", "r1", "--split", "report", "--post", "--json"))
    assert after["post"]["expr.f1_macro"] == pytest.approx(record["post"]["report"]["expr.f1_macro"], abs=1e-6)
    done = json.loads(call("predict", "r1", "--out", "post.parquet", "--force", "--json"))
    assert "outside classifier" in call("predict", "r1", "--out", "post.parquet", "--force")
    frames = read_frames(Path("frames.parquet"))
    table = pl.read_parquet(done["out"]).join(frames, on=["video", "frame"], suffix="_true")
    labelled = table.filter(pl.col("expression_true").is_not_null())
    assert (labelled["expression"] == labelled["expression_true"]).all()
    stored = pl.read_parquet("runs/r1/predictions.post.parquet").filter(pl.col("part") == "report")
    whole = make_part(stored, frames)
    again = score(read_parameters(Path("runs/r1")).decide(whole.predicted), whole.labels)  # as reports do
    assert again["expr.f1_macro"] == pytest.approx(record["post"]["report"]["expr.f1_macro"], abs=1e-6)
    assert "fitted without the classifier changed" in refused("postprocess", "r1", "--outside", "changed")


@pytest.mark.usefixtures("trained")
def test_an_ensemble_takes_it_from_the_configuration() -> None:
    call("ensemble", "runs/r1", "runs/r2", "--set", "predict.outside=judge", "--name", "both", "--force")
    record = read_postprocess(Path("ensembles/both"))
    assert set(record["parameters"]["outside"]) == {"expr"}
    assert record["post"]["report"]["expr.f1_macro"] > 0.9
    call("predict", "ensembles/both", "--out", "both.parquet", "--force")
    assert len(pl.read_parquet("both.parquet"))


@pytest.mark.usefixtures("trained")
def test_a_refit_takes_it_over_from_the_post_processing_of_its_runs() -> None:
    call("postprocess", "r1", "--outside", "judge", "--force")
    call("refit", "r1", "--seeds", "1", "--name", "judged", "--force")
    record = read_postprocess(Path("refits/judged"))
    assert record["outside"] == "judge"
    assert record["parameters"]["outside"]["expr"]["stream"] == "judge"
    call("predict", "refits/judged", "--split", "test", "--out", "refit.parquet", "--force")
    frames = read_frames(Path("frames.parquet"))
    table = pl.read_parquet("refit.parquet").join(frames, on=["video", "frame"], suffix="_true")
    labelled = table.filter(pl.col("expression_true").is_not_null())
    assert (labelled["expression"] == labelled["expression_true"]).all()


@pytest.mark.usefixtures("trained")
def test_another_classifier_under_its_name_is_refused() -> None:
    call("postprocess", "r2", "--outside", "changed")
    cache = Cache.open(Path("cache.zarr"))
    stream = cache.stream("changed")
    values, frames = np.asarray(stream.read()), read_frames(Path("frames.parquet"))
    cache.remove("changed", "base")
    other = dataclasses.replace(identity_of(frames), weights="others")
    cache.create("changed", other, shard_rows=len(values), provenance={}).write_shard(
        0, values, np.zeros((len(values), 16), np.uint8), {}
    )
    error = refused("predict", "r2", "--out", "x.parquet")
    assert "stream changed is not the classifier that its post-processing was fitted with: weights" in error
    call("predict", "r2", "--out", "plain.parquet", "--no-post", "--force")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (
            "nameless",
            "stream nameless: its columns have no names of classes; name the scores of a backbone (NAME-scores)",
        ),
        ("dogs", "stream dogs: none of its classes (beagle, poodle) is one of the labels (Neutral, Anger"),
        ("twins", "stream twins: several of its classes are called 'Neutral', whatever the case; rename all but one"),
        ("jugde", "cache.zarr: no stream jugde (there: "),
        ("jugde", "mtl.toml has no [backbones.jugde]; add it, or `mtl cache import jugde FILE`"),
    ],
)
def test_streams_that_cannot_be_a_classifier_are_one_line(stream: str, error: str) -> None:
    assert error in refused("postprocess", "r1", "--outside", stream, "--force")


def test_it_goes_by_the_classes_of_any_schema() -> None:
    group = AFFECTNET8.group("expr")
    frames = stub.make_frames(num_videos=2)
    said = class_probabilities(np.zeros((len(frames), 8)), np.ones(len(frames), bool), group.classes, group)
    np.testing.assert_allclose(said, 1 / 8)
    one = Outside(stream="judge", threshold=0.5, identity=identity_of(frames))
    table = stub.predict(frames, 1.0, 0)
    sure = np.eye(8)[np.full(len(table), 3)]
    after = apply(Parameters(outside={"expr": one}, smoothing={"expr": Smoothing("box", 2)}), table, {"expr": sure})
    assert set(after["expression"]) == {EXPRESSIONS.index("Fear")}
