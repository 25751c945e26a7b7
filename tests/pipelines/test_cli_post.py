"""`mtl postprocess` and `mtl ensemble`: files, JSON, what they print, and their one-line errors."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cache.frames import read_frames, write_frames
from cache.seals import sealed_json
from helpers import stub_runs as stub
from helpers.cli import call
from helpers.made_project import Made
from pipelines.json_files import read_json
from pipelines.labels import labels_of
from pipelines.metrics.challenge import score
from pipelines.postprocess.apply import apply
from pipelines.postprocess.parts import make_part
from pipelines.postprocess.run_folders import read_parameters, read_postprocess

RUN = "studies/s/runs/run0"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study `s` of three runs; tests work on copies."""
    folder = tmp_path_factory.mktemp("study")
    stub.write_project(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its first run post-processed."""
    folder = shutil.copytree(study, tmp_path_factory.mktemp("fitted") / "study")
    with contextlib.chdir(folder):
        mtl("postprocess", RUN)
    return folder


@pytest.fixture
def project(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(study, tmp_path / "study"))
    return tmp_path / "study"


@pytest.fixture
def processed(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(fitted, tmp_path / "study"))
    return tmp_path / "study"


def mtl(*words: str) -> str:
    return call(*words, columns=80)


def test_postprocess_prints_writes_and_is_there_the_second_time(project: Path) -> None:
    said = mtl("postprocess", RUN)
    assert all(words in said for words in ("in fold", "out of fold", "held out", "VA smoothing", "95 % interval"))
    assert max(map(len, said.splitlines())) <= 80
    record = read_postprocess(project / RUN)
    assert f"{record['post']['report']['P']:.4f}" in said
    written = (project / RUN / "postprocess.json").stat().st_mtime_ns
    assert mtl("postprocess", RUN) == said
    assert (project / RUN / "postprocess.json").stat().st_mtime_ns == written
    mtl("postprocess", RUN, "--force")
    assert (project / RUN / "postprocess.json").stat().st_mtime_ns != written


def test_the_processed_table_earns_the_held_out_score(processed: Path) -> None:
    record = json.loads(mtl("postprocess", RUN, "--json"))[0]
    before, after = (pl.read_parquet(processed / RUN / f"predictions{kind}.parquet") for kind in ("", ".post"))
    assert after.schema == before.schema
    assert after.select("video", "frame", "part").equals(before.select("video", "frame", "part"))
    part = make_part(after.filter(pl.col("part") == "report"), read_frames(processed / "frames.parquet"))
    parameters = read_parameters(processed / RUN)
    thresholds = parameters.thresholds["au"]
    found = score(parameters.decide(part.predicted), labels_of(part.frames))
    assert found["P"] == pytest.approx(record["post"]["report"]["P"], abs=1e-6)
    assert after.filter(pl.col("part") == "report")["AU1"].to_list() == [
        int(p >= thresholds[0]) for p in part.table["p_AU1"]
    ]


@pytest.mark.usefixtures("processed")
def test_json_has_the_stable_keys() -> None:
    one, two = json.loads(mtl("postprocess", RUN, "studies/s/runs/run1", "--json"))
    assert set(one) == set(two)
    assert set(one["parameters"]) == {"smoothing", "affine", "thresholds", "offsets", "outside"}
    assert set(one["post"]) == {"in_fold", "out_of_fold", "report"}
    assert one["optimism"] == pytest.approx(one["post"]["in_fold"]["P"] - one["post"]["out_of_fold"]["P"])
    assert one["gain"]["interval"]["unit"] == "video"


def test_subjects_are_resampled_and_named(project: Path) -> None:
    frames = read_frames(project / "frames.parquet")
    number = pl.col("video").str.slice(-2).cast(pl.Int64)
    (project / "with").mkdir()
    stub.write_project(project / "with", frames=frames.with_columns(subject=pl.format("s{}", number // 4)))
    words = ("--config", str(project / "with" / "mtl.toml"))
    record = json.loads(mtl("postprocess", f"with/{RUN}", "--json", *words))[0]
    between = record["gain"]["interval"]
    assert (between["num_groups"], between["unit"], between["num_videos"]) == (3, "subject", 6)
    assert "over 3 subjects" in " ".join(mtl("postprocess", f"with/{RUN}", *words).split())
    assert "over 3 subjects" in " ".join(mtl("ensemble", f"with/{RUN}", "with/studies/s/runs/run1", *words).split())


def test_a_record_without_offsets_is_refused_with_the_remedy(processed: Path) -> None:
    path = processed / RUN / "postprocess.json"
    record = read_json(path)
    del record["parameters"]["offsets"]
    path.write_bytes(sealed_json(record))
    with pytest.raises(ValueError, match=r"postprocess.json: .*'offsets' is missing.*--force"):
        mtl("postprocess", RUN)


def test_a_kill_between_the_two_files_is_made_good(processed: Path) -> None:
    (processed / RUN / "predictions.post.parquet").unlink()
    mtl("postprocess", RUN)
    assert (processed / RUN / "predictions.post.parquet").is_file()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{", "damaged, or not written by this program"),
        (b"", "damaged, or not written by this program"),
        (sealed_json({"format": 7}), "not post-processing of format 3"),
        (sealed_json({"format": 3}), "'name' is missing"),
        (sealed_json({"format": 3}).replace(b"3", b"4", 1), "damaged or changed since it was written"),
    ],
)
def test_a_damaged_record_is_one_line(processed: Path, data: bytes, error: str) -> None:
    (processed / RUN / "postprocess.json").write_bytes(data)
    with pytest.raises(ValueError, match=error) as caught:
        mtl("postprocess", RUN)
    assert "\n" not in str(caught.value)
    assert "--force" in str(caught.value)
    mtl("postprocess", RUN, "--force")


def test_a_record_with_odd_parameters_or_of_other_predictions_is_refused(processed: Path) -> None:
    path = processed / RUN / "postprocess.json"
    record = read_postprocess(processed / RUN)
    changed = json.loads(json.dumps(record))
    changed["parameters"]["smoothing"]["va"]["kernel"] = "wavelet"
    path.write_bytes(sealed_json(changed))
    with pytest.raises(ValueError, match="unknown kernel 'wavelet'"):
        read_postprocess(processed / RUN)
    changed = json.loads(json.dumps(record))
    del changed["parameters"]["thresholds"]["AU7"]
    path.write_bytes(sealed_json(changed))
    with pytest.raises(ValueError, match="'AU7' is missing"):
        read_postprocess(processed / RUN)
    path.write_bytes(sealed_json(record))
    shutil.copy(processed / "studies/s/runs/run1/predictions.parquet", processed / RUN / "predictions.parquet")
    with pytest.raises(ValueError, match="is damaged, or not the one it was fitted on"):
        read_postprocess(processed / RUN)


def test_what_is_no_run_is_refused(project: Path) -> None:
    with pytest.raises(ValueError, match=r"no finished run here"):
        mtl("postprocess", "nothing")
    with pytest.raises(ValueError, match="a study; name runs in it"):
        mtl("postprocess", "studies/s")
    (project / RUN / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"predictions.parquet: damaged, or of another run; train it again"):
        mtl("postprocess", RUN)
    (project / RUN / "predictions.parquet").unlink()
    with pytest.raises(ValueError, match=r"predictions.parquet: no such file"):
        mtl("postprocess", RUN)


def test_other_labels_are_refused(project: Path) -> None:
    frames = read_frames(project / "frames.parquet")
    write_frames(frames.with_columns(valence=-pl.col("valence")), project / "frames.parquet")
    with pytest.raises(ValueError, match=r"the labels, splits or subjects in .* are not those of this run"):
        mtl("postprocess", RUN)
    with pytest.raises(ValueError, match="at least two finished runs on one split, found 0; left out: run0"):
        mtl("ensemble", "s")


def test_ensemble_of_a_study(project: Path) -> None:
    said = mtl("ensemble", "studies/s", "--size", "6")
    assert all(words in said for words in ("best single run", "mean of the best 3", "post-processed", "held out"))
    assert max(map(len, said.splitlines())) <= 80
    folder = project / "studies" / "s" / "ensembles" / "best"
    record = read_json(folder / "ensemble.json")
    assert set(record["scores"]) == {"single", "top", "ensemble"}
    for members in record["members"].values():
        assert sum(one["weight"] for one in members) == pytest.approx(1)
        assert all((folder / one["run"] / "run.json").is_file() for one in members)
    table = pl.read_parquet(folder / "predictions.parquet")
    assert table.schema == pl.read_parquet(project / RUN / "predictions.parquet").schema
    part = make_part(table.filter(pl.col("part") == "report"), read_frames(project / "frames.parquet"))
    found = score(part.predicted.decide(), part.labels)["P"]
    assert found == pytest.approx(record["scores"]["ensemble"]["plain"]["report"]["P"], abs=1e-5)
    assert read_postprocess(folder)["fitted_on"] == "out-of-fold predictions of the select rows"
    assert not list((folder.parent).glob(".tmp-*"))


def test_an_ensemble_is_made_once(project: Path) -> None:
    first = mtl("ensemble", "s", "--size", "4")
    path = project / "studies" / "s" / "ensembles" / "best" / "ensemble.json"
    written = path.stat().st_mtime_ns
    assert mtl("ensemble", "s", "--size", "4") == first
    assert path.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="other runs, of another size or other views"):
        mtl("ensemble", "s", "--size", "5")
    said = json.loads(mtl("ensemble", "s", "--size", "5", "--force", "--json"))
    assert said["size"] == 5
    mtl("ensemble", RUN, "studies/s/runs/run2", "--name", "two")
    assert read_json(path.parents[1] / "two" / "ensemble.json")["library"]["num"] == 2
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"ensemble.json: damaged, or not written by this program"):
        mtl("ensemble", "s", "--size", "5")


def test_candidates_come_from_several_studies(project: Path) -> None:
    """Another study gives a better run, and one that is the first's; members of it are called after it."""
    frames = read_frames(project / "frames.parquet")
    other = project / "studies" / "t"
    stub.write_run(other / "runs" / "run0", frames, stub.predict(frames, 0.3, 20))
    stub.write_run(other / "runs" / "again", frames, stub.predict(frames, 1.0, 0))
    (other / "study.json").write_text("{}")
    record = json.loads(mtl("ensemble", "s", "t", "--name", "both", "--json"))
    assert record["ensemble"] == "studies/s/ensembles/both"
    assert record["library"]["num"] == 4
    assert [(Path(one["run"]).name, one["reason"]) for one in record["skipped"]] == [
        ("again", "the same predictions as studies/s/runs/run0")
    ]
    first = record["members"]["va"][0]
    assert first["run"] == "../../../t/runs/run0"
    assert first["score"] == pytest.approx(record["scores"]["single"]["plain"]["in_fold"]["va.ccc_mean"], abs=1e-5)
    for task, members in record["members"].items():
        errors = record["diversity"][task]["errors"]
        others = [value for value in errors[0][1:] if value is not None]
        assert members[0]["correlation"] == pytest.approx(sum(others) / len(others)) if others else not errors[0][1:]
    said = mtl("ensemble", "s", "t", "--name", "both")
    assert f"VA   x{first['count']} {first['score']:.3f}" in said
    assert " t/run0" in said


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"split": {"hash": "another"}}, "studies/t: none of its runs can be combined with the others: another split"),
        ({"labels": "others"}, r"studies/t: none of its runs .*: the labels, splits or subjects in frames.parquet are"),
        (None, "studies/t: none of its runs can be combined with the others: it has no finished run"),
    ],
)
def test_a_study_of_other_rows_or_labels_is_refused(
    project: Path, change: dict[str, object] | None, error: str
) -> None:
    other, frames = project / "studies" / "t", read_frames(project / "frames.parquet")
    (other / "runs").mkdir(parents=True)
    (other / "study.json").write_text("{}")
    if change is not None:
        stub.write_run(other / "runs" / "run0", frames, stub.predict(frames, 0.3, 20), **change)
    with pytest.raises(ValueError, match=error) as caught:
        mtl("ensemble", "t", "s")
    assert "\n" not in str(caught.value)


