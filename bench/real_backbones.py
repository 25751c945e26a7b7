"""Backbones fine-tuned on real labelled stills against their frozen selves, and pretraining against none.

    python bench/real_backbones.py DATA [--work FOLDER] [--seeds 0,1] [--only frozen,tuned,mae]

DATA holds `stills/fer2013/CLASS/*.jpg` (faces labelled by people), `talking/cropped_aligned/` (unlabelled here) and
`weights/`. 60 % of the stills train, 10 % select, 30 % are held out, drawn for each seed; no still is in two parts.

frozen  ImageNet embeddings (`mtl extract`), logistic regression on them, its strength chosen on the 10 %
tuned   the same weights, `mtl finetune`, scored by its own outputs
mae     a small ViT from `mtl pretrain` on talking/ and the training stills, fine-tuned, against one from random weights
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.real_faces import BACKBONES, mtl, section
from cache.frames import conform, write_frames
from cache.names import EXPRESSIONS
from cache.store import Cache

CLASSES = {
    "neutral": "Neutral",
    "angry": "Anger",
    "disgust": "Disgust",
    "fear": "Fear",
    "happy": "Happiness",
    "sad": "Sadness",
    "surprise": "Surprise",
}
PARTS = (("train", 0.6), ("val", 0.1), ("test", 0.3))
SIZE_PX = 112
TUNE = {
    "epochs": 12,
    "patience": 12,
    "batch_size": 64,
    "lr": 1e-3,
    "warmup_epochs": 1.0,
    "layer_decay": 0.8,
    "ema": 0.99,
    "balance": "labels",
    "erase": 0.25,
    "rand_augment": "rand-m5-n1-mstd0.5-inc1",
    "mixup": 0.2,
}
# A ViT that knows little wants less of everything: with the recipe above neither of the two learned anything.
VIT = "vit_tiny_patch16_224"
VIT_TUNE = {"epochs": 6, "patience": 6, "batch_size": 64, "lr": 3e-4, "warmup_epochs": 1.0}
PRETRAIN = {
    "epochs": 12,
    "warmup_epochs": 1,
    "batch_size": 128,
    "base_lr": 6e-4,
    "size_px": SIZE_PX,
    "decoder_width": 128,
    "decoder_depth": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("bench/work/real_backbones"))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="frozen,tuned,mae")
    arguments = parser.parse_args()
    for seed in map(int, arguments.seeds.split(",")):
        for line in run(arguments.data.resolve(), arguments.work / str(seed), seed, arguments.only.split(",")):
            print(line, flush=True)


def run(data: Path, work: Path, seed: int, kinds: list[str]) -> Iterator[str]:
    """Runs the commands in `work`; yields a line a result: accuracy and macro F1 over the classes of the stills."""
    work.mkdir(parents=True, exist_ok=True)
    frames = split_stills(data / "stills" / "fer2013", seed)
    write_frames(frames, work / "frames.parquet")
    mtl(["init", "--faces", str(data / "stills" / "fer2013"), "--force"], work)
    with (work / "mtl.toml").open("a") as file:
        for name, model in BACKBONES.items():
            file.write(section(name, data / "weights" / f"{model}.imagenet.safetensors", SIZE_PX))
    if "frozen" in kinds:
        mtl(["extract", "--backbone", ",".join(BACKBONES)], work)
        for name in BACKBONES:
            yield scored(f"{seed} {name} frozen, logistic regression", frames, logistic(work, name, frames))
    for name, model in BACKBONES.items() if "tuned" in kinds else ():
        weights = str(data / "weights" / f"{model}.imagenet.safetensors")
        yield tune(work, f"{name}-tuned", model, weights, TUNE, frames, seed)
    if "mae" in kinds:
        yield from pretrained_or_not(data, work, frames, seed)


def split_stills(folder: Path, seed: int) -> pl.DataFrame:
    """The frames table: every still a video of its own, each class cut into the parts at random."""
    rng, rows = np.random.default_rng(seed), []
    for name, expression in CLASSES.items():
        paths = sorted(folder.glob(f"{name}/*.jpg"))
        bounds = np.cumsum([round(share * len(paths)) for _, share in PARTS[:-1]])
        for (part, _), chosen in zip(PARTS, np.split(rng.permutation(len(paths)), bounds), strict=True):
            for index in chosen:
                path = paths[index]
                rows.append((f"{name}/{path.stem}", 1, f"{name}/{path.name}", part, EXPRESSIONS.index(expression)))
    table = pl.DataFrame(rows, schema=["video", "frame", "path", "split", "expression"], orient="row")
    return conform(table, "the stills").sort("video", "frame")


def logistic(work: Path, name: str, frames: pl.DataFrame) -> np.ndarray:
    """Classes predicted of the test rows from frozen embeddings."""
    x, y, part = embeddings(work, name), frames["expression"].to_numpy(), frames["split"].to_numpy()
    best, best_score = None, -1.0
    for strength in (1e-4, 1e-3, 1e-2, 1e-1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        model.fit(x[part == "train"], y[part == "train"])
        score = accuracy_score(y[part == "val"], model.predict(x[part == "val"]))
        best, best_score = (model, score) if score > best_score else (best, best_score)
    assert best is not None
    return best.predict(x[part == "test"])


def embeddings(work: Path, name: str) -> np.ndarray:
    return Cache.open(work / "cache.zarr", read_only=True).stream(name, "base").read().astype(np.float32)


def tune(
    work: Path, name: str, model: str, init: str, recipe: dict[str, object], frames: pl.DataFrame, seed: int
) -> str:
    """Fine-tunes, extracts and scores with the trained outputs."""
    start = time.perf_counter()
    words = [f"--set=finetune.{key}={value}" for key, value in {"size_px": SIZE_PX, "seed": seed, **recipe}.items()]
    mtl(["finetune", "--task", "expr", "--model", model, "--init", init, "--name", name, *words], work)
    took = time.perf_counter() - start
    mtl(["extract", "--backbone", name], work)
    outputs = load_file(work / "backbones" / f"{name}.output.safetensors")
    logits = embeddings(work, name) @ outputs["expr.weight"].T + outputs["expr.bias"]
    predicted = logits[(frames["split"] == "test").to_numpy()].argmax(axis=1)
    return scored(f"{seed} {name} {took:.0f} s", frames, predicted)


def pretrained_or_not(data: Path, work: Path, frames: pl.DataFrame, seed: int) -> Iterator[str]:
    """A ViT fine-tuned from a masked autoencoder, and one from random weights: the same recipe, but for the decay of
    rates towards the pixels, which is for layers that know something."""
    faces = work / "unlabelled"
    if not faces.exists():
        shutil.copytree(data / "talking" / "cropped_aligned", faces / "talking")
        for path in frames.filter(pl.col("split") == "train")["path"]:
            (faces / "stills" / Path(path).stem).mkdir(parents=True)
            shutil.copy(data / "stills" / "fer2013" / path, faces / "stills" / Path(path).stem / "1.jpg")
    start = time.perf_counter()
    words = [f"--set=pretrain.{key}={value}" for key, value in {**PRETRAIN, "seed": seed}.items()]
    result = json.loads(
        mtl(["pretrain", "--model", VIT, "--name", "mae", "--faces", "unlabelled", "--json", *words], work)
    )
    yield f"{seed} mae pretrained in {time.perf_counter() - start:.0f} s: {result.get('held_out', result)}"
    for name, init, decay in (("vit-mae", "backbones/mae.safetensors", 0.75), ("vit-random", "random", 1.0)):
        yield tune(work, name, VIT, init, VIT_TUNE | {"layer_decay": decay}, frames, seed)


def scored(title: str, frames: pl.DataFrame, predicted: np.ndarray) -> str:
    """A line of the result on the test rows."""
    truth = frames.filter(pl.col("split") == "test")["expression"].to_numpy()
    accuracy, f1 = accuracy_score(truth, predicted), f1_score(truth, predicted, average="macro")
    return f"{title:44} accuracy {accuracy:.4f}  macro F1 {f1:.4f}"


if __name__ == "__main__":
    main()
