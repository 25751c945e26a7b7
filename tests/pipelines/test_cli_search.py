"""`mtl search` with the real trainer, on a small made project."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from click.testing import Result

from cache.frames import write_frames
from extract.config import BackboneConfig
from heads.config import HeadConfig
from heads.model import build_head
from helpers.cli import invoke
from helpers.made_project import Made
from pipelines import studies
from pipelines.config import Config, read_config
from pipelines.json_files import read_json
from pipelines.report.command import write_study_report
from pipelines.run_files import damage, read_manifest
from pipelines.search.search_plan import make_plan, make_trainer, read_strategies
from pipelines.strategy import Strategy
from pipelines.training.dataset import load_dataset
from pipelines.training.manifest import digest_on

GRID = """
[product]
temporal = ["none", "gru"]
seed = [0, 1]
[set]
fusion = "sum"
"""


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a grid of four trials; no report is drawn, which takes longer than such trainings."""
    (project / "small.toml").write_text(GRID)
    monkeypatch.setattr(studies, "write_study_report", lambda *_: None)
    return project


def mtl(*words: str) -> Result:
    return invoke("search", *words, code=None, columns=80)


def test_a_grid_becomes_runs_a_leaderboard_and_a_report(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "write_study_report", write_study_report)
    done = mtl("--grid", "small.toml")
    assert done.exit_code == 0, done.output
    assert "4 trials: 0 finished before, 4 to run" in done.output
    assert "ranked by the selection score" in done.output
    folder = project / "studies" / "small"
    table = pl.read_csv(folder / "leaderboard.csv")
    assert table["num_seeds"].to_list() == [2, 2]
    assert set(table["temporal"]) == {"none", "gru"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f'<figure id="{name}"' in page for name in ("density-va", "confusion-expr", "f1-au", "learning-curves"))
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".png"}
    assert {path.name for path in (folder / "tables").glob("effects.*")} == {"effects.md", "effects.tex", "effects.csv"}
    assert len(list((folder / "runs").iterdir())) == 4
    digests = {path.name for path in (folder / "runs").iterdir()}
    again = mtl("--grid", "small.toml", "--json")
    report = json.loads(again.stdout)
    assert (again.exit_code, report["num_before"], report["num_done"], report["num_left"]) == (0, 4, 0, 0)
    assert {run.removeprefix("runs/") for row in report["rankings"][0]["rows"] for run in row["runs"]} == digests


def test_a_damaged_run_is_named_and_trained_again(project: Path) -> None:
    mtl("--grid", "small.toml", "--set", "train.steps=2")
    first, *others = sorted((project / "studies" / "small" / "runs").iterdir())
    score = read_json(first / "metrics.json")["select"]["P"]
    kept = {run: run.stat().st_mtime_ns for run in others}
    for file in ("run.json", "metrics.json", "predictions.parquet", "weights/joint.safetensors"):
        data = (first / file).read_bytes()
        (first / file).write_bytes(data[:-20])
        again = mtl("--grid", "small.toml", "--set", "train.steps=2")
        assert again.exit_code == 0, (file, again.output)
        said = again.output.splitlines()[0]
        assert said.startswith(f"studies/small/runs/{first.name}/{file}: damaged")
        assert said.endswith("; it is trained again")
        assert "4 trials: 3 finished before, 1 to run" in again.output, file
        assert damage(first) == "", file
        assert read_json(first / "metrics.json")["select"]["P"] == pytest.approx(score, abs=1e-3), file
        assert {run: run.stat().st_mtime_ns for run in others} == kept, file


