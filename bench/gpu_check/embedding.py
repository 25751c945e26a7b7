"""A1, A2 and A8 on a GPU: extraction against its parts, backbones against a matrix product, several in one pass.

Random weights and made faces, which change no timing; bfloat16, as mtl chooses on GPUs that have it.
Letters: B faces, S side of the input in pixels.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu_check.data import faces_table, made_faces
from bench.gpu_check.sizes import Model, Sizes
from bench.measure import Row, Target, interleave, ratios, walls
from cache.store import Cache
from extract.backbones.build import Backbone, load_backbone
from extract.backbones.runtime import Embedder, Mode, Runtime, embedder, release, steady
from extract.config import BackboneConfig
from extract.engine import default_num_threads, extract
from extract.faces.decoding import decode, read_face_bytes
from extract.jobs import Settings

SHARD_ROWS = 4096


def against_matmul(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A2: FLOP/s of each backbone, eager or as a graph, ÷ those of a matrix product in bfloat16."""
    left, right = (torch.randn(sizes.matrix, sizes.matrix, device=device).to(torch.bfloat16) for _ in range(2))
    for model in sizes.models:
        backbone = backbone_of(model)
        work = _flop(backbone, model) * sizes.batch_faces
        repeats = max(1, round(work / (2 * sizes.matrix**3)))
        faces = _random_faces(model, sizes, device)
        modes: tuple[Mode, ...] = ("eager", "graph") if device.type == "cuda" else ("eager",)
        actions: dict[str, Callable[[], object]] = {}
        with steady(device):
            for mode in modes:
                embed = embedder(backbone, Runtime(precision="bfloat16", mode=mode), device, sizes.batch_faces)
                actions[mode] = partial(_waited, partial(embed, faces), device)
            actions["matmul"] = partial(_waited, partial(_products, left, right, repeats), device)
            costs = interleave(actions, sizes.rounds)
        share = work / (2 * sizes.matrix**3 * repeats)
        found = {
            mode: [share * ratio for ratio in ratios(walls(costs["matmul"]), walls(costs[mode]))] for mode in modes
        }
        best = max(modes, key=lambda mode: statistics.median(found[mode]))
        per_s = {mode: sizes.batch_faces / statistics.median(walls(costs[mode])) for mode in modes}
        rate = 2 * sizes.matrix**3 * repeats / statistics.median(walls(costs["matmul"])) / 1e12
        speeds = ", ".join(f"{mode} {speed:,.0f} faces/s" for mode, speed in per_s.items())
        release(device)
        yield Row(
            id=f"A2 {model.name}",
            what="backbone FLOP/s ÷ matmul FLOP/s, bfloat16",
            values=found[best],
            target=None if model.matmul_share is None else Target(model.matmul_share),
            device=device.type,
            note=f"{model.name} at {model.size_px} px, {best}; {speeds}; matmul {rate:.2f} TFLOP/s",
        )


