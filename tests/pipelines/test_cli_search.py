"""`mtl search` with the real trainer, on a small made project."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from pipelines.cli import search as command
from pipelines.config import read_config
from pipelines.files import read_json
from pipelines.training.dataset import load_dataset
from pipelines.training.manifest import run_digest
from pipelines.training.strategy import Strategy

GRID = """
[product]
temporal = ["none", "gru"]
seed = [0, 1]
[set]
fusion = "sum"
"""


@pytest.fixture
def project(tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a grid of four trials."""
    made.write(tmp_path)
    (tmp_path / "small.toml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return tmp_path


@pytest.fixture
def mtl() -> Callable[..., Any]:
    """Runs `mtl search ARGUMENTS`; errors are raised, not printed."""
    app = Typer()
    command.register(app)
    runner = CliRunner()

    def call(*arguments: str) -> Any:
        result = runner.invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_a_grid_becomes_runs_a_leaderboard_and_a_report(project: Path, mtl: Callable[..., Any]) -> None:
    done = mtl("--grid", "small.toml")
    assert done.exit_code == 0, done.output
    assert "4 trials: 0 finished before, 4 to run" in done.output
    assert "ranked by the selection score" in done.output
    folder = project / "studies" / "small"
    table = pl.read_csv(folder / "leaderboard.csv")
    assert table["num_seeds"].to_list() == [2, 2]
    assert set(table["temporal"]) == {"none", "gru"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{task}"' in page for task in ("va", "expr", "au"))
    assert len(list((folder / "runs").iterdir())) == 4
    digests = {path.name for path in (folder / "runs").iterdir()}
    again = mtl("--grid", "small.toml", "--json")
    report = json.loads(again.stdout)
    assert (again.exit_code, report["num_before"], report["num_done"], report["num_left"]) == (0, 4, 0, 0)
    assert {run.removeprefix("runs/") for row in report["groups"][0]["rows"] for run in row["runs"]} == digests


def test_a_run_of_a_search_is_an_ordinary_run(project: Path, mtl: Callable[..., Any]) -> None:
    mtl("--grid", "small.toml", "--limit", "1")
    (run,) = (project / "studies" / "small" / "runs").iterdir()
    manifest = read_json(run / "run.json")
    config = read_config(run / "config.toml")
    assert config.train.epochs == 2
    strategy = Strategy().replace(manifest["strategy"], "run.json")
    settings = read_config(project / "mtl.toml")
    dataset = load_dataset(settings, [(name, "base") for name in settings.backbones], torch.device("cpu"))
    assert run.name == manifest["digest"] == run_digest(settings, dataset, strategy)


def test_a_dry_run_counts_and_estimates_and_leaves_nothing(project: Path, mtl: Callable[..., Any]) -> None:
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


def test_a_dry_run_counts_before_there_is_a_cache(tmp_path: Path, mtl: Callable[..., Any]) -> None:
    (tmp_path / "mtl.toml").write_text('[backbones.va]\nmodel = "test_vit"\n')
    (tmp_path / "g.toml").write_text('[product]\nseed = [0, 1, 2]\n[set]\nfusion = "sum"\n')
    done = mtl("--grid", str(tmp_path / "g.toml"), "--config", str(tmp_path / "mtl.toml"), "--dry-run")
    assert done.exit_code == 0
    assert "3 trials" in done.output
    assert "mtl prepare" in done.output


def test_a_failing_trial_is_named_and_the_exit_code_is_1(
    project: Path, mtl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_mistake_in_the_grid_is_found_before_anything_runs(project: Path, mtl: Callable[..., Any]) -> None:
    (project / "small.toml").write_text('[product]\ntemporal = ["none", "gruu"]\n')
    with pytest.raises(ValueError, match=r"small.toml: \[product\] temporal: unknown temporal 'gruu'.*'gru'"):
        mtl("--grid", "small.toml")
    assert not (project / "studies").exists()


def test_a_changed_stream_is_refused_with_the_new_studys_command(
    project: Path, mtl: Callable[..., Any], made: Any
) -> None:
    import shutil

    mtl("--grid", "small.toml", "--limit", "1")
    shutil.rmtree(project / "cache.zarr")
    made.write(project, weights="other")
    with pytest.raises(ValueError, match=r"extracted anew.*mtl search --grid small.toml --study \S*small-2"):
        mtl("--grid", "small.toml")


def test_a_missing_stream_and_a_task_without_labels_are_found_at_once(
    project: Path, mtl: Callable[..., Any], made: Any
) -> None:
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


def test_help_has_examples(mtl: Callable[..., Any]) -> None:
    assert "mtl search --grid grids/joint.toml --dry-run" in mtl("--help").output
