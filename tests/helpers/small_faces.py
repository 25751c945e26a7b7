"""Small faces whose labels are plain to see, and trainings on them, for the tests of `mtl finetune`."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import nn

from cache.frames import conform
from extract.backbones.build import TrainableBackbone, load_backbone
from extract.backbones.weights import read_weights, weights_digest
from extract.config import Preprocessing
from pipelines.backbones.finetuning.finetune import finetune
from pipelines.backbones.finetuning.request import make_request
from pipelines.backbones.finetuning.result import Finetuned
from pipelines.backbones.task_model import FOLDER, TaskModel
from pipelines.config import Config, FinetuneConfig, read_config
from pipelines.labels import tasks_of

Given = tuple[Path, pl.DataFrame]
MODEL, SIDE = "test_vit2", 32
COLOURS = [(v, w, x) for v, w, x in itertools.product((40, 210), repeat=3)]
SETTINGS = FinetuneConfig(
    size_px=SIDE, epochs=6, batch_size=32, lr=2e-3, patience=10, init="random", precision="float32", warmup_epochs=0.5
)


def draw(expression: int, smile: int, height: float, rng: np.random.Generator) -> np.ndarray:
    """A face [S, S, 3] for children: colour is expression, a white bar AU12, the height of a black bar valence."""
    face = np.full((SIDE, SIDE, 3), COLOURS[expression], dtype=np.float64) + rng.normal(0, 8, (SIDE, SIDE, 3))
    top = round((1 - height) / 2 * 12)
    face[top : top + 4, 8:24] = 0
    if smile:
        face[24:30, 4:28] = 255
    return face.clip(0, 255).astype(np.uint8)


def make_faces(folder: Path) -> pl.DataFrame:
    """24 videos of 16 frames in `folder`, and their frames table; a third of each label is missing."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for video, frame in itertools.product(range(24), range(16)):
        path = f"v{video}/{frame:05d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        expression, smile, height = int(rng.integers(8)), int(rng.integers(2)), float(rng.uniform(-1, 1))
        Image.fromarray(draw(expression, smile, height, rng)).save(folder / path, quality=95)
        given = rng.random(3) > 1 / 3
        rows.append(
            {
                "video": f"v{video}",
                "frame": frame,
                "path": path,
                "split": ("train", "train", "val", "test")[video % 4],
                "expression": expression if given[0] else None,
                "AU12": smile if given[1] else None,
                "valence": height if given[2] else None,
                "arousal": -height if given[2] else None,
            }
        )
    return conform(pl.DataFrame(rows, infer_schema_length=None), "test")


def configure(folder: Path, faces: Path) -> Config:
    """A working folder with an mtl.toml of the user's."""
    (folder / "mtl.toml").write_text(f"# mine\n[data]\nfaces = {json.dumps(str(faces))}\n")
    return dataclasses.replace(read_config(folder / "mtl.toml"), finetune=SETTINGS)


def run(config: Config, frames: pl.DataFrame, task: str = "expr", *, watch: Any = None, **settings: Any) -> Finetuned:
    config = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, **settings))
    request = make_request(config, config.folder / "mtl.toml", task, model=MODEL, device="cpu")
    return finetune(config, frames, request, watch)


def digest(config: Config, section: str = "expr") -> str:
    """Digest of the registered weights, outputs included."""
    return weights_digest(load_trained(read_config(config.folder / "mtl.toml"), section)[0])


def load_trained(config: Config, section: str) -> tuple[TaskModel, Preprocessing]:
    """What `finetune` wrote for [backbones.SECTION], backbone and outputs, in evaluation mode.

    Raises:
        ValueError: a file is missing or damaged, or the outputs were trained on another backbone.
    """
    backbone = load_backbone(section, config.backbones[section], config.folder)
    path = config.at(FOLDER / f"{section}.output.safetensors")
    tensors, metadata = read_weights(path)
    if metadata.get("backbone") != backbone.weights_digest:
        raise ValueError(f"{path}: its outputs belong to other weights than [backbones.{section}]; run `mtl finetune`")
    known = tasks_of(config.schema)
    tasks = {name: known[name] for name in metadata["tasks"].split(",")}
    linear = nn.Linear(backbone.width, sum(task.num_outputs for task in tasks.values()))
    joined = {kind: torch.cat([tensors[f"{task}.{kind}"] for task in tasks]) for kind in ("weight", "bias")}
    linear.load_state_dict(joined)
    return TaskModel(TrainableBackbone(backbone.module, linear), tasks).eval(), backbone.preprocessing
