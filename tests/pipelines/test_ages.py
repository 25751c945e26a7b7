"""Streams whose rows have ages: what heads are given of them, and the way from an import to a bundle."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cache.identity import NO_ROW
from heads.config import HeadConfig
from helpers.cli import call
from helpers.made_project import Made
from pipelines.config import read_config
from pipelines.run_files import read_manifest
from pipelines.training.dataset import load_dataset

WIDTH = 5


@pytest.fixture(scope="module")
def imported(shared: Path, made: Made) -> Path:
    """The project with the stream `text`: a row every 2 s of each video, of which each third is lacking."""
    rng, tables = np.random.default_rng(0), []
    for (video,), part in made.frames.group_by("video", maintain_order=True):
        starts = np.arange(0, part["frame"].max() / 30, 2.0)
        vectors = rng.normal(2, 1, (len(starts), WIDTH)).astype(np.float32)
        columns = {"video": [video] * len(starts), "start_s": starts, "end_s": starts + 2}
        tables.append(pl.DataFrame({**columns, "embedding": vectors.tolist()}))
    table = pl.concat(tables).with_row_index("row").filter(pl.col("row") % 3 != 1).drop("row")
    table.write_parquet(shared / "text.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        said = json.loads(call("cache", "import", "text", "text.parquet", "--json"))
    assert said["num_uncovered"] > 0
    assert said["width"] == WIDTH + 1
    return shared


def test_a_head_is_given_embeddings_and_ages(imported: Path) -> None:
    config = read_config(imported / "mtl.toml")
    dataset = load_dataset(config, [("text", "base"), ("va", "base")], torch.device("cpu"))
    stored = dataset.resident.streams["text", "base"]
    rows = torch.arange(len(stored))
    reader = dataset.reader(["text", "va"], ["text", "va"], HeadConfig(), ["base"])
    assert reader.widths == {"text": WIDTH, "text:age": 1, "va": 24}
    inputs, valid, _ = reader(rows)
    assert valid.all()
    torch.testing.assert_close(inputs["text"], stored[:, :-1].float())
    torch.testing.assert_close(inputs["text:age"], stored[:, -1:].float())
    covered = stored[:, -1] != NO_ROW
    assert 0 < covered.sum() < len(covered)
    again = dataset.reader(list(reader.widths), ["text", "va"], HeadConfig(inputs="both"), ["base"])
    assert again.widths == {"text": 2 * WIDTH, "text:age": 1, "va": 48}
    inputs, _, _ = again(rows)
    for video in np.unique(dataset.videos):  # the mean is of the frames that see a row
        own = torch.from_numpy(dataset.videos == video)
        mean = stored[own & covered][:, :-1].float().mean(dim=0)
        torch.testing.assert_close(inputs["text"][own][:, WIDTH:], stored[own][:, :-1].float() - mean)
    torch.testing.assert_close(inputs["text:age"], stored[:, -1:].float())


def test_a_run_of_it_is_predicted_and_exported(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export compares the runner with torch, whose rows have ages and frames without a row."""
    monkeypatch.chdir(imported)
    words = ("--set", 'head.streams=["va", "text"]', "--set", "head.inputs=both", "--set", "head.mean_frames=40")
    call("train-head", "--name", "aged", "--tasks", "va", *words)
    (model,) = read_manifest(Path("runs/aged"))["models"]
    assert model["parts"]["joint"] == {"va": 48, "text": 10, "text:age": 1}
    call("predict", "aged", "--split", "test")
    said = json.loads(call("export", "aged", "--heads-only", "--onnx", "aged.zip", "--json"))
    assert said["differences"]["predictions"] < 1e-5
