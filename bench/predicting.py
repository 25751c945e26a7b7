"""V1 and V2: `mtl predict` on an ordinary video with an EfficientNet-B0 at 112 px, detection included, against the rate
at which the video plays and against its parts by themselves.

The video (640 x 360, one face) and YuNet's weights are real, and not in the repository: they are looked for in the
folder `MTL_REAL_DATA`. The backbone has random weights, which changes no timing. Importing torch and loading the models
are not counted.
"""

import contextlib
import dataclasses
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from bench.made_faces import FACES, WORK, made_faces
from bench.measure import LeftOut, Row, Target, cpus, interleave, ratios, walls
from bench.real_faces import mtl
from cache.frames import conform, write_frames
from cache.names import VA_COLUMNS
from extract.video.finder import FaceFinder
from extract.video.frames import open_video
from pipelines.config import read_config
from pipelines.faces import face_finder
from pipelines.predict.face_model import FaceModel, load_face_model
from pipelines.predict.from_source import Outputs, predict_source
from pipelines.predict.sources import find_source

PLACE = WORK / "predicting"
VIDEO, YUNET = "video/WolfgangLanger_Pexels.mp4", "weights/yunet_n_dynamic.onnx"
PLAYED = 25.0  # frames per second
NUM_FACES = 1024  # that the head is trained on
TOML = f"""\
[data]
faces = "{FACES}"
[cache]
dtype = "float32"
[train]
steps = 20
eval_steps = 10
[backbones.b0]
model = "efficientnet_b0"
weights = "random"
size_px = 112
"""


def predicting(device: torch.device) -> list[Row]:
    """V1, V2: frames/s of a prediction against 25, and against decoding, detection and backbone one after the other."""
    data = Path(os.environ.get("MTL_REAL_DATA", "")).resolve()
    if not (data / VIDEO).is_file() or not (data / YUNET).is_file():
        raise LeftOut(f"MTL_REAL_DATA names no folder with {VIDEO} and {YUNET}")
    model, finder = _prepared(data, device)
    video = data / VIDEO
    with open_video(video) as reader:
        frames = [frame.pixels for frame in reader]
    crops = [finder.crop(each, finder.find(each).points[0]) for each in frames]
    costs = interleave(
        {
            "decode": lambda: _decode(video),
            "detect": lambda: [finder.find(each) for each in frames],
            "backbone": lambda: _embed(model, crops),
            "predict": lambda: _predict(model, finder, video),
        }
    )
    alone = [costs[name] for name in ("decode", "detect", "backbone")]
    bound = [sum(parts) for parts in zip(*map(walls, alone), strict=True)]
    busy = [sum(parts) for parts in zip(*map(cpus, alone), strict=True)]
    total, used = walls(costs["predict"]), cpus(costs["predict"])
    rates = {name: len(frames) / float(np.median(walls(each))) for name, each in costs.items()}
    note, name = ", ".join(f"{part} {rate:.0f}" for part, rate in rates.items()) + " frames/s", device.type
    played = [len(frames) / seconds / PLAYED for seconds in total]
    least = {"cpu": 2, "cuda": 20}[name]
    rows = [Row(id="V1", what="video to predictions, frames/s ÷ 25", values=played, target=Target(least), note=note)]
    if name == "cpu":
        what = "the same ÷ 1/(1/decode + 1/detect + 1/backbone)"
        rows.append(Row(id="V2", what=what, values=ratios(bound, total), target=Target(0.9)))
        rows.append(
            Row(id="V2c", what="the same in CPU time, which other work disturbs less", values=ratios(busy, used))
        )
    return [dataclasses.replace(row, device=name) for row in rows]


def _prepared(data: Path, device: torch.device) -> tuple[FaceModel, FaceFinder]:
    """A head on the embeddings of made faces with random labels, trained once, and the detector."""
    run = PLACE / "runs" / "gru"
    if not (run / "run.json").is_file():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        write_frames(_labelled(made_faces(NUM_FACES)), PLACE / "frames.parquet")
        (PLACE / "mtl.toml").write_text(TOML)
        mtl(["extract", "--precision", "float32", "--runtime", "eager"], PLACE)
        mtl(["train-head", "--name", "gru", "--temporal", "gru", "--tasks", "va"], PLACE)
    config = read_config(PLACE / "mtl.toml", [f'faces.detector="yunet:{data / YUNET}"'])
    return load_face_model(run, config, device), face_finder(config)


def _labelled(frames: pl.DataFrame) -> pl.DataFrame:
    """The made faces with random valence and arousal; the first half trains, the rest chooses and reports."""
    rng = np.random.default_rng(0)
    splits = np.repeat(["train", "train", "val", "test"], len(frames) // 4)
    labels = {name: rng.uniform(-1, 1, len(frames)) for name in VA_COLUMNS}
    return conform(
        frames.with_columns(pl.Series("split", splits), *(pl.Series(n, v) for n, v in labels.items())), "made"
    )


def _decode(video: Path) -> None:
    with open_video(video) as reader:
        for _ in reader:
            pass


def _embed(model: FaceModel, crops: Sequence[np.ndarray]) -> None:
    for start in range(0, len(crops), model.batch_size):
        part = crops[start : start + model.batch_size]
        model.embed(part, ["video"] * len(part))


def _predict(model: FaceModel, finder: FaceFinder, video: Path) -> None:
    source = find_source(video, None, Path())
    config = read_config(PLACE / "mtl.toml")
    with contextlib.redirect_stderr(io.StringIO()):  # its lines of progress
        predict_source(model, source, config, Outputs(table=PLACE / "out.parquet", force=True), finder)


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"V1": predicting, "V2": predicting}
ON_CUDA = ("V1",)
