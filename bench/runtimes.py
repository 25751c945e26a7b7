"""A2 and A3: what the runtime that mtl chooses makes of a backbone, on faces that are on the device already.

A2 sets its floating-point operations against those of one large matrix product, A3 its speed on a CPU against the loop
that everyone writes: the model as timm makes it, float32, eager. How much faster it can be is the processor's doing, so
A3's target is a share of a bound that is measured in the same rounds. Random weights, which changes no timing.
Letters: B faces, S side of the input in pixels.
"""

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import Row, Target, cpus, interleave, ratios, seconds_left, shares, walls
from bench.rivals import usual_model
from bench.trials import kept_nowhere_else
from extract.backbones.build import Backbone, load_backbone
from extract.backbones.calibration import choose_runtime
from extract.backbones.passes import DTYPES, fast_precision
from extract.backbones.runtime import Embedder, Runtime, embedder, release, steady
from extract.config import BackboneConfig

NUM_FACES = 1_000_000  # so many that every mode is tried; within a time limit as many as leave out compiling
MATRIX = {"cpu": 2048, "cuda": 8192}


class Case(NamedTuple):
    """A model at S px, `batch` faces at a time, the least ratio that is good enough (of A3 the least share of its
    bound), and the faces of a run that is too short for compiling."""

    id: str
    model: str
    size_px: int
    batch: int
    target: float
    few: int = 5_000


AGAINST_EAGER = (
    Case("A3", "vit_base_patch16_224", 224, 8, 0.78),
    Case("A3e", "efficientnet_b0", 112, 64, 0.55, 50_000),
)
NUM_PRODUCTS: Mapping[str, int] = {"float32": 2, "bfloat16": 4}  # a third of a second of each
AGAINST_MATMUL = {
    "cpu": (Case("A2", "vit_base_patch16_224", 224, 8, 0.72),),
    "cuda": (
        Case("A2", "vit_large_patch16_224", 224, 256, 0.60),
        Case("A2b", "vit_base_patch16_224", 224, 256, 0.52),
        Case("A2c", "convnext_base", 224, 256, 0.38),
    ),
}


def against_matmul(device: torch.device) -> list[Row]:
    """A2: FLOP/s of the backbone in its chosen runtime ÷ FLOP/s of a matrix product in the same precision."""
    rows = []
    for case in AGAINST_MATMUL[device.type]:
        embed, runtime = _chosen(case, device)
        faces, side = _faces(case, device), MATRIX[device.type]
        left, right = (torch.randn(side, side, device=device).to(DTYPES[runtime.precision]) for _ in range(2))
        work = _flop(case) * case.batch
        repeats = max(1, round(work / (2 * side**3)))
        costs = interleave(
            {
                "backbone": _steadily(partial(embed, faces), device),
                "matmul": _steadily(partial(_products, left, right, repeats), device),
            }
        )
        share = work / (2 * side**3 * repeats)
        clock = cpus if device.type == "cpu" else walls
        values = [share * ratio for ratio in ratios(clock(costs["matmul"]), clock(costs["backbone"]))]
        what, note = "backbone FLOP/s ÷ matmul FLOP/s", f"{case.model}, {runtime}"
        rows.append(
            Row(id=case.id, what=what, values=values, target=Target(case.target), device=device.type, note=note)
        )
    return rows


