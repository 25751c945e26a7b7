"""`mtl predict`: the numbers of runs and ensembles, rows by split and by list, files, and one-line errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cache.frames import read_frames, write_frames
from cache.names import ACTION_UNITS, EXPRESSIONS
from cache.seals import sealed_json
from cache.store import Cache
from helpers.cli import call
from helpers.made_project import Made
from pipelines.json_files import read_json
from pipelines.outfile import check_place, replaceable_table

PREDICTED = {
    "va": ("valence", "arousal"),
    "expr": ("expression", *(f"p_{name}" for name in EXPRESSIONS)),
    "au": (*ACTION_UNITS, *(f"p_{name}" for name in ACTION_UNITS)),
}
KEY = ["video", "frame"]
RUNS = {
    "joint": (),
    "separate": ("--method", "separate", "--temporal", "gru"),
    "progressive": ("--method", "progressive", "--set", "train.frozen_steps=1"),
    "fold": ("--fold", "0"),
    "va": ("--tasks", "va"),
}


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    """A project with a run for each of `RUNS`, post-processed with parameters of every kind, and an ensemble of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        for name, words in RUNS.items():
            extra = ("--set", "split.num_folds=3") if name == "fold" else ()
            call("train-head", "--name", name, *words, *extra)
        call("ensemble", "joint", "separate", "--name", "both")
        for name in ("joint", "separate", "progressive"):
            call("postprocess", name)
            strong(shared / "runs" / name)
    return shared


