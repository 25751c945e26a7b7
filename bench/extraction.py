"""A1, A4, A6, A7, A8 and R1: extraction from JPEG files to durable Zarr against the parts it cannot do without.

The backbones have random weights, which changes no timing. Letters: B faces, S side of the input in pixels.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.made_faces import FACES, SIZE_PX, WORK, made_faces
from bench.measure import ROUNDS, Row, Target, cpus, interleave, ratios, walls
from bench.rivals import usual_loop, usual_model
from cache.store import Cache
from extract.backbones.build import Backbone, load_backbone
from extract.backbones.runtime import Runtime, embedder, release, steady
from extract.config import BackboneConfig
from extract.engine import NUM_SLOTS, Hooks, default_batch_size, default_num_threads, extract
from extract.faces.decoding import decode, read_face_bytes
from extract.faces.source import FaceSource
from extract.jobs import Settings
from extract.loading import Batch, FaceLoader
from extract.report import Report

MODELS = {"cpu": "efficientnet_b0", "cuda": "vit_base_patch16_224"}
NUM_FACES = {"cpu": 1536, "cuda": 65_536}
LIGHT_MODEL, NUM_TOGETHER = "mobilenetv3_small_050", 3  # A8
SHARD_ROWS = 64  # a 24th of the faces, as mtl.toml's 4,096 are of 98,000: what a kill may lose
KILLED_AT = (0.31, 0.43, 0.52, 0.64, 0.77)
RUNTIME = Runtime(precision="bfloat16", mode="eager")


def end_to_end(device: torch.device) -> list[Row]:
    """A1: faces/s of an extraction against those of its backbone and its decoding, each by itself."""
    frames, chosen = made_faces(NUM_FACES[device.type]), backbone(device)
    costs = interleave(
        {
            "backbone": lambda: _bare_backbone(chosen, len(frames), device),
            "decode": lambda: _bare_decode(frames, default_num_threads()),
            "extract": lambda: run(frames, fresh("end_to_end"), [chosen], device),
        }
    )
    total, together, target = walls(costs["extract"]), sum, Target(0.93)
    bare = list(zip(walls(costs["backbone"]), walls(costs["decode"]), strict=True))
    if device.type == "cuda":  # there the two overlap
        together, target = max, Target(0.97 if all(a > b for a, b in bare) else 0.92)
    bound = [together(pair) for pair in bare]
    busy = [sum(pair) for pair in zip(cpus(costs["backbone"]), cpus(costs["decode"]), strict=True)]
    what, model = "extraction, faces/s ÷ bound", f"{chosen.config.model}, {RUNTIME}"
    rows = [Row(id="A1", what=what, values=ratios(bound, total), target=target, device=device.type, note=model)]
    if device.type == "cpu":
        used = ratios(busy, cpus(costs["extract"]))
        rows.append(Row(id="A1c", what="the same in CPU time, which other work disturbs less", values=used))
    return rows


def loading(device: torch.device) -> list[Row]:
    """A4: CPU time of the engine's loader against reading and decoding in a plain loop, and decoding alone."""
    frames, chosen = made_faces(2048), backbone(device)
    data = [read_face_bytes(FACES, path) for path in frames["path"]]
    costs = interleave(
        {
            "files": lambda: _bare_decode(frames, 1),
            "memory": lambda: _decode_all(data),
            "loader": lambda: _load_all(frames, chosen),
        },
        rounds=9,
    )
    used, target = cpus(costs["loader"]), Target(1.25, at_most=True)
    files, memory = ratios(used, cpus(costs["files"])), ratios(used, cpus(costs["memory"]))
    return [
        Row(id="A4", what="loader ÷ bare read + decode, CPU time", values=files, target=target),
        Row(id="A4m", what="loader ÷ decode of bytes in memory", values=memory, note="no files in the rival"),
    ]