def against_eager(device: torch.device) -> Iterator[Row]:
    """A3: faces/s of the chosen runtime ÷ those of the plain loop in float32, in CPU time and in wall time.

    The bound is what a lower precision gains in a matrix product; where the chosen runtime has float32, the plain
    loop's time ÷ that of the model's operations as matrix products alone.
    """
    precisions = dict.fromkeys(("float32", fast_precision(device)))
    for case in shares(AGAINST_EAGER):
        embed, runtime = _chosen(case, device)
        faces, plain = _faces(case, device), _plain(case, device)
        costs = interleave(
            {
                "plain": partial(plain, faces),
                "chosen": _steadily(partial(embed, faces), device),
                **{each: _square_products(each, device) for each in precisions},
            }
        )
        what = f"{case.model} at {case.size_px} px, chosen ÷ plain fp32 eager"
        used, wall = (ratios(clock(costs["plain"]), clock(costs["chosen"])) for clock in (cpus, walls))
        product_s = {each: [s / NUM_PRODUCTS[each] for s in cpus(costs[each])] for each in precisions}
        bound, words = _bound(case, runtime, cpus(costs["plain"]), product_s)
        note, target = f"{runtime}; {words}", Target(float(f"{case.target * bound:.3g}"))
        yield Row(id=case.id, what=f"{what}, CPU time", values=used, target=target, note=note)
        yield Row(id=f"{case.id}w", what=f"{what}, wall time", values=wall, note=note)


@functools.cache
def _ready(model: str, size_px: int, batch: int, few: int, device: torch.device) -> tuple[Embedder, Runtime]:
    """The backbone in the runtime that mtl would choose for very many faces, by trials of its own."""
    chosen = _backbone(model, size_px)
    with kept_nowhere_else():
        runtime, _ = choose_runtime(chosen, NUM_FACES if seconds_left() == math.inf else few, batch, device)
    with steady(device):
        embed = embedder(chosen, runtime, device, batch)
    release(device)
    return embed, runtime


def _backbone(model: str, size_px: int) -> Backbone:
    config = BackboneConfig(model=model, weights="random", size_px=size_px, crop_pct=1.0)
    return load_backbone("bare", config, Path())


def _chosen(case: Case, device: torch.device) -> tuple[Embedder, Runtime]:
    return _ready(case.model, case.size_px, case.batch, case.few, device)


def _plain(case: Case, device: torch.device) -> Callable[[Tensor], Tensor]:
    """timm's model in the memory order torch gives it, after the usual normalisation."""
    model, _ = usual_model(case.model, case.size_px, device)
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5)

    @torch.inference_mode()
    def run(faces: Tensor) -> Tensor:
        return model(faces.permute(0, 3, 1, 2).contiguous().float().div(255).sub(mean).div(std))

    return run


def _bound(
    case: Case, runtime: Runtime, plain_s: Sequence[float], product_s: Mapping[str, Sequence[float]]
) -> tuple[float, str]:
    """How many times as fast as the plain loop, and in words; by seconds per round, and per product of `MATRIX`."""
    alone = [_flop(case) * case.batch / (2 * MATRIX["cpu"] ** 3) * each for each in product_s[runtime.precision]]
    by_products = statistics.median(ratios(plain_s, alone))
    if runtime.precision == "float32":
        return by_products, f"target {case.target:g} of {by_products:.2f}, its float32 products alone"
    gain = statistics.median(ratios(product_s["float32"], product_s[runtime.precision]))
    return gain, f"target {case.target:g} of {gain:.2f}, {runtime.precision} ÷ float32 in a matrix product"


def _square_products(precision: str, device: torch.device) -> Callable[[], Tensor]:
    side = MATRIX[device.type]
    left, right = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    return _steadily(partial(_products, left, right, NUM_PRODUCTS[precision]), device)


def _products(left: Tensor, right: Tensor, repeats: int) -> Tensor:
    for _ in range(repeats):
        product = left @ right
    return product


def _steadily(action: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """As inside an extraction; waits for the device."""

    def run() -> Tensor:
        with steady(device):
            result = action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    return run


def _faces(case: Case, device: torch.device) -> Tensor:
    shape = case.batch, case.size_px, case.size_px, 3
    return torch.zeros(shape, dtype=torch.uint8, device=device).random_(0, 256)


def _flop(case: Case) -> int:
    """Of one face: a multiplication and an addition count two."""
    module = _backbone(case.model, case.size_px).module
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, case.size_px, case.size_px))
    return counter.get_total_flops()


ROWS: Mapping[str, Callable[[torch.device], Iterable[Row]]] = {"A2": against_matmul, "A3": against_eager}
ON_CUDA = ("A2",)
