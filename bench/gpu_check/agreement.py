"""The same numbers on the GPU as on the CPU: resized faces, embeddings in float32, dropout, losses and predictions.

Letters: B faces, S side of the input in pixels, M stacked heads.
"""

import dataclasses
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.gpu_check.data import made_videos
from bench.gpu_check.embedding import backbone_of
from bench.gpu_check.graphs import CASES, SEEDS, SMALL, TAUGHT, Uncaptured, stack_of
from bench.gpu_check.sizes import TINY, TINY_CONV, Sizes
from bench.measure import Row, Target
from extract.backbones.resize import batch_resizer
from extract.backbones.runtime import Runtime, embedder, steady
from extract.config import Preprocessing
from heads.layers import DropoutRng
from pipelines.config import Config
from pipelines.training.dataset import Dataset

CPU = torch.device("cpu")
SIDES = ((112, 224), (260, 224), (300, 112))  # of faces in files, and S
LEVELS, EMBEDDINGS, NOISE, HEADS = (Target(bound, at_most=True) for bound in (2, 1e-4, 1e-5, 1e-3))


def as_on_cpu(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """AG: greatest differences from the CPU; of heads a row per piece, after `graph_steps` steps."""
    faces = torch.randint(0, 256, (8, 320, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    levels = [_levels(faces[:, :old, :old], new, device) for old, new in SIDES]
    what, note = "resized faces on the device, levels", f"{len(SIDES)} sizes, the greatest of each"
    yield Row(id="AG faces", what=what, values=levels, target=LEVELS, device=device.type, note=note)
    errors = [
        _embedding_error(model, faces[:, : model.size_px, : model.size_px], device) for model in (TINY, TINY_CONV)
    ]
    what, note = "embeddings in float32, relative error", f"{TINY.name} and {TINY_CONV.name}"
    yield Row(id="AG embeddings", what=what, values=errors, target=EMBEDDINGS, device=device.type, note=note)
    masks, noise = _noise_errors(device)
    yield Row(
        id="AG dropout",
        what="dropout masks that differ",
        values=[masks],
        target=Target(0, at_most=True),
        device=device.type,
    )
    what = "noise of the latent, greatest difference"
    yield Row(id="AG noise", what=what, values=[noise], target=NOISE, device=device.type)
    small = dataclasses.replace(sizes, videos=10, video_frames=60, stream_width=48)
    here, there = (made_videos(small, each, ("base", "hflip")) for each in (CPU, device))
    found = {}
    for name, values in CASES.items():
        if values.get("precision", "float32") == "float32":
            found[name] = _head_error(here, there, name, values, sizes.graph_steps)
            what, note = "losses and predictions of heads, greatest difference", f"{name}, M = {len(SEEDS)}"
            yield Row(id=f"AG {name}", what=what, values=[found[name]], target=HEADS, device=device.type, note=note)
    what = f"greatest difference of {len(found)} pieces"
    yield Row(id="AG", what=what, values=[max(found.values())], target=HEADS, device=device.type)


def _levels(faces: Tensor, side: int, device: torch.device) -> float:
    preprocessing = Preprocessing(size_px=side, mean=(0.5,) * 3, std=(0.5,) * 3)
    resizer = batch_resizer(preprocessing)
    assert resizer is not None
    faces = faces.contiguous()
    return float((resizer(faces).int() - resizer(faces.to(device)).cpu().int()).abs().max())


def _embedding_error(model: Any, faces: Tensor, device: torch.device) -> float:
    found = []
    for where in (CPU, device):
        with steady(where):
            embed = embedder(backbone_of(model), Runtime(precision="float32"), where, len(faces))
            found.append(embed(faces.contiguous().to(where)).double().cpu())
    return float((found[1] - found[0]).norm() / found[0].norm())


def _noise_errors(device: torch.device) -> tuple[float, float]:
    masks, noises = [], []
    for where in (CPU, device):
        rng = DropoutRng([0, 1, 7], [0.1, 0.5, 0.0])
        layer = rng.layer_id()
        rng.to(where)
        rng.advance()
        masks.append(rng.mask(layer, 16, 64).cpu())
        noises.append(rng.normal(layer, 8, 16, 32).cpu())
    return float((masks[0] != masks[1]).sum()), float((noises[0] - noises[1]).abs().max())


def _head_error(
    here: tuple[Config, Dataset], there: tuple[Config, Dataset], name: str, values: Mapping[str, Any], num_steps: int
) -> float:
    stacks = [stack_of(*made, {**SMALL, **values}, taught=name == TAUGHT) for made in (here, there)]
    for stack in stacks:
        stack.step.graphs = Uncaptured()
    error = 0.0
    for number in range(1, num_steps + 1):
        for mine, theirs in zip(*(stack.run_until(number) for stack in stacks), strict=True):
            error = max(error, *(abs(mine[key] - value) / max(abs(value), 1) for key, value in theirs.items()))
    for mine, theirs in zip(*(stack.predict() for stack in stacks), strict=True):
        for key, value in theirs.probabilities.parts.items():
            error = max(error, float(np.abs(mine.probabilities.parts[key] - value).max()))
    del stacks
    gc.collect()
    return error if error == error else float("inf")
