"""Streams that stay in the cache: the same batches, losses, predictions and scores as of streams in memory."""

import dataclasses
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cache import frames as frames_module
from cache.ranges import RowReader
from cache.shards import EMBEDDING, shard_file
from cache.store import Cache
from helpers.made_project import Made
from pipelines import device as devices
from pipelines.config import Config, SplitConfig, parse_config, read_config
from pipelines.fitting.runs import config_toml
from pipelines.folds import NO_FOLD, Fold
from pipelines.postprocess.fit import fit
from pipelines.postprocess.run_folders import part_of, read_predictions, read_truth
from pipelines.predict.predict import FrameRequest, predict_to_file
from pipelines.results.evaluate import evaluate_run
from pipelines.results.evidence import Reader
from pipelines.search.search_plan import make_plan, make_trainer, read_strategies
from pipelines.splits import assignment, splits_of
from pipelines.strategy import Strategy, strategy_of
from pipelines.training import resident as residence
from pipelines.training import window_sampler
from pipelines.training.dataset import Dataset, load_dataset
from pipelines.training.run import train_or_find
from pipelines.training.stored import StoredRows
from pipelines.training.train import Trained, TrainRequest, train_strategies

CPU = torch.device("cpu")
SHARD_ROWS = 37


@pytest.fixture(scope="module")
def folder(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose streams have several shards, the last of them short, and failed faces."""
    folder = tmp_path_factory.mktemp("stored")
    made.write(folder)
    cache = Cache.open(folder / "cache.zarr")
    for name, rows in made.streams.items():
        cache.remove(name)
        stream = cache.create(name, made.identity(name), SHARD_ROWS, {})
        for shard in range(stream.num_shards):
            start, stop = stream.rows(shard)
            digests = np.zeros((stop - start, 16), np.uint8)
            stream.write_shard(shard, rows[start:stop], digests, {3: "no face"} if shard % 3 == 0 else {})
    return folder


def dataset_of(folder: Path, memory_gb: float) -> tuple[Config, Dataset]:
    config = read_config(folder / "mtl.toml", [f"train.memory_gb={memory_gb}"])
    there = Cache.open(config.cache_location()).streams()
    wanted = [(name, "base") for name in config.backbones if (name, "base") in there]
    return config, load_dataset(config, wanted, CPU)


def trained(folder: Path, memory_gb: float, values: dict) -> list[Trained]:
    config, dataset = dataset_of(folder, memory_gb)
    strategies = [strategy_of(config).replace({"seed": seed, **values}, "test") for seed in (0, 1)]
    requests = [TrainRequest(strategy=strategy) for strategy in strategies]
    found = train_strategies(config, dataset, requests)
    assert all(isinstance(one, Trained) for one in found)
    return found  # type: ignore[return-value]


def test_streams_beyond_the_memory_stay_in_the_cache(folder: Path, made: Made) -> None:
    sizes = {name: rows.nbytes for name, rows in made.streams.items()}
    _, dataset = dataset_of(folder, (sizes["va"] + sizes["au"]) / 1e9)
    stored = {name for (name, _), rows in dataset.resident.streams.items() if isinstance(rows, StoredRows)}
    assert stored == {"expr"}
    assert dataset.resident.widths(["va", "expr"], "base") == {"va": 24, "expr": 20}


@pytest.mark.parametrize(
    "values",
    [
        {"temporal": "gru", "steps": 24},
        {"inputs": "both", "temporal": "none"},
        {"method": "progressive", "fusion": "sum", "temporal": "tcn"},
        {"window": 100, "stride": 7, "temporal": "none"},
    ],
    ids=["gru", "deviations", "progressive", "padded windows"],
)
def test_the_same_numbers(folder: Path, values: dict) -> None:
    for one, other in zip(trained(folder, 1.0, values), trained(folder, 1e-9, values), strict=True):
        assert [(note.losses, note.scores) for note in one.history] == [
            (note.losses, note.scores) for note in other.history
        ]
        for part in ("select", "report"):
            for group, expected in one.predictions[part].probabilities.parts.items():
                assert np.array_equal(expected, other.predictions[part].probabilities.parts[group])


def test_row_numbers_made_as_they_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pass of very many windows; also where each is of a view of its own."""
    cache = Cache.open(folder / "cache.zarr")
    if ("va", "hflip") not in cache.streams():
        stream, rows = cache.stream("va"), cache.stream("va").read()
        identity = dataclasses.replace(stream.identity, view="hflip")
        other = cache.create("va", identity, SHARD_ROWS, {})
        for shard in range(other.num_shards):
            digests = np.zeros((len(rows[slice(*other.rows(shard))]), 16), np.uint8)
            other.write_shard(shard, rows[slice(*other.rows(shard))] * 2, digests, {})
    config = read_config(folder / "mtl.toml")
    dataset = load_dataset(config, [("va", "base"), ("va", "hflip")], CPU)
    strategy = strategy_of(config).replace({"streams": ["va"], "augment": ["hflip"], "temporal": "none"}, "test")
    found = []
    for most in (window_sampler.MAX_STEPS, 0):
        monkeypatch.setattr(window_sampler, "MAX_STEPS", most)
        (one,) = train_strategies(config, dataset, [TrainRequest(strategy=strategy)])
        assert isinstance(one, Trained)
        found.append([(note.losses, note.scores) for note in one.history])
    assert found[0] == found[1]


def results_of(config: Config, run: Path, out: Path) -> list[object]:
    """What is made of a finished run: predictions, scores, post-processing, splits, the reader's sums."""
    predict_to_file(config, FrameRequest(model=run, split="test", out=out, post=False), "cpu")
    truth = read_truth(config)
    table = read_predictions(run)
    parts = [part_of(table, part, truth) for part in ("select", "report")]
    splits = splits_of(truth.frames, SplitConfig(num_folds=3), [NO_FOLD, Fold(1)])
    labels, groups = Reader(truth.frames)._truth((NO_FOLD, "select"), parts[0].table.select("video", "frame"))
    return [
        out.read_bytes(),
        evaluate_run(run, config, "val", CPU),
        (truth.frames_digest, truth.labels_digest),
        [(part.frames.write_csv(), fit(*parts).parameters.to_json()) for part in parts],
        assignment(*splits).write_csv(),
        [split.description for split in splits[1].values()],
        [values.tolist() for values in labels.values.values()],
        groups.tolist(),
    ]


def test_a_table_read_by_ranges_gives_the_same(made: Made, tmp_path: Path) -> None:
    """A run's predictions, scores and records, but for times, and all that is made of it; the table in memory has no
    paths, its names are categories."""
    made.write(tmp_path)
    config = read_config(tmp_path / "mtl.toml", ["train.memory_gb=1e-9"])
    strategy = strategy_of(config)
    whole = train_or_find(config, strategy, "cpu", name="whole")
    results = results_of(config, whole.folder, tmp_path / "whole.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames_module, "LARGE_ROWS", 1)
        by_ranges = train_or_find(config, strategy, "cpu", name="ranges")
        dataset = load_dataset(config, [("va", "base")], CPU)
        assert results_of(config, whole.folder, tmp_path / "ranges.parquet") == results
    assert "path" not in dataset.frames.columns
    assert dataset.frames["video"].dtype == pl.Categorical
    assert [by_ranges.metrics[key] for key in ("select", "report")] == [
        whole.metrics[key] for key in ("select", "report")
    ]
    for file in ("predictions.parquet", "weights/joint.safetensors"):
        assert (by_ranges.folder / file).read_bytes() == (whole.folder / file).read_bytes()
    differing = {key for key, value in whole.manifest.items() if by_ranges.manifest[key] != value}
    assert differing <= {"name", "created", "seconds", "files"}


@pytest.mark.parametrize("local_gb", [1.0, 4e-6], ids=["all is kept", "less than a stream"])
def test_from_an_object_store(folder: Path, s3_url: str, tmp_path: Path, local_gb: float) -> None:
    """Windows come from the local copy, also where that holds a few shards only."""
    values = {"temporal": "none", "streams": ["va"]}
    cache, stream = Cache.open(s3_url, create=True), Cache.open(folder / "cache.zarr").stream("va")
    other = cache.create("va", stream.identity, SHARD_ROWS, {})
    for shard in range(other.num_shards):
        failed = {row - stream.rows(shard)[0]: reason for row, reason in stream.mark(shard).failed.items()}
        digests = np.zeros((len(stream.read_shard(shard)), 16), np.uint8)
        other.write_shard(shard, stream.read_shard(shard), digests, failed)
    shutil.copy(folder / "frames.parquet", tmp_path)
    place = f'[cache]\npath = "{s3_url}"\nlocal = "local"\nlocal_gb = {local_gb}\n'
    (tmp_path / "mtl.toml").write_text(place + (folder / "mtl.toml").read_text())
    for one, expected in zip(trained(tmp_path, 1e-9, values), trained(folder, 1.0, values), strict=True):
        assert [(note.losses, note.scores) for note in one.history] == [
            (note.losses, note.scores) for note in expected.history
        ]


def test_the_next_batch_is_read_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread; only the first windows of a prediction are not."""
    late, real = [], StoredRows._read

    def read(self: StoredRows, rows: torch.Tensor, buffer: torch.Tensor) -> None:
        late.append(threading.current_thread().name.startswith("rows"))
        real(self, rows, buffer)

    monkeypatch.setattr(StoredRows, "_read", read)
    trained(folder, 1e-9, {"temporal": "none", "streams": ["va"]})
    assert np.mean(late) > 0.6


def stored_of(folder: Path, name: str = "va") -> StoredRows:
    return StoredRows(RowReader(Cache.open(folder / "cache.zarr").stream(name)))


def test_what_is_read_ahead_is_what_is_taken(folder: Path, made: Made) -> None:
    stored, expected = stored_of(folder), torch.from_numpy(made.streams["va"].copy())
    expected[np.flatnonzero(~Cache.open(folder / "cache.zarr").stream("va").valid())] = 0
    batches = list(torch.randint(len(expected), (12, 50), generator=torch.Generator().manual_seed(0)))
    for rows, following in zip(batches, [*batches[1:], batches[0]], strict=True):
        stored.prefetch(rows)
        stored.prefetch(following)
        assert torch.equal(stored.take(rows), expected[rows])
    assert torch.equal(stored.take(batches[3]), expected[batches[3]])  # which nobody announced
    assert torch.equal(stored[10:50], expected[10:50])
    assert torch.equal(stored[:, 2], expected[:, 2])
    assert torch.equal(stored[:, 1:-1].take(batches[1]), expected[batches[1]][:, 1:-1])


def test_a_fault_of_rows_read_ahead_is_raised_where_they_are_taken(folder: Path, made: Made, tmp_path: Path) -> None:
    made.write(tmp_path)
    stored = stored_of(tmp_path)
    (Cache.open(tmp_path / "cache.zarr").stream("va").folder / shard_file(EMBEDDING, 0)).unlink()
    rows = torch.arange(5)
    stored.prefetch(rows)
    with pytest.raises(ValueError, match="the shard is missing; type"):
        stored.take(rows)


def test_a_damaged_shard_is_found_before_the_first_batch(made: Made, tmp_path: Path) -> None:
    made.write(tmp_path)
    path = Cache.open(tmp_path / "cache.zarr").stream("expr").folder / shard_file(EMBEDDING, 0)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the shard has changed since extraction"):
        dataset_of(tmp_path, 1e-9)


def test_running_means_need_memory(folder: Path) -> None:
    config, dataset = dataset_of(folder, 1e-9)
    strategy = strategy_of(config).replace({"inputs": "both", "mean_frames": 30}, "test")
    with pytest.raises(ValueError, match=r"larger than \[train\] memory_gb.*set mean_frames = 0, or memory_gb higher"):
        train_strategies(config, dataset, [TrainRequest(strategy=strategy)])


def test_memory_is_no_part_of_a_strategy() -> None:
    plain, other = (parse_config({"train": {"memory_gb": each, "steps": 9}}, Path(), "x") for each in (0, 3.5))
    assert (plain.memory_gb, other.memory_gb) == (0.0, 3.5)
    assert strategy_of(plain) == strategy_of(other)
    assert strategy_of(plain).digest == strategy_of(other).digest
    assert config_toml(plain, strategy_of(plain)) == config_toml(other, strategy_of(other))
    with pytest.raises(ValueError, match="unknown key 'memory_gb'"):
        Strategy().replace({"memory_gb": 1.0}, "grid")


def test_free_memory_is_within_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 5000000 kB\n")
    monkeypatch.setattr(devices, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    assert devices.free_bytes(CPU) == 5_000_000 * 1024
    for name, text in {"max": "3000", "current": "2000", "stat": "anon 1\ninactive_file 500"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert devices.free_bytes(CPU) == 1500
    (tmp_path / "memory.max").write_text("max")
    assert devices.free_bytes(CPU) == 5_000_000 * 1024


def test_what_is_free_decides_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residence, "free_bytes", lambda device: 10)
    _, dataset = dataset_of(folder, 0)
    assert all(isinstance(rows, StoredRows) for rows in dataset.resident.streams.values())


def test_a_search_names_what_it_reads_from_the_cache(made: Made, tmp_path: Path) -> None:
    made.write(tmp_path)
    (tmp_path / "grid.toml").write_text("[set]\ntemporal = 'none'\n[product]\nseed = [0]\n")
    told: list[Sequence[str]] = []
    for memory_gb in (1.0, 1e-9):
        config = read_config(tmp_path / "mtl.toml", [f"train.memory_gb={memory_gb}"])
        make_trainer(make_plan(*read_strategies(config, tmp_path / "grid.toml")), "cpu", on_stored=told.append)
    assert told == [tuple(made.streams)]