def test_a_damaged_run_is_counted_by_a_dry_run_and_left_out_by_other_grids(project: Path) -> None:
    tpe = '[study]\nsampler = "tpe"\ntrials = 3\n'
    (project / "tpe.toml").write_text(tpe + GRID)
    (project / "other.toml").write_text(GRID.replace("[0, 1]", "[2]"))
    words = ("--study", "s", "--set", "train.steps=2")
    mtl("--grid", "tpe.toml", *words)
    run = min((project / "s" / "runs").iterdir())
    data = (run / "metrics.json").read_bytes()
    (run / "metrics.json").write_bytes(data.replace(b"0", b"1", 1))
    assert (run / "metrics.json").read_bytes() != data
    shown = mtl("--grid", "tpe.toml", *words, "--dry-run", "--json")
    assert shown.stderr.startswith(f"s/runs/{run.name}/metrics.json: damaged")
    assert [json.loads(shown.stdout)[key] for key in ("num_finished", "num_left")] == [2, 1]
    other = mtl("--grid", "other.toml", *words)
    assert other.output.startswith(f"s/runs/{run.name}/metrics.json: damaged, or of another run; left out: the search")
    rows = json.loads((project / "s" / "leaderboard.json").read_text())["rankings"][0]["rows"]
    assert len([name for row in rows for name in row["runs"]]) == 2 + 2
    assert run.exists()
    again = mtl("--grid", "tpe.toml", *words)
    assert f"{run.name}/metrics.json: damaged, or of another run; it is trained again" in again.output
    assert all(damage(one) == "" for one in (project / "s" / "runs").iterdir() if not one.name.startswith("."))


def test_a_run_of_a_search_is_an_ordinary_run(project: Path) -> None:
    mtl("--grid", "small.toml", "--limit", "1")
    (run,) = (project / "studies" / "small" / "runs").iterdir()
    manifest = read_json(run / "run.json")
    config = read_config(run / "config.toml")
    assert config.train.steps == 12
    strategy = Strategy().replace(manifest["strategy"], "run.json")
    settings = read_config(project / "mtl.toml")
    dataset = load_dataset(settings, [(name, "base") for name in settings.backbones], torch.device("cpu"))
    assert run.name == manifest["digest"] == digest_on(dataset, settings, strategy)