def resuming(device: torch.device) -> list[Row]:
    """A6, A7: going on after a kill at a fraction of the faces, and the same command again, against a full run."""
    frames, chosen = made_faces(NUM_FACES[device.type]), backbone(device)
    run(frames, fresh("full"), [chosen], device)
    strict, durable, again = [], [], []
    for fraction in (KILLED_AT * ROUNDS)[:ROUNDS]:
        full = run(frames, fresh("full"), [chosen], device).seconds
        again.append(run(frames, WORK / "full.zarr", [chosen], device).seconds / full)
        killed = fresh("killed")
        death = int(fraction * len(frames))
        _kill_at(killed, death, len(frames), device)
        rest = run(frames, killed, [chosen], device)
        assert rest.num_skipped, "the child got no shard done"
        _require_same(WORK / "full.zarr", killed)
        done = -(-death // default_batch_size(device)) * default_batch_size(device) / len(frames)
        strict.append(rest.seconds / full / (1 - done))
        durable.append(rest.seconds / full / (rest.num_done / len(frames)))
    resumed, repeated = Target(1.03, at_most=True), Target(0.01, at_most=True)
    name, note = device.type, "bytes identical; of a full run's seconds"
    return [
        Row(id="A6", what="resume ÷ the faces not done", values=strict, target=resumed, device=name, note=note),
        Row(id="A6d", what="resume ÷ the faces not in a whole shard", values=durable, device=name),
        Row(id="A7", what="same command again ÷ full run", values=again, target=repeated, device=name),
    ]


def together(device: torch.device) -> list[Row]:
    """A8: light backbones in one pass over the faces against a pass each."""
    frames = made_faces(NUM_FACES[device.type])
    light = [backbone(device, LIGHT_MODEL, f"light{seed}", seed) for seed in range(NUM_TOGETHER)]

    def apart() -> None:
        path = fresh("apart")
        for each in light:
            run(frames, path, [each], device)

    costs = interleave({"one": lambda: run(frames, fresh("one_pass"), light, device), "apart": apart})
    target = Target(0.9 if device.type == "cpu" else 0.8, at_most=True)
    share, note = ratios(walls(costs["one"]), walls(costs["apart"])), f"{LIGHT_MODEL} at {SIZE_PX} px"
    what = f"{NUM_TOGETHER} backbones in one pass ÷ {NUM_TOGETHER} passes"
    return [Row(id="A8", what=what, values=share, target=target, device=device.type, note=note)]


def against_usual_loop(device: torch.device) -> list[Row]:
    """R1: how many times as fast as Dataset + DataLoader + timm; in the precision mtl chooses, and in the loop's."""
    frames, chosen = made_faces(NUM_FACES[device.type] // 3), backbone(device)
    model, transform = usual_model(chosen.config.model, SIZE_PX, device)
    costs = interleave(
        {
            "usual": lambda: usual_loop(model, transform, FACES, frames, WORK / "usual.npy", device),
            "bfloat16": lambda: run(frames, fresh("rival"), [chosen], device),
            "float32": lambda: run(frames, fresh("rival"), [chosen], device, precision="float32"),
        }
    )
    usual, what = walls(costs["usual"]), "Dataset + DataLoader + timm loop ÷ extraction"
    mixed, plain = ratios(usual, walls(costs["bfloat16"])), ratios(usual, walls(costs["float32"]))
    note = f"{chosen.config.model}; loop in float32"
    return [
        Row(id="R1", what=what, values=mixed, device=device.type, note=f"{note}, mtl in bfloat16"),
        Row(id="R1f", what=what, values=plain, device=device.type, note=f"{note}, mtl too"),
    ]


def backbone(device: torch.device, model: str = "", name: str = "bare", seed: int = 0) -> Backbone:
    """A timm model with random weights for faces that need no resizing."""
    model = model or MODELS[device.type]
    config = BackboneConfig(model=model, weights="random", seed=seed, size_px=SIZE_PX, crop_pct=1.0)
    return load_backbone(name, config, Path())


def run(
    frames: pl.DataFrame,
    cache: Path,
    backbones: Sequence[Backbone],
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
    **options: Any,
) -> Report:
    """An extraction with the settings of `mtl extract`, but for small shards and a runtime that is given."""
    settings = {
        "device": device,
        "batch_size": default_batch_size(device),
        "num_threads": default_num_threads(),
        "shard_rows": SHARD_ROWS if device.type == "cpu" else 4096,
        "precision": RUNTIME.precision,
        "runtime": RUNTIME.mode,
    }
    opened = Cache.open(cache, create=True)
    return extract(frames, FACES, opened, backbones, Settings(**(settings | options)), Hooks(advance=advance))


def fresh(name: str) -> Path:
    """The path of a cache that is not there."""
    path = WORK / f"{name}.zarr"
    shutil.rmtree(path, ignore_errors=True)
    return path


def _bare_backbone(chosen: Backbone, num_faces: int, device: torch.device) -> None:
    """As many forward passes as the faces need, always of the same batch, which is on the device."""
    size = default_batch_size(device)
    faces = torch.zeros(size, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8, device=device).random_(0, 256)
    with steady(device):
        embed = embedder(chosen, RUNTIME, device, size)
        for _ in range(num_faces // size):
            last = embed(faces)
        last.cpu()
    release(device)


def _bare_decode(frames: pl.DataFrame, num_threads: int) -> None:
    """Reads and decodes the files, nothing else, shared evenly among threads."""
    paths = frames["path"].to_list()

    def part(first: int) -> None:
        out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
        for path in paths[first::num_threads]:
            decode(read_face_bytes(FACES, path), out=out)

    if num_threads == 1:
        part(0)
        return
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(part, range(num_threads)))


def _decode_all(data: Sequence[bytes]) -> None:
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    for each in data:
        decode(each, out=out)


def _load_all(frames: pl.DataFrame, chosen: Backbone) -> None:
    """The faces through the engine's loader: digests, threads and the ring of buffers as in an extraction."""
    size, inputs = default_batch_size(torch.device("cpu")), (chosen.preprocessing,)
    source = FaceSource(FACES)
    loader = FaceLoader(
        source,
        frames["path"],
        (),
        inputs,
        native_size=(SIZE_PX, SIZE_PX),
        batch_size=size,
        num_threads=default_num_threads(),
        num_slots=NUM_SLOTS,
        pin_memory=False,
    )
    batches = (
        Batch(shard=0, start=i, stop=min(i + size, len(frames)), inputs=inputs) for i in range(0, len(frames), size)
    )
    try:
        for _, slot in loader.load(batches):
            assert not slot.failed
            loader.release(slot)
    finally:
        loader.close()
        source.close()


def _kill_at(cache: Path, death: int, num_faces: int, device: torch.device) -> None:
    """An extraction into `cache` by a child that is killed once `death` faces are done."""
    command = [sys.executable, "-m", "bench.killed", str(cache), str(death), str(num_faces), device.type]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != -9:
        raise RuntimeError(f"the child was to be killed but ended with {done.returncode}: {done.stderr}")


def _require_same(left: Path, right: Path) -> None:
    """Every file, locks aside, byte for byte."""

    def files(root: Path) -> dict[str, bytes]:
        paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    one, other = files(left), files(right)
    if one != other:
        odd = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        raise RuntimeError(f"resumed bytes differ from an undisturbed run's: {', '.join(odd[:5])}")


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {
    "A1": end_to_end,
    "A4": loading,
    "A6": resuming,
    "A7": resuming,
    "A8": together,
    "R1": against_usual_loop,
}
ON_CUDA = ("A1", "A6", "A7", "A8", "R1")
