"""E2: what trials of runtimes cost, with nothing kept of an earlier run, and with it.

Letters: S side of the input in pixels.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from bench.measure import Row, Target
from extract.backbones.build import Backbone, load_backbone
from extract.backbones.calibration import choose_runtime
from extract.backbones.runtime import Runtime, release
from extract.backbones.trials import LEAST_S, SHARE, Allowance
from extract.config import BackboneConfig
from extract.engine import default_batch_size

LONG = ("mobilenetv2_100", 112, 50_000, 1)  # model, S, faces, backbones: trials may take more than a second
SHORT = ("test_mambaout", 64, 10_167, 3)  # the demo's extraction: they may not
ROUNDS = 3


class Spent(NamedTuple):
    """Seconds of trials; of the run in eager float32, as estimated; and in the runtime `chosen`."""

    trials_s: float
    estimated_s: float
    run_s: float
    chosen: Runtime


def trials(device: torch.device) -> Iterator[Row]:
    """E2: seconds of trials ÷ seconds of the run; of a short run seconds."""
    first, _ = _rounds(SHORT, device)
    what, target = "seconds of trials of a short run", Target(LEAST_S, at_most=True)
    values = [each.trials_s for each in first]
    yield Row(id="E2s", what=what, values=values, target=target, device=device.type, note=_note(SHORT, first))
    first, following = _rounds(LONG, device)
    what = "time of trials ÷ estimated run"
    values, target = [each.trials_s / each.estimated_s for each in first], Target(SHARE, at_most=True)
    yield Row(id="E2", what=what, values=values, target=target, device=device.type, note=_note(LONG, first))
    values = [each.trials_s / each.run_s for each in first]
    yield Row(id="E2c", what="time of trials ÷ run in the chosen runtime", values=values, device=device.type)
    values = [each.trials_s / each.estimated_s for each in following]
    yield Row(id="E2n", what=f"{what}, the next run", values=values, device=device.type)


@contextmanager
def kept_nowhere_else() -> Iterator[None]:
    """Inside, what trials find is kept in a folder of its own, which is empty at first."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def _rounds(case: tuple[str, int, int, int], device: torch.device) -> tuple[list[Spent], list[Spent]]:
    """Of first runs, the first of which imports what it needs, and of the runs that follow them."""
    model, size_px, num_faces, count = case
    backbones = [_backbone(model, size_px, seed) for seed in range(count)]
    first, following = [], []
    for _ in range(ROUNDS):
        with kept_nowhere_else():
            first.append(_spent(backbones, num_faces, device))
            following.append(_spent(backbones, num_faces, device))
    return first, following


def _spent(backbones: Sequence[Backbone], num_faces: int, device: torch.device) -> Spent:
    allowance, estimated_s, run_s = Allowance(), 0.0, 0.0
    for each in backbones:
        chosen, report = choose_runtime(each, num_faces, default_batch_size(device), device, allowance=allowance)
        rates = report["faces_per_s"]
        estimated_s += num_faces / next(iter(rates.values()))
        run_s += num_faces / rates[str(chosen)]
    release(device)
    return Spent(allowance.spent_s, estimated_s, run_s, chosen)


def _note(case: tuple[str, int, int, int], spent: Sequence[Spent]) -> str:
    model, size_px, num_faces, count = case
    last = spent[-1]
    what = f"{count} x {model} at {size_px} px, {num_faces:,} faces"
    return f"{what}: {last.chosen}, {last.run_s:.1f} s in place of {last.estimated_s:.1f}"


def _backbone(model: str, size_px: int, seed: int) -> Backbone:
    config = BackboneConfig(model=model, weights="random", seed=seed, size_px=size_px, crop_pct=1.0)
    return load_backbone("bare", config, Path())


ROWS: Mapping[str, Callable[[torch.device], Iterator[Row]]] = {"E2": trials}
ON_CUDA = ("E2",)
