"""E1 and R4: extraction in the runtime that mtl chooses against tuned loops of its users, and against its bound.

Both sides begin with a backbone that is ready to run, as exported or compiled as it has to be, and end with the
embeddings on the disk. Ratios are of CPU time, that of the loaders' processes included, and of wall time.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import NamedTuple

import polars as pl
import torch

from bench.extraction import MODELS, SHARD_ROWS, backbone, fresh
from bench.made_faces import FACES, SIZE_PX, WORK, made_faces
from bench.measure import Row, Target, interleave, ratios, seconds_left
from bench.rival_extraction import BATCH, Model, of_compiler, of_onnxruntime, of_torch, tuned_loop
from bench.rivals import usual_model
from bench.trials import kept_nowhere_else
from cache.cores import num_cores
from cache.store import Cache
from extract.backbones.build import Backbone
from extract.backbones.calibration import choose_runtime
from extract.backbones.passes import fast_precision
from extract.backbones.runtime import Runtime, embedder, release, steady
from extract.engine import Extraction, default_batch_size, default_num_threads
from extract.jobs import Settings

NUM_FACES, TUNED_FACES, FEWEST_FACES = 1536, 128, 192
BATCHES = (BATCH, 16, 8)  # of the loops: what is quickest depends on the caches
MANY = 20_000  # faces for which the runtime is chosen: of a run of a minute or two
ROUNDS_AT_MOST = 7  # one that is not counted, five, and what choosing and tuning take
# Both sides spend their time in the same library, so nobody can be much faster than a loop that uses it well.
TARGET, MTL, ALONE = Target(0.97), "mtl", "the backbone alone"
BOUND = Target(0.9)


class Used(NamedTuple):
    """Of one run: wall time, and CPU time of this process and its children."""

    wall_s: float
    cpu_s: float


class Meter:
    """Takes actions by name, and keeps what each of them used each time."""

    def __init__(self, actions: Mapping[str, Callable[[], Used]]) -> None:
        self.used: dict[str, list[Used]] = {name: [] for name in actions}
        interleave({name: partial(self._metered, name, action) for name, action in actions.items()})

    def _metered(self, name: str, action: Callable[[], Used]) -> None:
        self.used[name].append(action())

    def ratios(self, above: str, below: str, clock: str) -> list[float]:
        """Round by round, but for the first, which warms up."""
        one, other = ([getattr(each, clock) for each in self.used[name][1:]] for name in (above, below))
        return ratios(one, other)


def against_tuned_loops(device: torch.device) -> Iterator[Row]:
    """E1: the best of the loops that a user would write ÷ extraction; E1b: the backbone alone, on faces that lie in
    memory, ÷ extraction."""
    chosen, (module, _) = backbone(device), usual_model(MODELS[device.type], SIZE_PX, device)
    runtime, precision = _chosen(device), fast_precision(device)
    models: dict[str, Model] = {
        "ONNX Runtime": of_onnxruntime(module, SIZE_PX, torch.get_num_threads()),
        f"timm in {precision}": of_torch(module, precision),
    }
    paths = made_faces(NUM_FACES)["path"].to_list()
    some = paths[:TUNED_FACES]
    workers = _tuned_workers(models["ONNX Runtime"], some)
    batches = {name: _tuned_batch(model, some, workers) for name, model in models.items()}
    face_s = sum(_loop(model, some, workers, batches[name]).wall_s for name, model in models.items()) / TUNED_FACES
    count = _affordable(face_s * (len(models) + 2) / len(models))
    loops = {name: partial(_loop, model, paths[:count], workers, batches[name]) for name, model in models.items()}
    ours = {
        MTL: partial(_extraction, made_faces(count), chosen, device, runtime),
        ALONE: partial(_alone, chosen, device, runtime, count),
    }
    meter = Meter({**loops, **ours})
    best = min(loops, key=lambda name: min(used.cpu_s for used in meter.used[name]))
    note = (
        f"{chosen.config.model} at {SIZE_PX} px, mtl in {runtime}, {count:,} faces; loop: {workers} workers, batches "
    )
    note += f"of {batches[best]}"
    what, values = f"best loop ({best}) ÷ extraction, CPU time", meter.ratios(best, MTL, "cpu_s")
    yield Row(id="E1", what=what, values=values, target=TARGET, note=note)
    yield Row(id="E1w", what="the same, wall time", values=meter.ratios(best, MTL, "wall_s"))
    what, values = f"{ALONE}, on faces in memory ÷ extraction, CPU time", meter.ratios(ALONE, MTL, "cpu_s")
    yield Row(id="E1b", what=what, values=values, target=BOUND)
    for row, name in zip(("E1o", "E1t"), loops, strict=True):
        yield Row(id=row, what=f"loop with {name} ÷ extraction, CPU time", values=meter.ratios(name, MTL, "cpu_s"))


def against_compiled(device: torch.device) -> Iterator[Row]:
    """R4: a loop with torch.compile, which is compiled beforehand, ÷ extraction."""
    chosen, (module, _) = backbone(device), usual_model(MODELS[device.type], SIZE_PX, device)
    runtime, precision, frames = _chosen(device), fast_precision(device), made_faces(NUM_FACES)
    compiled, paths = of_compiler(module, precision), frames["path"].to_list()
    workers = _tuned_workers(compiled, paths[:TUNED_FACES])
    loop, extraction = partial(_loop, compiled, paths, workers), partial(_extraction, frames, chosen, device, runtime)
    meter = Meter({"compiled": loop, MTL: extraction})
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


def _tuned_workers(model: Model, paths: list[str]) -> int:
    """The number of the loader's processes that is fastest on this machine."""
    _loop(model, paths, 0)
    return min((0, 1, num_cores()), key=lambda count: _loop(model, paths, count).wall_s)


def _tuned_batch(model: Model, paths: list[str], num_workers: int) -> int:
    return min(BATCHES, key=lambda batch: _loop(model, paths, num_workers, batch).cpu_s)


def _loop(model: Model, paths: list[str], num_workers: int, batch: int = BATCH) -> Used:
    return _used(partial(tuned_loop, model, FACES, paths, WORK / "tuned.npy", num_workers, batch))


def _alone(chosen: Backbone, device: torch.device, runtime: Runtime, count: int) -> Used:
    """Forward passes of one batch over and over; the backbone is ready before."""
    faces = torch.zeros(BATCH, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8).random_(0, 256)
    with steady(device):
        embed = embedder(chosen, runtime, device, BATCH)
        used = _used(lambda: [embed(faces) for _ in range(count // BATCH)])
    release(device)
    return used


def _extraction(frames: pl.DataFrame, chosen: Backbone, device: torch.device, runtime: Runtime) -> Used:
    """From when the streams are made and the backbone is ready."""
    settings = Settings(
        device=device,
        batch_size=default_batch_size(device),
        num_threads=default_num_threads(),
        shard_rows=SHARD_ROWS[device.type],
        precision=runtime.precision,
        runtime=runtime.mode,
    )
    cache = Cache.open(fresh("rival"), create=True)
    with closing(Extraction(frames, FACES, cache, [chosen], settings)) as extraction:
        return _used(partial(extraction.run, settings.part))


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
