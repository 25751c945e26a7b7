"""What a run and an ensemble prove when they are read: a file that changed, or is another run's, is refused by name."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cache.frames import read_frames, write_frames
from cache.seals import has_seal
from helpers import stub_runs as stub
from pipelines.config import read_config
from pipelines.ensemble.ensemble_folder import read_ensemble
from pipelines.postprocess.run_folders import postprocess_run, read_parameters, read_truth
from pipelines.predict.predictor import load_predictor
from pipelines.results.score import score_tables
from pipelines.run_files import PREDICTIONS, damage, read_manifest, read_metrics, read_predictions
from pipelines.strategy import strategy_of
from pipelines.training.run import load_run, train_or_find

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(shared: Path) -> Path:
    """Two trained runs over one data set, `runs/one` and `runs/two`; the first with its post-processing."""
    config = read_config(shared / "mtl.toml")
    for seed, name in enumerate(("one", "two")):
        strategy = strategy_of(config).replace({"seed": seed, "steps": 4, "width": 8, "eval_steps": 2}, "test")
        train_or_find(config, strategy, "cpu", name=name)
    postprocess_run(shared / "runs" / "one", read_truth(config))
    return shared / "runs"


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the first run."""
    shutil.copytree(runs / "one", tmp_path / "one")
    return tmp_path / "one"


def flips(path: Path, num: int) -> list[bytes]:
    """The file with one bit changed: its first and last byte, its middle, and `num` places by chance."""
    data, generator = path.read_bytes(), np.random.default_rng(len(path.name))
    places = [0, len(data) - 1, len(data) // 2, *generator.integers(0, len(data), num).tolist()]
    found = []
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(generator.integers(0, 8))
        found.append(bytes(changed))
    return found


def test_a_whole_run_has_no_damage_and_proves_every_file(run: Path) -> None:
    assert damage(run) == ""
    own = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    later = {"postprocess.json", "predictions.post.parquet"}  # have a seal, or stand in what has one
    assert set(read_manifest(run)["files"]) == own - {"run.json"} - later
    (run / PREDICTIONS).unlink()
    assert damage(run) == "", "predictions may be removed to save room"


@pytest.mark.parametrize("file", ["run.json", "metrics.json", "config.toml", "history.csv", PREDICTIONS, "weights"])
def test_one_bit_of_a_run_is_found(run: Path, file: str) -> None:
    path = next((run / "weights").iterdir()) if file == "weights" else run / file
    for data in flips(path, 40):
        path.write_bytes(data)
        said = damage(run)
        assert path.name in said
        assert "\n" not in said
        assert said.endswith("; train it again (`--force` replaces it)")


@pytest.mark.parametrize("change", ["truncated", "empty", "gone", "the other run's"])
@pytest.mark.parametrize("file", ["metrics.json", "config.toml", PREDICTIONS, "weights/joint.safetensors"])
def test_every_reader_refuses_it(runs: Path, run: Path, file: str, change: str) -> None:
    path = run / file
    data = path.read_bytes()
    other = (runs / "two" / file).read_bytes()
    assert other != data
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "the other run's": other}[change])
    readers = {
        "metrics.json": lambda: read_metrics(run, read_manifest(run)),
        PREDICTIONS: lambda: read_predictions(run, read_manifest(run)),
        "config.toml": lambda: load_run(run),
        "weights/joint.safetensors": lambda: load_run(run),
    }
    for reader in (readers[file], *([lambda: load_run(run)] if file == "metrics.json" else [])):
        with pytest.raises(ValueError, match=rf"{Path(file).name}: .*; train it again \(`--force` replaces it\)$"):
            reader()


def test_the_manifest_of_another_run_is_found_out(runs: Path, run: Path) -> None:
    shutil.copy(runs / "two" / "run.json", run / "run.json")
    assert read_manifest(run)["name"] == "two"
    with pytest.raises(ValueError, match="damaged, or of another run"):
        load_run(run)


@pytest.mark.parametrize("file", ["postprocess.json", "predictions.post.parquet", PREDICTIONS])
def test_one_bit_of_post_processing_is_found(run: Path, file: str) -> None:
    for data in flips(run / file, 40):
        (run / file).write_bytes(data)
        with pytest.raises(ValueError, match=r"--force` fits it again$"):
            read_parameters(run)


def test_an_ensemble_proves_its_files_and_its_members(runs: Path, tmp_path: Path, monkeypatch) -> None:
    from pipelines.cli import app

    project = tmp_path / "project"
    shutil.copytree(runs.parent, project)
    monkeypatch.chdir(project)
    assert not app(["ensemble", "one", "two", "--name", "both"], standalone_mode=False)
    folder = project / "ensembles" / "both"
    assert len(load_predictor(folder, CPU).runs) > 0
    for file in ("ensemble.json", PREDICTIONS):
        whole = (folder / file).read_bytes()
        for data in flips(folder / file, 20):
            (folder / file).write_bytes(data)
            with pytest.raises(ValueError, match=r"--force` makes it again$"):
                read_ensemble(folder)
        (folder / file).write_bytes(whole)
    name = next(iter(read_ensemble(folder)["members"].values()))[0]["run"]
    member = (folder / name).resolve()
    shutil.rmtree(member)
    shutil.copytree(runs / ("two" if member.name == "one" else "one"), member)
    with pytest.raises(ValueError, match="was trained again since; make the ensemble again"):
        load_predictor(folder, CPU)


def test_a_damaged_run_of_a_study_is_named_and_keeps_no_other_from_an_ensemble(tmp_path: Path, monkeypatch) -> None:
    from pipelines.cli import app

    stub.write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = Path("studies/s/runs/run1") / PREDICTIONS
    path.write_bytes(path.read_bytes()[:100])
    assert not app(["ensemble", "s"], standalone_mode=False)
    record = read_ensemble(Path("studies/s/ensembles/best"))
    assert [Path(one["run"]).name for one in record["skipped"]] == ["run1"]
    assert record["skipped"][0]["reason"].endswith(
        "damaged, or of another run; train it again (`mtl search` of its grid does)"
    )


@pytest.mark.parametrize("file", [PREDICTIONS, "predictions.post.parquet"])
def test_one_bit_of_predictions_is_found_where_they_are_scored_by_themselves(
    runs: Path, run: Path, tmp_path: Path, file: str
) -> None:
    labels = tmp_path / "labels.parquet"
    write_frames(read_frames(runs.parent / "frames.parquet").filter(pl.col("split") == "test"), labels)
    wanted = score_tables(run / file, labels)["P"]
    for path in (run / file, labels):
        whole = path.read_bytes()
        for data in flips(path, 9):
            path.write_bytes(data)
            with pytest.raises(ValueError, match=path.name):
                score_tables(run / file, labels)
        path.write_bytes(whole)
    alone = tmp_path / "alone.parquet"
    shutil.copy(run / file, alone)
    assert score_tables(alone, labels)["P"] == wanted


def test_the_table_of_predictions_has_no_seal_of_its_own(run: Path) -> None:
    """Any program reads it; run.json has its digest."""
    assert not has_seal((run / PREDICTIONS).read_bytes())
    assert pl.read_parquet(run / PREDICTIONS).equals(read_predictions(run, read_manifest(run)))