def test_a_dry_run_counts_and_estimates_and_leaves_nothing(project: Path) -> None:
    before = sorted(project.iterdir())
    done = mtl("--grid", "small.toml", "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["num_trials"], found["num_finished"], found["num_left"]) == (0, 4, 0, 4)
    assert found["seconds"] > 0
    assert "timed trainings" in found["how"]
    assert found["resident_bytes"] == 2 * 360 * (24 + 20 + 16)
    assert sorted(project.iterdir()) == before
    mtl("--grid", "small.toml", "--limit", "3")
    done = mtl("--grid", "small.toml", "--dry-run")
    assert re.search(r"4 trials, 3 finished, 1 to run", done.output)
    assert "3 trials finished in this study" in done.output


def test_a_dry_run_says_what_a_stack_needs_in_memory_and_how_that_was_found(project: Path) -> None:
    words = ("--grid", "small.toml", "--dry-run")
    found = json.loads(mtl(*words, "--json").stdout)
    gru, none = found["stack_shapes"]
    assert [(one["temporal"], one["strategy"]) for one in (gru, none)] == [
        ("gru", "fusion sum, temporal GRU"),
        ("none", "fusion sum, temporal none"),
    ]
    config = read_config(project / "mtl.toml")
    head = build_head(dataclasses.replace(config.head, fusion="sum", temporal="gru"), {"va": 24, "expr": 20, "au": 16})
    assert gru["weights_bytes"] == 2 * 5 * 4 * sum(parameter.numel() for parameter in head.parameters())
    assert gru["bytes"] == found["stack_bytes"] == gru["weights_bytes"] + gru["activation_bytes"]
    assert (gru["num_stacks"], gru["num_trials"]) == (1, 2)
    said = mtl(*words).output
    assert re.search(r"memory of a stack besides them: up to 0.\d MiB \(weights counted, .* not measured\)", said)
    assert re.search(r"  GRU, joint: 0.\d MiB \(weights and AdamW 0.\d MiB, batches and activations 0.\d MiB\)", said)


def test_separate_models_need_less_than_one_after_the_other_and_progressive_ones_all_at_once() -> None:
    from pipelines.search.memory import weights_bytes
    from pipelines.strategy import strategy_of

    config = Config(
        head=HeadConfig(width=16, num_heads=2), backbones={name: BackboneConfig(model="m") for name in ("va", "au")}
    )
    base = strategy_of(config).replace({"tasks": ["va", "au"]}, "here")
    need = {
        method: weights_bytes(base.replace({"method": method}, "here"), config, {"va": 24, "au": 16})
        for method in ("joint", "separate", "progressive")
    }
    assert need["joint"] < need["separate"] < need["progressive"]


FOLDS = """
[product]
temporal = ["none", "gru"]
fold = [0, 1, 2]
[set]
fusion = "sum"
steps = 6
"""


def test_inner_folds_are_trials_of_their_own_and_the_choice_goes_by_their_mean(project: Path) -> None:
    (project / "folds.toml").write_text(FOLDS)
    words = ("--grid", "folds.toml", "--set", "split.num_folds=3")
    mtl(*words)
    shown = mtl(*words, "--dry-run").output
    assert "6 trials, 6 finished, 0 to run" in shown
    assert "3 outer folds, each with 1 inner part to select on" in shown
    inner = (*words, "--set", "split.inner_folds=2")
    shown = mtl(*inner, "--dry-run").output
    assert "12 trials, 6 finished, 6 to run" in shown
    assert "3 outer folds, each with 2 inner parts to select on" in shown
    assert "12 trials: 6 finished before, 6 to run" in mtl(*inner).output
    found = read_json(project / "studies" / "folds" / "leaderboard.json")
    estimate, rows = found["rankings"][0]["nested"], found["rankings"][0]["rows"]
    assert (estimate["num_inner"], sorted(estimate["chosen"]), estimate["num_strategies"]) == (2, ["0", "1", "2"], 2)
    assert [(row["folds"], row["num_inner"], len(row["runs"])) for row in rows] == [([0, 1, 2], 2, 6)] * 2
    assert set(found["splits"]) == {"0", "1", "2", "0.1", "1.1", "2.1"}
    parts = pl.read_csv(project / "studies" / "folds" / "splits.csv")
    assert {"fold 0", "fold 0.1"} <= set(parts.columns)
    assert (parts["fold 0"] == "report").to_list() == (parts["fold 0.1"] == "report").to_list()
    expected = chosen_by_hand(project / "studies" / "folds", rows)
    assert estimate["P"] == pytest.approx(expected)
    assert (parts["fold 0"] == "select").to_list() != (parts["fold 0.1"] == "select").to_list()


def chosen_by_hand(study: Path, rows: list[dict[str, Any]]) -> float:
    """The mean over outer folds of the held-out score of what has the best mean over the fold's inner parts."""
    total = 0.0
    for outer in range(3):
        candidates = []
        for row in rows:
            runs = [study / run for run in row["runs"]]
            inside = [
                run for run in runs if read_json(run / "run.json")["strategy"]["fold"] in (f"{outer}", f"{outer}.1")
            ]
            scores = [read_json(run / "metrics.json") for run in inside]
            assert len(scores) == 2
            candidates.append(tuple(sum(one[part]["P"] for one in scores) / 2 for part in ("select", "report")))
        total += max(candidates)[1] / 3
    return total


def test_a_dry_run_counts_before_there_is_a_cache(tmp_path: Path) -> None:
    (tmp_path / "mtl.toml").write_text('[backbones.va]\nmodel = "test_vit"\n')
    (tmp_path / "g.toml").write_text('[product]\nseed = [0, 1, 2]\n[set]\nfusion = "sum"\n')
    done = mtl("--grid", str(tmp_path / "g.toml"), "--config", str(tmp_path / "mtl.toml"), "--dry-run")
    assert done.exit_code == 0
    assert "3 trials" in done.output
    assert "mtl prepare" in done.output


def test_a_failing_trial_is_named_and_the_exit_code_is_1(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.training import run

    real = run.train_runs

    def fail_once(config: Any, dataset: Any, stack: Any, **options: Any) -> Any:
        if any(strategy.train.seed == 1 and strategy.head.temporal == "gru" for strategy, _ in stack):
            raise RuntimeError("out of memory")
        return real(config, dataset, stack, **options)

    monkeypatch.setattr(run, "train_runs", fail_once)
    done = mtl("--grid", "small.toml")
    assert done.exit_code == 1
    assert "1 trial failed; --retry-failed" in done.output
    assert re.search(r"temporal GRU, seed 1: out of memory", done.output)
    assert "1 of 2" in done.output
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert mtl("--grid", "small.toml").exit_code == 1
    assert mtl("--grid", "small.toml", "--retry-failed").exit_code == 0


def test_a_mistake_in_the_grid_is_found_before_anything_runs(project: Path) -> None:
    (project / "small.toml").write_text('[product]\ntemporal = ["none", "gruu"]\n')
    with pytest.raises(
        ValueError,
        match=r"small.toml: \[product\] temporal: expected one of 'none', 'gru', .*found 'gruu' .did you mean 'gru'",
    ):
        mtl("--grid", "small.toml")
    assert not (project / "studies").exists()


def test_a_changed_stream_is_refused_with_the_new_studys_command(project: Path, made: Made) -> None:
    mtl("--grid", "small.toml", "--limit", "1")
    shutil.rmtree(project / "cache.zarr")
    made.write(project, weights="other")
    with pytest.raises(ValueError, match=r"extracted anew.*mtl search --grid small.toml --study \S*small-2"):
        mtl("--grid", "small.toml")


def test_what_changes_after_the_plan_is_not_trained_on(project: Path, made: Made) -> None:
    """`mtl prepare` or `mtl extract` beside a search: its runs are of the labels and streams that the study says."""
    search = make_plan(*read_strategies(read_config(project / "mtl.toml", ["train.steps=2"]), project / "small.toml"))
    write_frames(made.frames.with_columns(valence=-pl.col("valence")), project / "frames.parquet")
    run = project / "studies" / "small" / "runs" / "one"
    assert make_trainer(search, "cpu")([(search.trials[0].strategy, run)], lambda count: None) == [None]
    assert read_manifest(run)["labels"] == search.inputs.labels
    shutil.rmtree(project / "cache.zarr")
    made.write(project, weights="other")
    with pytest.raises(ValueError, match="was extracted anew meanwhile; type the same command again"):
        make_trainer(search, "cpu")


def test_a_missing_stream_and_a_task_without_labels_are_found_at_once(project: Path, made: Made) -> None:
    with (project / "mtl.toml").open("a") as file:
        file.write('[backbones.new]\nmodel = "test_vit"\n')
    with pytest.raises(ValueError, match=r"new.*mtl extract"):
        mtl("--grid", "small.toml")
    made.frames.with_columns(expression=pl.lit(None, pl.Int8)).write_parquet(project / "frames.parquet")
    with pytest.raises(ValueError, match="task expr: no labelled frame in train"):
        mtl("--grid", "small.toml")
    renamed = made.frames.with_columns(path=pl.concat_str(pl.lit("new/"), "path"))
    renamed.write_parquet(project / "frames.parquet")
    with pytest.raises(ValueError, match=r"another frame list .*; type .*mtl extract"):
        mtl("--grid", "small.toml", "--set", 'head.streams=["va"]')
    assert not (project / "studies").exists()


def test_help_has_examples() -> None:
    assert "mtl search --grid grids/joint.toml --dry-run" in mtl("--help").output