def end_to_end(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A1: an extraction from JPEG files to durable Zarr ÷ its bound: the backbone or decoding alone, the slower."""
    for size_px, models in itertools.groupby(sizes.models, key=lambda model: model.size_px):
        with made_faces(sizes, size_px) as folder:
            for model in models:
                yield _end_to_end(model, sizes, device, folder)


def together(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A8: several backbones in one pass over the faces ÷ a pass each."""
    for models in sizes.together:
        with made_faces(sizes, models[0].size_px) as folder, tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
            backbones = [backbone_of(model, f"b{number}", number) for number, model in enumerate(models)]
            speeds = [faces_per_s(model, sizes, device) for model in models]
            count = _whole_batches(sizes.seconds / sum(1 / speed for speed in speeds), sizes)
            table, cache = faces_table(sizes, count), Path(name)

            def apart(table: pl.DataFrame, folder: Path, cache: Path, backbones: Sequence[Backbone]) -> None:
                for each in backbones:
                    run(table, folder, _fresh(cache), [each], sizes, device)

            costs = interleave(
                {
                    "one": lambda: run(table, folder, _fresh(cache), backbones, sizes, device),  # noqa: B023
                    "apart": partial(apart, table, folder, cache, backbones),
                },
                sizes.rounds,
            )
            found = ratios(walls(costs["one"]), walls(costs["apart"]))
            decode_s = _decode_seconds(table, folder, default_num_threads())
            bound = "decoding" if decode_s * max(speeds) > count else "the backbones"
            names = " + ".join(model.name for model in models)
            yield Row(
                id=f"A8 {len(models)}",
                what=f"{len(models)} backbones in one pass ÷ a pass each",
                values=found,
                target=Target(0.8, at_most=True) if bound == "decoding" else None,
                device=device.type,
                note=f"{names} at {models[0].size_px} px, {count:,} faces; bound by {bound}",
            )


def faces_per_s(model: Model, sizes: Sizes, device: torch.device) -> float:
    """Of the backbone alone, on faces that are on the device."""
    backbone, faces = backbone_of(model), _random_faces(model, sizes, device)
    with steady(device):
        embed = embedder(backbone, RUNTIME, device, sizes.batch_faces)
        for _ in range(3):
            _waited(partial(embed, faces), device)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < sizes.seconds / 3 or not count:
            _waited(partial(embed, faces), device)
            count += len(faces)
        speed = count / (time.perf_counter() - begin)
    release(device)
    return speed


def backbone_of(model: Model, name: str = "bare", seed: int = 0) -> Backbone:
    """With random weights, for faces that need no resizing."""
    config = BackboneConfig(model=model.name, weights="random", seed=seed, size_px=model.size_px, crop_pct=1.0)
    return load_backbone(name, config, Path())


def run(
    table: pl.DataFrame, folder: Path, cache: Path, backbones: Sequence[Backbone], sizes: Sizes, device: torch.device
) -> float:
    """Seconds of an extraction into a cache that is not there; all faces must come through."""
    settings = Settings(
        device=device,
        batch_size=sizes.batch_faces,
        num_threads=default_num_threads(),
        shard_rows=SHARD_ROWS,
        precision=RUNTIME.precision,
        runtime=RUNTIME.mode,
    )
    report = extract(table, folder, Cache.open(cache, create=True), backbones, settings)
    assert not report.failed, report.failed[:1]
    assert report.num_done == len(table), report
    return report.seconds


def _end_to_end(model: Model, sizes: Sizes, device: torch.device, folder: Path) -> Row:
    backbone = backbone_of(model)
    count = _whole_batches(faces_per_s(model, sizes, device) * sizes.seconds, sizes)
    table, faces = faces_table(sizes, count), _random_faces(model, sizes, device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name, steady(device):
        embed = embedder(backbone, RUNTIME, device, sizes.batch_faces)
        costs = interleave(
            {
                "backbone": partial(_passes, embed, faces, count // sizes.batch_faces, device),
                "decode": partial(_decode_seconds, table, folder, default_num_threads()),
                "extract": lambda: run(table, folder, _fresh(Path(name)), [backbone], sizes, device),
            },
            max(3, sizes.rounds - 2),
        )
    bare, decoding, total = (walls(costs[key]) for key in ("backbone", "decode", "extract"))
    together = max if device.type == "cuda" else sum  # on a GPU the two overlap
    bound = [together(pair) for pair in zip(bare, decoding, strict=True)]
    by_backbone = statistics.median(bare) > statistics.median(decoding)
    speeds = ", ".join(
        f"{what} {count / statistics.median(each):,.0f}"
        for what, each in (("backbone", bare), ("decoding", decoding), ("extraction", total))
    )
    return Row(
        id=f"A1 {model.name}",
        what="extraction, faces/s ÷ bound",
        values=ratios(bound, total),
        target=Target(0.97 if by_backbone else 0.92) if device.type == "cuda" else Target(0.93),
        device=device.type,
        note=f"{model.name} at {model.size_px} px, {count:,} faces; faces/s: {speeds}",
    )


def _passes(embed: Embedder, faces: Tensor, count: int, device: torch.device) -> None:
    for _ in range(count):
        last = embed(faces)
    last.cpu()


def _decode_seconds(table: pl.DataFrame, folder: Path, num_threads: int) -> float:
    """Reads and decodes the files, nothing else, shared evenly among threads."""
    paths = table["path"].to_list()
    height, width = decode(read_face_bytes(folder, paths[0])).shape[:2]

    def part(first: int) -> None:
        out = np.empty((height, width, 3), np.uint8)
        for path in paths[first::num_threads]:
            decode(read_face_bytes(folder, path), out=out)

    begin = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(part, range(num_threads)))
    return time.perf_counter() - begin


def _fresh(folder: Path) -> Path:
    """The path of a cache that is not there."""
    return Path(tempfile.mkdtemp(dir=folder)) / "cache.zarr"


def _whole_batches(count: float, sizes: Sizes) -> int:
    return max(1, round(count / sizes.batch_faces)) * sizes.batch_faces


def _waited(action: Callable[[], object], device: torch.device) -> None:
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _products(left: Tensor, right: Tensor, repeats: int) -> Tensor:
    for _ in range(repeats):
        product = left @ right
    return product


def _random_faces(model: Model, sizes: Sizes, device: torch.device) -> Tensor:
    shape = sizes.batch_faces, model.size_px, model.size_px, 3
    return torch.zeros(shape, dtype=torch.uint8, device=device).random_(0, 256)


def _flop(backbone: Backbone, model: Model) -> int:
    """Of one face: a multiplication and an addition count two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone.module(torch.zeros(1, 3, model.size_px, model.size_px))
    return counter.get_total_flops()


RUNTIME = Runtime(precision="bfloat16", mode="eager")
