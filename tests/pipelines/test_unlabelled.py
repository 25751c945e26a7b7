"""What nobody labelled is never counted as 0: a data set of valence and arousal alone, or of action units alone.

By command where a number is shown, and by function where resampling could draw a set without labels of a task.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache.frames import read_frames, write_frames
from cache.labels import ABAW
from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from helpers import stub_runs as stub
from helpers.cli import call
from helpers.made_labels import probable
from helpers.made_project import Made
from pipelines.folds import NO_FOLD
from pipelines.labels import labels_of
from pipelines.metrics.challenge import main_key, main_scores, score
from pipelines.metrics.intervals import Runs, group_sums, interval
from pipelines.metrics.paired import by_range, compare, versus_first
from pipelines.metrics.stability import stability
from pipelines.postprocess.parts import difference, gain_error, make_part

SHOWN = {"va": "VA", "expr": "EXPR", "au": "AU"}


def blind(frames: pl.DataFrame, tasks: tuple[str, ...], where: pl.Expr) -> pl.DataFrame:
    """`frames` without the labels of `tasks` in the rows `where`."""
    names = [name for task in tasks for name in ABAW.group(task).columns]
    return frames.with_columns(pl.when(~where).then(pl.col(name)).alias(name) for name in names)


# --- by command: train and val labelled for all tasks, the held-out split for one --------------------------------


@pytest.fixture(scope="module", params=["va", "au"])
def labelled(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The one task that test is labelled for, and a project with two runs, a study and an ensemble."""
    task = request.param
    folder = tmp_path_factory.mktemp(task)
    made.write(folder)
    others = tuple(each for each in TASKS if each != task)
    write_frames(blind(made.frames, others, pl.col("split") == "test"), folder / "frames.parquet")
    (folder / "grid.toml").write_text('[product]\nfusion = ["sum", "attention"]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("train-head", "--name", "one")
        call("train-head", "--name", "two", "--set", "train.seed=1")
        call("search", "--grid", "grid.toml")
        call("postprocess", "one")
        call("ensemble", "one", "two", "--name", "both")
    return task, folder


@pytest.fixture
def only(labelled: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(labelled[1])
    return labelled[0]


def test_a_run_has_no_score_of_what_is_not_labelled(only: str) -> None:
    for metrics in (
        json.loads(Path("runs/one/metrics.json").read_text())["report"],
        json.loads(call("evaluate", "one", "--split", "test", "--json")),
        json.loads(call("evaluate", "one", "--split", "test", "--post", "--json"))["post"],
    ):
        assert metrics["unscored"] == [task for task in TASKS if task != only]
        assert metrics["P"] is None
        assert {task for task in TASKS if metrics[main_key(ABAW.group(task))] is not None} == {only}
        named = set(metrics["undefined"])
        assert not named & (set(EXPRESSIONS) | (set(ACTION_UNITS) if only == "va" else {"valence", "arousal"}))


@pytest.mark.parametrize("post", [(), ("--post",)])
def test_evaluate_shows_the_labelled_task_alone(only: str, post: tuple[str, ...]) -> None:
    said = call("evaluate", "one", "--split", "test", *post)
    others = [task for task in TASKS if task != only]
    assert f"no labelled frame in test for: {', '.join(others)}" in said
    assert f"sum over {only} (not the official P)" in said
    assert not any(f"\n{task}  " in said for task in others)
    assert "Surprise" not in said


def test_a_split_without_any_label_is_refused(only: str) -> None:
    other = next(task for task in TASKS if task != only)
    call("train-head", "--name", f"only-{other}", "--tasks", other, "--force")
    with pytest.raises(ValueError, match=f"no frame of split test has a label for {other}"):
        call("evaluate", f"only-{other}", "--split", "test")


def test_compare_is_over_what_is_labelled(only: str) -> None:
    for names in (("one", "two"), ("grid", "1", "2")):
        found = json.loads(call("compare", *names, "--json"))
        assert found["tasks"] == [only]
        assert set(found["differences"]) == {"P", only}
        assert "P over 1 of 3 tasks" in call("compare", *names)


def test_leaderboard_and_report_have_no_place_for_it(only: str) -> None:
    (group,) = json.loads(Path("studies/grid/leaderboard.json").read_text())["rankings"]
    for row in group["rows"]:
        assert "P" not in row["report"]
        assert {task for task in TASKS if main_key(ABAW.group(task)) in row["report"]} == {only}
        assert not row["interval"]
    table = pl.read_csv("studies/grid/leaderboard.csv")
    for task in TASKS:
        assert (table[f"report.{main_key(ABAW.group(task))}"].null_count() == 0) == (task == only)
    report = Path("studies/grid/report.html").read_text()
    others = {"va": "valence CCC", "expr": "macro F1 ", "au": "AU12"}
    assert "held-out P of the chosen strategy" in report
    for task in TASKS:
        assert (f"{SHOWN[task]}: {others[task]}" in report) <= (task == only)


def test_an_ensemble_sums_what_is_labelled(only: str) -> None:
    record = json.loads(Path("ensembles/both/ensemble.json").read_text())
    for outcome in record["scores"].values():
        for kind in ("plain", "post"):
            if outcome[kind]:
                assert outcome[kind]["report"]["P"] is None
                assert set(main_scores(outcome[kind]["report"])) == {only}
    assert all(each == {"report": None, "interval": each["interval"]} for each in record["differences"].values())


# --- training on what is not labelled is refused ------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("only", ["va", "au"])
def test_what_cannot_be_learned_or_chosen_by_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str, split: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made.write(tmp_path)
    others = tuple(task for task in TASKS if task != only)
    write_frames(
        blind(read_frames(tmp_path / "frames.parquet"), others, pl.col("split") == split), Path("frames.parquet")
    )
    (tmp_path / "grid.toml").write_text("[product]\nseed = [0, 1]\n")
    for command in (("train-head", "--name", "one"), ("search", "--grid", "grid.toml")):
        with pytest.raises(ValueError, match=f"task {others[0]}: no labelled frame in {split}"):
            call(*command)
    call("train-head", "--name", "one", "--tasks", only)
    chose = json.loads(Path("runs/one/metrics.json").read_text())["select"]
    assert main_scores(chose) == {only: chose["P"]}


# --- by function: metrics, and resamples that draw no label of a task ---------------------------------------------


@pytest.fixture(scope="module")
def frames() -> pl.DataFrame:
    """Four videos, the first two labelled for all tasks, the others for one each."""
    whole = stub.make_frames(num_videos=4, num_frames=60)
    names = whole["video"].unique().sort().to_list()
    found = blind(whole, ("expr", "au"), pl.col("video") == names[2])
    return blind(found, ("va",), pl.col("video") == names[3])


@pytest.fixture(scope="module")
def runs_of(frames: pl.DataFrame) -> Callable[..., Runs]:
    """The runs of a strategy whose predictions are the labels, with some noise, over videos 2 and 3 alone."""
    few = frames.filter(pl.col("video").is_in(frames["video"].unique().sort().to_list()[2:]))

    def make(noise: float, seed: int = 0, whole: bool = False) -> Runs:
        rows = frames if whole else few
        true = stub.make_frames(num_videos=4, num_frames=60).join(rows.select("video", "frame"), on=["video", "frame"])
        table = stub.predict(true.with_columns(split=pl.lit("val")), noise, seed)
        return {
            NO_FOLD: {
                seed: group_sums(rows.select("video", "frame").join(table, on=["video", "frame"]), labels_of(rows))
            }
        }

    return make


@pytest.mark.parametrize("task", TASKS)
def test_a_score_without_labels_is_none_and_so_is_p(frames: pl.DataFrame, task: str) -> None:
    table = stub.predict(frames.with_columns(split=pl.lit("val")), 0.5, 0)
    said = make_part(table, frames).predicted.decide()
    metrics = score(said, labels_of(blind(frames, (task,), pl.lit(True))))
    assert metrics["unscored"] == [task]
    assert (metrics["P"], metrics[main_key(ABAW.group(task))], metrics[f"num_frames.{task}"]) == (None, None, 0)
    others = {other for other in TASKS if other != task}
    assert set(main_scores(metrics)) == others
    assert main_scores(metrics) == main_scores(score(said, labels_of(frames), sorted(others, key=TASKS.index)))


def test_resamples_without_labels_of_a_task_are_left_out(runs_of: Callable[..., Runs]) -> None:
    """Two videos, one labelled for VA and one for EXPR and AU: half of the resamples lack a task. Predictions are the
    labels, so every P that can be known is that of the whole."""
    perfect = runs_of(0.0)
    found = interval(perfect, ("va", "expr", "au"), num=200)
    assert found is not None
    assert found.low == pytest.approx(found.high)
    assert found.low > 2


def test_paired_differences_leave_them_out_too(runs_of: Callable[..., Runs]) -> None:
    good, bad = runs_of(0.0), runs_of(1.5)
    found = compare(good, bad, TASKS, num_resamples=200, num_swaps=20)
    for one in found.differences.values():
        assert one.low == pytest.approx(one.value)
        assert one.high == pytest.approx(one.value)
    (versus,) = versus_first([good, bad], TASKS, num=20, chosen_here=True)
    assert versus is not None
    assert np.isfinite([versus.difference.low, versus.difference.high, versus.p_adjusted]).all()
    assert versus.difference.low == pytest.approx(versus.difference.value)


def test_places_are_counted_where_every_task_is_known(runs_of: Callable[..., Runs]) -> None:
    worse, better = stability([runs_of(1.5), runs_of(0.0)], TASKS, num=200)
    assert (better.first, better.low, better.high) == (1.0, 1, 1)
    assert (worse.first, worse.low, worse.high) == (0.0, 2, 2)


def test_the_range_of_equal_strategies_goes_by_resamples_that_are_known() -> None:
    leads, scores = np.array([0.1, 0.3]), np.random.default_rng(0).normal(0, 0.1, (3, 200))
    with_unknown = np.where(np.arange(200) % 2, scores, np.nan)
    assert np.array_equal(by_range(leads, with_unknown), by_range(leads, scores[:, 1::2]))
    assert np.array_equal(by_range(leads, np.full((3, 5), np.nan)), [1.0, 1.0])


def test_gains_of_post_processing_leave_them_out(frames: pl.DataFrame) -> None:
    """Of two videos one is labelled for AUs: drawings without it say nothing about AUs, not that nothing is gained."""
    few = frames.filter(pl.col("video").is_in(frames["video"].unique().sort().to_list()[2:]))
    true = stub.make_frames(num_videos=4, num_frames=60).join(few.select("video", "frame"), on=["video", "frame"])
    part, better = (
        make_part(stub.predict(true.with_columns(split=pl.lit("val")), noise, 0), few) for noise in (1.5, 0.0)
    )
    found = difference(part.predicted.decide(), better.predicted.decide(), part)
    assert found is not None
    assert found.low == pytest.approx(found.high)
    assert found.low > 0
    before, after = ((each.predicted.parts["au"] >= 0.5).astype(np.int8) for each in (part, better))
    assert gain_error(ABAW.tasks["au"], before, after, part) == pytest.approx(0.0)


def test_probabilities_of_other_tasks_are_not_needed() -> None:
    """A task that is not predicted is no task without labels."""
    frames = stub.make_frames(num_videos=1, num_frames=10)
    metrics = score(probable(va=np.zeros((10, 2))).decide(), labels_of(frames))
    assert metrics["unscored"] == []
    assert metrics["P"] == metrics["va.ccc_mean"]