def strong(run: Path) -> None:
    """Puts parameters that change everything in the place of those that were fitted."""
    record = read_json(run / "postprocess.json")
    record["parameters"]["smoothing"] |= {
        "va": {"kernel": "box", "width": 5.0},
        "expr": {"kernel": "median", "width": 9},
    }
    record["parameters"]["offsets"] |= {"Anger": 1.0, "Other": -0.5}
    record["parameters"]["thresholds"] |= {"AU1": 0.3, "AU6": 0.7}
    (run / "postprocess.json").write_bytes(sealed_json(record))


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def predicted(*words: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """(JSON summary, table) of `mtl predict`."""
    done = json.loads(call("predict", *words, "--force", "--json"))
    return done, pl.read_parquet(done["out"])


def stored(folder: Path, name: str = "predictions", part: str = "report") -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet").filter(pl.col("part") == part).drop("part")


@pytest.mark.parametrize("name", RUNS)
def test_predictions_are_those_of_the_run(project: Path, name: str) -> None:
    """Every method, one task alone, and a run of a fold: what is predicted is what the run kept, to the bit."""
    for part in ("select", "report"):
        words = ("--set", "split.num_folds=3") if name == "fold" else ()
        _, table = predicted(name, "--split", part, "--no-post", *words)
        tasks = ["va"] if name == "va" else list(PREDICTED)
        assert table.columns == ["video", "frame", "path", "valid", *(c for task in tasks for c in PREDICTED[task])]
        assert table.drop("path", "valid").equals(stored(project / "runs" / name, part=part))
        assert table["valid"].all()


@pytest.mark.parametrize("name", ["joint", "separate", "progressive"])
def test_stored_post_processing_is_applied_unless_asked_not_to(project: Path, name: str) -> None:
    from pipelines.postprocess.apply import apply
    from pipelines.postprocess.run_folders import read_parameters

    done, table = predicted(name, "--split", "test")
    plain = stored(project / "runs" / name)
    post = apply(read_parameters(project / "runs" / name), plain)
    assert table.drop("path", "valid").equals(post)
    assert not post.equals(plain)
    assert done["post"]["thresholds"]["AU1"] == 0.3
    assert predicted(name, "--no-post")[0]["post"] is None
    assert "post-processing: applied as stored" in call("predict", name, "--force")
    assert "none, as asked" in call("predict", name, "--force", "--no-post")
    assert "none stored; `mtl postprocess runs/va` fits it" in call("predict", "va", "--force")


def test_an_ensemble_predicts_what_it_kept(project: Path) -> None:
    done, table = predicted("both", "--split", "report", "--no-post")
    kept = stored(project / "ensembles" / "both")
    assert done["ensemble"] == "ensembles/both"
    for name in kept.columns[2:]:
        assert table[name].to_numpy() == pytest.approx(kept[name].to_numpy(), abs=1e-6), name
    _, post = predicted("ensembles/both", "--split", "report")
    kept = stored(project / "ensembles" / "both", "predictions.post")
    assert post["valence"].to_numpy() == pytest.approx(kept["valence"].to_numpy(), abs=1e-6)


def test_a_table_scores_as_evaluate_says(project: Path) -> None:
    done, _ = predicted("joint", "--split", "test")
    scored = json.loads(call("score", done["out"], "frames.parquet", "--split", "test", "--json"))
    evaluated = json.loads(call("evaluate", "joint", "--split", "test", "--post", "--json"))
    assert scored["P"] == pytest.approx(evaluated["post"]["P"], abs=1e-6)


def test_rows_that_trained_the_model_are_said(project: Path) -> None:
    assert "no held-out predictions: " in call("predict", "joint", "--split", "train", "--force")
    assert "no held-out" not in call("predict", "joint", "--split", "test", "--force")


# --- lists ---------------------------------------------------------------------------------------------------------


def write_names(path: Path, names: list[str]) -> Path:
    path.write_text("\n".join(["image,valence,arousal,expression,aus", *(f"{name}," for name in names)]) + "\n")
    return path


def test_a_frame_is_predicted_alike_whatever_else_is_listed(project: Path, tmp_path: Path) -> None:
    frames = read_frames(project / "frames.parquet").filter(pl.col("split") == "test")
    whole = predicted("joint", "--split", "test")[1]
    names = [f"{video}/{frame:05d}.jpg" for video, frame in frames.select(KEY).rows()]
    chosen = [names[index] for index in (40, 3, 3, 17)]
    path = write_names(tmp_path / "list.txt", [*chosen, f"{frames['video'][0]}/99999.jpg", "other/00001.jpg"])
    done, table = predicted("joint", "--list", str(path), "--out", str(tmp_path / "out.parquet"))
    assert table.equals(whole.join(table.select(KEY), on=KEY, how="semi"))
    assert table["frame"].to_list() == sorted(frames["frame"][index] for index in (40, 3, 17))
    counted = {key: done[key] for key in ("num_listed", "num_frames", "num_absent", "num_absent_videos")}
    assert counted == {"num_listed": 6, "num_frames": 3, "num_absent": 2, "num_absent_videos": 1}
    said = call("predict", "joint", "--list", str(path), "--out", str(tmp_path / "again.csv"))
    assert "not predicted: 2 listed frames, 1 whole video; `mtl prepare --test-list`" in said


def test_a_list_of_videos_names_all_their_rows(project: Path, tmp_path: Path) -> None:
    (tmp_path / "videos.txt").write_text("clip4\n10\n")
    _, table = predicted("joint", "--list", str(tmp_path / "videos.txt"), "--out", str(tmp_path / "o.parquet"))
    frames = read_frames(project / "frames.parquet").filter(pl.col("video").is_in(["clip4", "10"]))
    assert table.select("video", "frame", "path").equals(frames.select("video", "frame", "path"))


def test_unlabelled_test_rows_are_predicted(tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that matters: a test list without labels; half of val is scored instead."""
    made.write(tmp_path)
    frames = read_frames(tmp_path / "frames.parquet")
    labels = [name for name in frames.columns if name not in ("video", "frame", "path", "split")]
    blind = [pl.when(pl.col("split") == "test").then(None).otherwise(pl.col(name)).alias(name) for name in labels]
    write_frames(frames.with_columns(blind), tmp_path / "frames.parquet")
    monkeypatch.chdir(tmp_path)
    call("train-head", "--name", "run")
    done, table = predicted("run", "--split", "test")
    assert (done["num_frames"], done["num_seen"]) == (60, 0)
    assert table["valence"].null_count() == 0


# --- frames without an embedding -----------------------------------------------------------------------------------


def test_frames_without_an_embedding(tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest frame stands for one; a video without any is not predicted, and both are counted."""
    made.write(tmp_path)
    cache, frames = Cache.open(tmp_path / "cache.zarr"), made.frames
    video = (frames["video"] == "100").to_numpy()  # of split val; the test video is clip4
    test = np.flatnonzero((frames["video"] == "clip4").to_numpy())
    failed = {int(row): "unreadable" for row in [*np.flatnonzero(video), test[0], test[30]]}
    cache.remove("va")
    stream = cache.create("va", made.identity("va"), shard_rows=len(frames), provenance={})
    stream.write_shard(0, made.streams["va"], np.zeros((len(frames), 16), np.uint8), failed)
    monkeypatch.chdir(tmp_path)
    call("train-head", "--name", "run")
    (tmp_path / "videos.txt").write_text("100\nclip4\n")
    done, table = predicted("run", "--list", "videos.txt")
    assert (done["num_nearest"], done["num_unknown"]) == (2, 60)
    of, empty = table.filter(pl.col("video") == "clip4"), table.filter(pl.col("video") == "100")
    assert of["valid"].to_list() == [index not in (0, 30) for index in range(60)]
    assert of["valence"][0] == of["valence"][1]
    assert all(empty[name].null_count() == 60 for names in PREDICTED.values() for name in names)
    assert not empty["valid"].any()
    said = call("predict", "run", "--list", "videos.txt", "--force")
    assert "2 frames without an embedding" in said
    assert "60 frames of videos without any embedding: no prediction" in said


# --- files ---------------------------------------------------------------------------------------------------------


def test_csv_and_parquet_hold_the_same(project: Path, tmp_path: Path) -> None:
    call("predict", "joint", "--out", str(tmp_path / "a.csv"))
    call("predict", "joint", "--out", str(tmp_path / "a.parquet"))
    text, table = pl.read_csv(tmp_path / "a.csv"), pl.read_parquet(tmp_path / "a.parquet")
    assert text.columns == table.columns
    assert text["p_AU26"].to_numpy() == pytest.approx(table["p_AU26"].to_numpy())


def test_a_place_below_a_file_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is no folder"):
        check_place(tmp_path / "file" / "deep" / "a.csv", force=False, is_ours=replaceable_table)


def test_force_replaces_an_earlier_table_and_nothing_else(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    call("predict", "joint", "--out", str(out))
    before = out.read_bytes()
    with pytest.raises(ValueError, match="is there already; --force replaces it"):
        call("predict", "joint", "--out", str(out))
    call("predict", "joint", "--out", str(out), "--no-post", "--force")
    assert out.read_bytes() != before
    for name in ("frames.parquet", "runs/joint/predictions.parquet"):
        kept = (project / name).read_bytes()
        with pytest.raises(ValueError, match="not a file of this command"):
            call("predict", "joint", "--out", str(project / name), "--force")
        assert (project / name).read_bytes() == kept
    (tmp_path / "link.csv").symlink_to(out)
    with pytest.raises(ValueError, match="not a file of this command"):
        call("predict", "joint", "--out", str(tmp_path / "link.csv"), "--force")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "link.csv"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nothing"], "nothing: no finished run and no ensemble here; `mtl train-head` makes a run"),
        (["joint", "--split", "dev"], "--split dev: unknown split; known: train, val, test, none, select, report"),
        (["joint", "--split", "none"], "no frame is in split none"),
        (["joint", "--split", "test", "--list", "x.txt"], "--split and --list: give one of them"),
        (["joint", "--list", "x.txt"], "x.txt: no such file"),
        (["joint", "--out", "x.txt"], r"x.txt: a table is written as .parquet or .csv"),
        (["joint", "--out", "runs"], "runs: a table is written as"),
        (["joint", "--list", "strangers.txt"], r"strangers.txt:2: 'x/00001.jpg' is not in .*nor is any other of the 1"),
    ],
)
def test_errors_are_one_line(project: Path, words: list[str], error: str) -> None:
    write_names(project / "strangers.txt", ["x/00001.jpg"])
    with pytest.raises(ValueError, match=error) as caught:
        call("predict", *words)
    assert "\n" not in str(caught.value)


def test_a_name_of_a_run_and_an_ensemble_and_a_study_are_told_apart(project: Path) -> None:
    (project / "ensembles" / "va").mkdir()
    (project / "ensembles" / "va" / "ensemble.json").write_text("{}")
    with pytest.raises(
        ValueError, match="several runs, ensembles and refits have this name; give a path: runs/va or ensembles/va"
    ):
        call("predict", "va")
    (project / "studies" / "s").mkdir(parents=True)
    (project / "studies" / "s" / "study.json").write_text("{}")
    with pytest.raises(ValueError, match="studies/s: a study; name a run or an ensemble in it"):
        call("predict", "s")
    shutil.rmtree(project / "ensembles" / "va")
    shutil.rmtree(project / "studies")


def test_the_name_of_a_study_s_ensemble_is_found_where_it_is_unique(project: Path) -> None:
    """As the help of `mtl predict` and `mtl submit` has it: `best`, after `mtl ensemble STUDY`."""
    try:
        for study in ("s", "t"):
            folder = project / "studies" / study
            shutil.copytree(project / "runs", folder / "runs")
            shutil.copytree(project / "ensembles" / "both", folder / "ensembles" / "best")
            if study == "s":
                assert predicted("best", "--split", "report")[0]["ensemble"] == "studies/s/ensembles/best"
        with pytest.raises(ValueError, match="give a path: studies/s/ensembles/best or studies/t/ensembles/best"):
            call("predict", "best")
    finally:
        shutil.rmtree(project / "studies")
