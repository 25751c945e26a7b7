"""A fine-tuning on two processes: the losses, scores and weights of one process with the same global batch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from cache.frames import write_frames
from extract.backbones.weights import read_weights
from helpers import finetuning_process
from helpers.processes import start, world
from helpers.small_faces import Given, run
from pipelines.config import Config, read_config
from pipelines.typed import to_mapping

RECIPE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 17,
    "accumulate": 2,
    "mixup": 0.3,
    "erase": 0.3,
    "ema": 0.8,
    "balance": "both",
    "layer_decay": 0.9,
    "probe_epochs": 1,
}


def run_two(folder: Path, out: Path) -> list[dict[str, Any]]:
    running = [start(finetuning_process.main, folder, out, env=env) for env in world(2)]
    ends = [each.end() for each in running]
    assert [code for code, _, _ in ends] == [0, 0], ends
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_learn_as_one(project: Config, faces: Given, tmp_path: Path) -> None:
    """CCC, masks, mixup, erasing, accumulation and averages over all processes; one face cannot be read."""
    values = to_mapping(dataclasses.replace(project.finetune, **RECIPE))
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items() if value not in ("", []))
    with open(project.folder / "mtl.toml", "a") as file:
        file.write(f"[finetune]\n{text}\n[loss]\nweighting = 'learned'\ncontinuous_loss = 'ccc+mse'\n")
    train = faces[1].filter(pl.col("split") == "train", pl.col("expression").is_not_null())
    lost = pl.when(pl.col("path") == train["path"][7]).then(pl.lit("no/such.jpg")).otherwise(pl.col("path"))
    frames = faces[1].with_columns(lost.alias("path"))
    write_frames(frames, project.folder / "frames.parquet")
    first, second = run_two(project.folder, tmp_path)
    weights = read_weights(project.folder / "backbones" / "joint.safetensors")[0]
    config = read_config(project.folder / "mtl.toml")
    alone = run(config, frames, "va,expr,au").to_json()
    assert [first["is_first"], second["is_first"]] == [True, False]
    assert (first["said"], second["said"]) == ([1, 2, 3], [])
    assert first["history"][0]["loss"] == second["history"][0]["loss"]
    assert first["unreadable"] == second["unreadable"] == alone["unreadable"]
    for one, other in zip(first["history"], alone["history"], strict=True):
        for key in one.keys() - {"seconds"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key
    for name, value in read_weights(project.folder / "backbones" / "joint.safetensors")[0].items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-3)
