"""Seconds, cost per frame and memory of the steps of the work at growing numbers of frames.

python -m bench.scale 10000,100000,1000000 [--steps prepare,table,extract] [--folder DIR] [--memory-gb GB] [--json FILE]

Every step is a process of its own. Faces are stubs: reading and decoding one is a copy of a small picture in memory,
the backbone a slice of its pixels, so what is left is what mtl itself adds. `table` writes the frames table in parts,
`prepare` by `mtl prepare` from a CSV and empty files of faces, most of them hard links; `epoch` trains a head for one
pass over the windows, from streams that stay in the cache, and writes its run; `post` fits its post-processing,
`report` writes its page, `predict` predicts the test split. These last three are of the selected and held-out rows, a
twenty-fifth of all.
`python -m bench.scale_picture FILE` draws the rows of --json. Letters: N frames, D width.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.scale_steps import BATCH_WINDOWS, RUNS, SHARD_ROWS, STRIDE, WINDOW, num_windows

LEAST_FRAMES = 1000
LABELS = """
[labels]
name = "made"
[[labels.groups]]
name = "va"
kind = "continuous"
columns = ["valence", "arousal"]
"""
CONFIG = """
[cache]
shard_rows = {shard_rows}
[head]
width = 32
depth = 1
temporal = "none"
[train]
window = {window}
stride = {stride}
batch_windows = {batch_windows}
steps = {steps}
eval_steps = {steps}
patience = {steps}
memory_gb = {memory_gb}
[backbones.stub]
model = "stub"
weights = "random"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description="Cost per frame at growing sizes.")
    parser.add_argument("sizes", help="numbers of frames, such as 10000,100000")
    parser.add_argument("--steps", default=",".join(RUNS))
    parser.add_argument("--folder", type=Path, default=Path("scale"))
    parser.add_argument("--memory-gb", type=float, default=1e-6, help="[train] memory_gb; the default holds no stream")
    parser.add_argument("--limit-gb", type=float, default=0.0, help="RLIMIT_DATA of every step")
    parser.add_argument("--keep", action="store_true", help="leave the files of each size")
    parser.add_argument("--abaw", action="store_true", help="all 15 label columns of ABAW in place of two")
    parser.add_argument("--json", type=Path, help="file for the rows; those of an earlier run in it stay")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        sizes = [int(float(text)) for text in given.sizes.split(",")]
    except ValueError:
        parser.error(f"sizes: {given.sizes!r} are not numbers of frames, such as 10000,100000")
    if min(sizes) < LEAST_FRAMES:
        parser.error(f"sizes: {min(sizes)} is below {LEAST_FRAMES} frames")
    if unknown := [each for each in given.steps.split(",") if each not in RUNS]:
        parser.error(f"--steps {','.join(unknown)}: no such step; there: {', '.join(RUNS)}")
    if given.step:
        _measured(given.step, given.folder, sizes[0], given.limit_gb)
        return 0
    has_failed = False
    print(f"{'frames':>12} {'step':>8} {'wall s':>9} {'CPU s':>9} {'CPU µs/frame':>13} {'peak MB':>8}", flush=True)
    for size in sizes:
        folder = given.folder / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        text = ("" if given.abaw else LABELS) + CONFIG.format(
            shard_rows=SHARD_ROWS,
            window=WINDOW,
            stride=STRIDE,
            batch_windows=BATCH_WINDOWS,
            steps=max(1, num_windows(size) // BATCH_WINDOWS),
            memory_gb=given.memory_gb,
        )
        (folder / "mtl.toml").write_text(text)
        for step in given.steps.split(","):
            options = ["--step", step, "--folder", str(folder), "--limit-gb", str(given.limit_gb)]
            done = subprocess.run([sys.executable, "-m", "bench.scale", str(size), *options], stdout=subprocess.PIPE)
            if done.returncode:
                print(f"{size:>12,} {step:>8} failed", flush=True)
                has_failed = True
                break
            found = json.loads(done.stdout.splitlines()[-1])
            _print_row(size, step, found)
            if given.json is not None:
                _keep_row(given.json, size, step, found)
        if not given.keep:
            shutil.rmtree(folder)
    return 1 if has_failed else 0


def _print_row(size: int, step: str, found: dict[str, Any]) -> None:
    a_frame = found["cpu_s"] / size * 1e6
    numbers = f"{found['wall_s']:>9.1f} {found['cpu_s']:>9.1f} {a_frame:>13.2f} {found['peak_mb']:>8,.0f}"
    print(f"{size:>12,} {step:>8} {numbers}  {found['note']}", flush=True)


def _keep_row(file: Path, size: int, step: str, found: dict[str, Any]) -> None:
    rows = json.loads(file.read_text()) if file.is_file() else []
    rows = [row for row in rows if (row["frames"], row["step"]) != (size, step)]
    file.write_text(json.dumps([*rows, {"frames": size, "step": step, **found}], indent=1) + "\n")


def _measured(step: str, folder: Path, size: int, limit_gb: float) -> None:
    """Runs the step and prints what it took as JSON; the making of its input is not counted."""
    if limit_gb:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9), int(limit_gb * 1e9)))
    run = RUNS[step](folder, size)
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.monotonic(), time.process_time()
    note = run()
    found = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": _peak_mb(), "note": note}
    print(json.dumps(found))


def _peak_mb() -> float:
    """Of resident memory, that of the libraries included."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
