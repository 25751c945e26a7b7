"""A fine-tuning on two processes: the losses, scores and weights of one process with the same global batch."""

import dataclasses
import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from cache.frames import write_frames
from extract.backbones.weights import read_weights
from pipelines.config import Config
from pipelines.typed import to_mapping

small = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_faces.py"))))
faces, project = small.faces, small.project
PROCESS = Path(__file__).with_name("finetuning_process.py")
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(PROCESS.parents[2])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [{**os.environ, **common, "PYTHONPATH": root, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    command = [sys.executable, str(PROCESS), str(folder), str(out)]
    running = [subprocess.Popen(command, env=each) for each in ranks]
    assert [each.wait(timeout=300) for each in running] == [0, 0]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_learn_as_one(project: Config, faces: tuple[Path, pl.DataFrame], tmp_path: Path) -> None:
    """CCC, masks, mixup, erasing, accumulation and averages over all processes; one face cannot be read."""
    values = to_mapping(dataclasses.replace(project.finetune, **RECIPE))
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items() if value not in ("", []))
    with open(project.folder / "mtl.toml", "a") as file:
        file.write(f"[finetune]\n{text}\n[loss]\ntask_weights = 'learned'\nva_loss = 'ccc+mse'\n")
    train = faces[1].filter(pl.col("split") == "train", pl.col("expression").is_not_null())
    lost = pl.when(pl.col("path") == train["path"][7]).then(pl.lit("no/such.jpg")).otherwise(pl.col("path"))
    frames = faces[1].with_columns(lost.alias("path"))
    write_frames(frames, project.folder / "frames.parquet")
    first, second = run_two(project.folder, tmp_path)
    weights = read_weights(project.folder / "backbones" / "joint.safetensors")[0]
    config = small.read_config(project.folder / "mtl.toml")
    alone = small.run(config, frames, "va,expr,au").to_json()
    assert [first["is_first"], second["is_first"]] == [True, False]
    assert (first["said"], second["said"]) == ([1, 2, 3], [])
    assert first["history"][0]["loss"] == second["history"][0]["loss"]
    assert first["unreadable"] == second["unreadable"] == alone["unreadable"]
    for one, other in zip(first["history"], alone["history"], strict=True):
        for key in one.keys() - {"seconds"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key
    for name, value in read_weights(project.folder / "backbones" / "joint.safetensors")[0].items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-3)
