"""E1 and R4: extraction in the runtime that mtl chooses against tuned loops of its users.

Both sides begin with a module that has its weights, export it where they need to, and end with the embeddings on the
disk. Ratios are of CPU time, that of the loaders' processes included, and of wall time.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import polars as pl
import torch

from bench.extraction import backbone, fresh, run
from bench.made_faces import FACES, SIZE_PX, WORK, made_faces
from bench.measure import Row, Target, interleave, ratios, seconds_left
from bench.rival_extraction import BATCH, Model, of_compiler, of_onnxruntime, of_torch, tuned_loop
from bench.rivals import usual_loop, usual_model
from bench.trials import kept_nowhere_else
from cache.cores import num_cores
from extract.backbones.build import Backbone
from extract.backbones.calibration import choose_runtime
from extract.backbones.passes import fast_precision
from extract.backbones.runtime import Runtime, release

NUM_FACES, TUNED_FACES, FEWEST_FACES = 1536, 256, 384
MANY = 100_000  # faces for which the runtime is chosen: of a run of ten minutes
ROUNDS_AT_MOST = 7  # one that is not counted, five, and what choosing and tuning take
TARGET, MTL = Target(1.3), "mtl"


class Used(NamedTuple):
    """Of one run: wall time, and CPU time of this process and its children."""

    wall_s: float
    cpu_s: float


class Meter:
    """Runs actions by name and keeps what each run used."""

    def __init__(self) -> None:
        self.used: dict[str, list[Used]] = {}

    def action(self, name: str, action: Callable[[], object]) -> Callable[[], None]:
        def metered() -> None:
            self.used.setdefault(name, []).append(_used(action))

        return metered

    def ratios(self, above: str, below: str, clock: str) -> list[float]:
        """Round by round, but for the first, which warms up."""
        one, other = ([getattr(each, clock) for each in self.used[name][1:]] for name in (above, below))
        return ratios(one, other)


def against_tuned_loops(device: torch.device) -> Iterator[Row]:
    """E1: the best of the loops that a user would write ÷ extraction."""
    chosen, (module, transform) = backbone(device), usual_model(backbone(device).config.model, SIZE_PX, device)
    runtime = _chosen(device)
    precision = fast_precision(device)
    models: dict[str, Callable[[], Model]] = {
        "ONNX Runtime": partial(of_onnxruntime, module, SIZE_PX, torch.get_num_threads()),
        f"timm in {precision}": partial(of_torch, module, precision),
    }
    workers = _tuned_workers(models["ONNX Runtime"])
    paths = made_faces(NUM_FACES)["path"].to_list()
    each_s = sum(_used(partial(_loop, make, paths[:TUNED_FACES], workers)).wall_s for make in models.values())
    count = _affordable(2 * each_s / TUNED_FACES)
    frames, meter = made_faces(count), Meter()
    actions = {name: partial(_loop, make, paths[:count], workers) for name, make in models.items()}
    actions["Pillow and timm"] = partial(usual_loop, module, transform, FACES, frames, WORK / "usual.npy", device)
    actions[MTL] = partial(_extraction, frames, chosen, device, runtime)
    interleave({name: meter.action(name, action) for name, action in actions.items()})
    best = min(actions.keys() - {MTL}, key=lambda name: min(used.cpu_s for used in meter.used[name]))
    note = f"{chosen.config.model} at {SIZE_PX} px, mtl in {runtime}, {count:,} faces, {workers} workers"
    what, values = f"best loop ({best}) ÷ extraction, CPU time", meter.ratios(best, MTL, "cpu_s")
    yield Row(id="E1", what=what, values=values, target=TARGET, note=note)
    yield Row(id="E1w", what="the same, wall time", values=meter.ratios(best, MTL, "wall_s"))
    for row, name in zip(("E1o", "E1t", "E1u"), actions, strict=False):
        yield Row(id=row, what=f"loop with {name} ÷ extraction, CPU time", values=meter.ratios(name, MTL, "cpu_s"))


def against_compiled(device: torch.device) -> Iterator[Row]:
    """R4: a loop with torch.compile, which is compiled beforehand, ÷ extraction."""
    chosen, (module, _) = backbone(device), usual_model(backbone(device).config.model, SIZE_PX, device)
    runtime, precision, frames, meter = _chosen(device), fast_precision(device), made_faces(NUM_FACES), Meter()
    compiled, paths = of_compiler(module, precision), frames["path"].to_list()
    actions = {
        "compiled": partial(_loop, lambda: compiled, paths, num_cores()),
        MTL: partial(_extraction, frames, chosen, device, runtime),
    }
    interleave({name: meter.action(name, action) for name, action in actions.items()})
    note = f"{chosen.config.model} at {SIZE_PX} px, {precision}, mtl in {runtime}, {NUM_FACES:,} faces"
    what, values = "loop with torch.compile ÷ extraction, CPU time", meter.ratios("compiled", MTL, "cpu_s")
    yield Row(id="R4", what=what, values=values, note=note)
    yield Row(id="R4w", what="the same, wall time", values=meter.ratios("compiled", MTL, "wall_s"))


def _chosen(device: torch.device) -> Runtime:
    """What mtl chooses for a long run, by a trial of its own; nothing made ready stays."""
    with kept_nowhere_else():
        runtime, _ = choose_runtime(backbone(device), MANY, BATCH, device)
    release(device)
    return runtime


def _tuned_workers(make: Callable[[], Model]) -> int:
    """The number of the loader's processes that is fastest on this machine."""
    paths = made_faces(TUNED_FACES)["path"].to_list()
    costs = {count: _used(partial(_loop, make, paths, count)).wall_s for count in {0, 1, num_cores()}}
    return min(costs, key=lambda count: costs[count])


def _loop(make: Callable[[], Model], paths: list[str], num_workers: int) -> None:
    tuned_loop(make(), FACES, paths, WORK / "tuned.npy", num_workers)


def _extraction(frames: pl.DataFrame, chosen: Backbone, device: torch.device, runtime: Runtime) -> None:
    run(frames, fresh("rival"), [chosen], device, precision=runtime.precision, runtime=runtime.mode)


def _affordable(face_s: float) -> int:
    """As many faces as the time left allows, a multiple of a batch."""
    fitting = int(min(NUM_FACES, seconds_left() / (face_s * ROUNDS_AT_MOST)))
    return max(FEWEST_FACES, fitting // BATCH * BATCH)


def _used(action: Callable[[], object]) -> Used:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    action()
    return Used(time.perf_counter() - wall, sum(os.times()[:4]) - cpu)


ROWS: Mapping[str, Callable[[torch.device], Iterator[Row]]] = {
    "E1": against_tuned_loops,
    "R4": against_compiled,
}
ON_CUDA = ()