def test_runs_that_do_not_fit_are_left_out_with_a_reason(project: Path) -> None:
    runs, frames = project / "studies" / "s" / "runs", read_frames(project / "frames.parquet")
    (runs / "unfinished").mkdir()
    (runs / ".tmp-x").mkdir()
    stub.write_run(runs / "fold", frames, stub.predict(frames, 1.0, 5), split={"hash": "another"})
    stub.write_run(runs / "half", frames, stub.predict(frames, 1.0, 6).head(100))
    record = json.loads(mtl("ensemble", "s", "--json"))
    reasons = {Path(one["run"]).name: one["reason"] for one in record["skipped"]}
    assert reasons.keys() == {"unfinished", "fold", "half"}
    assert "no finished run" in reasons["unfinished"]
    assert "another split" in reasons["fold"]
    assert reasons["half"] == "predicts other rows than those of its split"
    assert record["library"]["num"] == 3
    assert "left out" in mtl("ensemble", "s")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nothing"], "no study and no run here"),
        ([RUN], "at least two finished runs on one split, found 1"),
        (["s", "--name", "a/b"], "it is one folder, no path"),
        ([RUN, "studies/s/runs/nothing"], "no study and no run here"),
    ],
)
def test_ensemble_errors_are_one_line(project: Path, words: list[str], error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        mtl("ensemble", *words)
    assert "\n" not in str(caught.value)


def test_an_ensemble_is_no_run(project: Path) -> None:
    mtl("ensemble", "s")
    with pytest.raises(ValueError, match="an ensemble; its post-processing was fitted with it"):
        mtl("postprocess", "studies/s/ensembles/best")


def test_one_video_a_part_is_said_not_hidden(tmp_path: Path, monkeypatch: Any) -> None:
    stub.write_project(tmp_path, frames=stub.make_frames(num_videos=2))
    monkeypatch.chdir(tmp_path)
    assert "nothing can be fitted out of fold" in " ".join(mtl("postprocess", RUN).split())
    record = json.loads(mtl("ensemble", "s", "--json"))
    assert record["scores"]["ensemble"]["plain"]["out_of_fold"] is None
    assert record["differences"]["single"]["interval"] is None
    assert "–" in mtl("ensemble", "s")


def test_a_trained_run_is_postprocessed(tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: what `mtl train-head` writes is what these commands read."""
    made.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1"):
        mtl("train-head", "--name", f"run{seed}", "--seed", seed)
    record = json.loads(mtl("postprocess", "run0", "--json"))[0]
    metrics = read_json(tmp_path / "runs" / "run0" / "metrics.json")
    for part in ("select", "report"):
        assert record["plain"][part]["P"] == pytest.approx(metrics[part]["P"], abs=1e-6)
    said = json.loads(mtl("ensemble", "run0", "run1", "--json"))
    assert said["ensemble"] == "ensembles/best"
    assert (tmp_path / "ensembles" / "best" / "predictions.post.parquet").is_file()


def test_evaluate_scores_a_run_with_its_stored_post_processing(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    mtl("train-head", "--name", "run0")
    with pytest.raises(ValueError, match=r"postprocess.json: no such file; `mtl postprocess runs/run0` fits it"):
        mtl("evaluate", "run0", "--post")
    mtl("postprocess", "run0")
    record = _with_parameters(tmp_path / "runs" / "run0")
    for split, key in (("report", "report"), ("test", "report"), ("select", "in_fold")):
        found = json.loads(mtl("evaluate", "run0", "--split", split, "--post", "--json"))
        plain = json.loads(mtl("evaluate", "run0", "--split", split, "--json"))
        assert {name: value for name, value in found.items() if name != "post"} == plain
        assert found["post"]["P"] == pytest.approx(record[key], abs=1e-6)
        assert found["post"]["P"] != pytest.approx(found["P"], abs=1e-3)
        assert set(found["post"]) >= {name for name in plain if "." in name}
    said = mtl("evaluate", "run0", "--split", "report", "--post")
    assert all(words in said for words in ("plain", "post-processed", f"{record['report']:.4f}"))
    assert "no held-out score" not in said
    assert "selected its weights or its post-processing" in mtl("evaluate", "run0", "--split", "select", "--post")


def _with_parameters(run: Path) -> dict[str, float]:
    """P with parameters of every kind, put in the place of those that were fitted; by part of the run."""
    path = run / "postprocess.json"
    record = read_json(path)
    record["parameters"]["smoothing"] |= {
        "va": {"kernel": "box", "width": 5.0},
        "expr": {"kernel": "median", "width": 9},
    }
    record["parameters"]["offsets"] |= {"Anger": 1.0, "Other": -0.5}
    record["parameters"]["thresholds"] |= {"AU1": 0.3, "AU6": 0.7}
    path.write_bytes(sealed_json(record))
    table, frames = pl.read_parquet(run / "predictions.parquet"), read_frames(run.parents[1] / "frames.parquet")
    found = {}
    for part, name in (("select", "in_fold"), ("report", "report")):
        whole = make_part(apply(read_parameters(run), table.filter(pl.col("part") == part)), frames)
        found[name] = score(read_parameters(run).decide(whole.predicted), whole.labels)["P"]
    return found


def test_evaluate_with_post_over_a_split_without_a_tasks_labels(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write(tmp_path)
    frames = read_frames(tmp_path / "frames.parquet")
    blind = pl.when(pl.col("split") == "test").then(None).otherwise(pl.col("expression")).alias("expression")
    write_frames(frames.with_columns(blind), tmp_path / "frames.parquet")
    monkeypatch.chdir(tmp_path)
    mtl("train-head", "--name", "run0")
    mtl("postprocess", "run0")
    found = json.loads(mtl("evaluate", "run0", "--split", "test", "--post", "--json"))
    assert found["post"]["unscored"] == ["expr"]
    assert found["post"]["P"] is None
    assert found["post"]["expr.f1_macro"] is None
    said = mtl("evaluate", "run0", "--split", "test", "--post")
    assert "sum over va, au" in " ".join(said.split())
