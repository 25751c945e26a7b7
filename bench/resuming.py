"""A6 and A7: an extraction that goes on after a kill, and one with nothing left to do, against a full one.

The backbone has random weights, which changes no timing.
"""

import functools
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bench.extraction import backbone, each_face_s, faces_for, fresh, run, runtime_of
from bench.made_faces import WORK, made_faces
from bench.measure import FEWEST_ROUNDS, Row, Target, cost, seconds_left
from bench.processes import process_of
from extract.engine import default_batch_size
from extract.report import Report

NUM_SHARDS = 24  # as mtl.toml's 4,096 rows are of 98,000 faces: what a kill may lose
KILLED_AT = (0.31, 0.52, 0.77, 0.43, 0.64)


def resuming(device: torch.device) -> list[Row]:
    """A6, A7: going on after a kill at a fraction of the faces, and the same command again, against a full run.

    A shard is whole or it is not there, so what a kill may lose is set by `shard_rows`; A6 is of the faces that have to
    be done again, A6n of those that were not done.
    """
    chosen = backbone(device)
    frames = faces_for(2 * each_face_s([chosen], device), repeats=7, device=device)
    shard_rows = max(1, len(frames) // NUM_SHARDS)
    size = min(default_batch_size(device), shard_rows)
    extract = functools.partial(run, frames, backbones=[chosen], device=device, shard_rows=shard_rows)
    extract(fresh("full"))
    strict, durable, again, busy, took_s = [], [], [], [], 0.0
    for fraction in KILLED_AT:
        if len(again) >= FEWEST_ROUNDS and took_s > seconds_left():
            break
        begin, killed = time.monotonic(), fresh("killed")
        full, repeated = (cost(functools.partial(extract, path)) for path in (fresh("full"), WORK / "full.zarr"))
        death = int(fraction * len(frames))
        _kill_at(killed, death, len(frames), shard_rows, device)
        reports: list[Report] = []
        rest = cost(lambda: reports.append(extract(killed)))  # noqa: B023 (called at once)
        assert reports[0].num_skipped, "the process got no shard done"
        _require_same(WORK / "full.zarr", killed)
        left, undone = 1 - -(-death // size) * size / len(frames), reports[0].num_done / len(frames)
        again.append(repeated.wall_s / full.wall_s)
        strict.append(rest.wall_s / full.wall_s / left)
        busy.append(rest.cpu_s / full.cpu_s / undone)
        durable.append(rest.wall_s / full.wall_s / undone)
        took_s = time.monotonic() - begin
    resumed, once = Target(1.03, at_most=True), Target(0.01, at_most=True)
    name, note = device.type, f"bytes identical; of a full run's {full.wall_s:.1f} s, {runtime_of(device)}"
    lost = f"{NUM_SHARDS} shards: the rest of the one under way, which is done again, is most of the difference"
    rows = [
        Row(id="A6", what="resume ÷ faces in no whole shard", values=durable, target=resumed, device=name, note=note),
        Row(id="A6n", what="resume ÷ the faces not done", values=strict, device=name, note=lost),
        Row(id="A7", what="same command again ÷ full run", values=again, target=once, device=name),
    ]
    if device.type == "cpu":
        what = "A6 in CPU time, which other work disturbs less"
        rows.insert(1, Row(id="A6c", what=what, values=busy, target=resumed))
    return rows


def _kill_at(cache: Path, death: int, num_faces: int, shard_rows: int, device: torch.device) -> None:
    """An extraction into `cache` by a process that is killed once `death` faces are done."""
    process = process_of(_extract_until, cache, death, num_faces, shard_rows, device.type)
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the process was to be killed but ended with {process.exitcode}")


def _extract_until(cache: Path, death: int, num_faces: int, shard_rows: int, device_type: str) -> None:
    """In the process: kills itself without a word."""
    device, done = torch.device(device_type), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= death:
            os.kill(os.getpid(), signal.SIGKILL)

    run(made_faces(num_faces), cache, [backbone(device)], device, advance, shard_rows=shard_rows)


def _require_same(left: Path, right: Path) -> None:
    """Every file, locks aside, byte for byte."""

    def files(root: Path) -> dict[str, bytes]:
        paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    one, other = files(left), files(right)
    if one != other:
        odd = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        raise RuntimeError(f"resumed bytes differ from an undisturbed run's: {', '.join(odd[:5])}")


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"A6": resuming, "A7": resuming}
ON_CUDA = ("A6", "A7")
