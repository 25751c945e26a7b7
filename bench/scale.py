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
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.labels import Schema

WIDTH, SHARD_ROWS, VIDEO_FRAMES, HELD_OUT = 8, 4096, 1000, 50
PART_ROWS = 1 << 20
WINDOW, STRIDE, BATCH_WINDOWS = 64, 64, 256
FACE_PX = 8
LEAST_FRAMES = 1000
LINKED_VIDEOS = 1000
STEPS = ("prepare", "table", "extract", "verify", "epoch", "post", "report", "predict")
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
    parser.add_argument("--steps", default=",".join(STEPS))
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
    if unknown := [each for each in given.steps.split(",") if each not in STEPS]:
        parser.error(f"--steps {','.join(unknown)}: no such step; there: {', '.join(STEPS)}")
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
            steps=max(1, _num_windows(size) // BATCH_WINDOWS),
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


def _num_windows(size: int) -> int:
    return (size - 2 * -(-size // HELD_OUT)) // STRIDE


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


def _tables(size: int, schema: "Schema") -> Iterator[Any]:
    """The frames table in parts, sorted; every `HELD_OUT`-th video is in val, the one behind it in test."""
    import numpy as np
    import polars as pl

    for start in range(0, size, PART_ROWS):
        row = np.arange(start, min(start + PART_ROWS, size))
        video, rng = row // VIDEO_FRAMES, np.random.default_rng(start)
        columns = {"frame": row % VIDEO_FRAMES, "kind": video % HELD_OUT, "number": video}
        labels = {
            name: rng.uniform(-1, 1, len(row)).astype(np.float32)
            if group.kind == "continuous"
            else rng.integers(0, max(len(group.classes), 2), len(row), np.int8)
            for group in schema
            for name in group.columns
        }
        split = pl.when(kind=0).then(pl.lit("val")).when(kind=1).then(pl.lit("test")).otherwise(pl.lit("train"))
        table = pl.DataFrame(columns | labels).with_columns(
            video="v" + pl.col("number").cast(pl.String).str.zfill(6), split=split
        )
        name = pl.col("frame").cast(pl.String).str.zfill(5)
        yield table.with_columns(path=pl.format("{}/{}.jpg", "video", name)).drop("kind", "number")


def _table(folder: Path, size: int) -> Callable[[], str]:
    from cache.frames import SCHEMA_KEY, conform
    from cache.parquet import scan_parquet
    from cache.seals import KEY, MARK, NUM_DIGITS, UNSEALED, digest_of
    from pipelines.config import read_config

    schema = read_config(folder / "mtl.toml").schema

    def run() -> str:
        parts = []
        for number, part in enumerate(_tables(size, schema)):
            parts.append(folder / f"part-{number:04d}.parquet")
            conform(part, "made", schema).write_parquet(parts[-1])
        path = folder / "frames.parquet"
        metadata = {SCHEMA_KEY: json.dumps(schema.to_mapping()), KEY: UNSEALED}
        scan_parquet(parts).sink_parquet(path, maintain_order=True, metadata=metadata)
        data = path.read_bytes()
        with open(path, "r+b") as file:
            file.seek(data.rindex(UNSEALED.encode()) + len(MARK))
            assert file.write(digest_of(data).encode()) == NUM_DIGITS
        for part in parts:
            part.unlink()
        return f"{path.stat().st_size / 1e6:,.0f} MB"

    return run


def _prepare(folder: Path, size: int) -> Callable[[], str]:
    import polars as pl

    from pipelines.cli import program
    from pipelines.config import read_config

    schema = read_config(folder / "mtl.toml").schema
    with open(folder / "labels.csv", "wb") as file:
        for number, part in enumerate(_tables(size, schema)):
            rows = part.select(pl.col("path").alias("image"), "split", *schema.columns)
            rows.write_csv(file, include_header=number == 0)
            _make_faces(folder / "cropped_aligned", part["path"])
    os.chdir(folder)

    def run() -> str:
        sys.argv = ["mtl", "prepare", "--table", "labels.csv", "--no-check-faces"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            program()
        assert Path("frames.parquet").is_file()
        return "mtl prepare --no-check-faces"

    return run


def _make_faces(folder: Path, paths: Iterable[str]) -> None:
    """Empty files; a thousand videos share the files of one, as file systems have fewer files than names."""
    for path in paths:
        file, (video, name) = folder / path, path.split("/")
        number = int(video[1:])
        if name == "00000.jpg":
            file.parent.mkdir(parents=True, exist_ok=True)
        if number % LINKED_VIDEOS == 0:
            file.touch()
        else:
            os.link(folder / f"v{number - number % LINKED_VIDEOS:06d}/{name}", file)


def _stub_faces() -> None:
    """Every module that reads, digests or decodes faces gets a picture in memory instead."""
    import numpy as np

    import extract.engine  # noqa: F401 - all of them are loaded before they are changed
    from extract.faces import decoding, source

    pixels, data = np.full((FACE_PX, FACE_PX, 3), 99, np.uint8), bytes(64)
    digest = decoding.face_digest(data)

    def decode(data: bytes, out: Any = None, **_: object) -> Any:
        if out is None or out.shape != pixels.shape:
            return pixels.copy()
        out[:] = pixels
        return out

    stubs = {"read_face_bytes": lambda folder, path: data, "face_digest": lambda data: digest, "decode": decode}
    for name, stub in stubs.items():
        real = getattr(decoding, name)
        for module in [each for key, each in sys.modules.items() if key.startswith("extract.")]:
            if getattr(module, name, None) is real:
                setattr(module, name, stub)
    source.FaceSource.exists = lambda self, path: True  # type: ignore[method-assign]


def _extract(folder: Path, size: int) -> Callable[[], str]:
    import torch
    from torch import nn

    from cache.frames import open_frames
    from cache.store import Cache
    from extract.backbones.build import Backbone
    from extract.backbones.weights import weights_digest
    from extract.config import BackboneConfig, Preprocessing
    from extract.engine import extract
    from extract.jobs import Settings
    from pipelines.config import read_config

    class Slice(nn.Module):
        """[B, 3, S, S] -> [B, D], the first pixels."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :WIDTH]

    torch.set_num_threads(1)
    module = Slice().eval()
    (folder / "cropped_aligned").mkdir(exist_ok=True)
    _stub_faces()
    backbone = Backbone(
        name="stub",
        config=BackboneConfig(model="stub", weights="random"),
        module=module,
        architecture="stub",
        preprocessing=Preprocessing(size_px=FACE_PX, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        pooling="avg",
        width=WIDTH,
        weights_digest=weights_digest(module),
    )
    config = read_config(folder / "mtl.toml")
    settings = Settings(
        device=torch.device("cpu"), batch_size=512, num_threads=1, shard_rows=SHARD_ROWS, precision="float32"
    )

    def run() -> str:
        frames = open_frames(folder / "frames.parquet", config.schema)
        cache = Cache.open(folder / "cache.zarr", create=True)
        report = extract(frames, folder / "cropped_aligned", cache, [backbone], settings)
        assert (report.num_done + report.num_skipped, report.failed) == (size, [])
        return f"{report.num_done / report.seconds:,.0f} frames/s, {-(-size // SHARD_ROWS):,} shards"

    return run


def _verify(folder: Path, size: int) -> Callable[[], str]:
    from cache.frames import open_frames
    from cache.store import Cache
    from cache.verify import verify_named
    from extract.faces.source import FaceSource
    from pipelines.config import read_config

    _stub_faces()
    config = read_config(folder / "mtl.toml")

    def run() -> str:
        frames = open_frames(folder / "frames.parquet", config.schema)
        cache = Cache.open(folder / "cache.zarr", read_only=True)
        with contextlib.closing(FaceSource(folder / "cropped_aligned")) as source:
            found = verify_named(cache, "stub", "base", frames, source.digests, lambda count: None)
        assert found == [], found[:3]
        return "every shard and the digest of every face"

    return run


def _epoch(folder: Path, size: int) -> Callable[[], str]:
    import torch

    from pipelines.config import read_config
    from pipelines.strategy import strategy_of
    from pipelines.training.run import train_or_find

    torch.set_num_threads(1)
    config = read_config(folder / "mtl.toml")
    shutil.rmtree(folder / "runs", ignore_errors=True)

    def run() -> str:
        result = train_or_find(config, strategy_of(config), "cpu", name="epoch")
        assert not result.found
        return f"{config.train.steps:,} steps of {BATCH_WINDOWS} windows of {WINDOW}"

    return run


def _post(folder: Path, size: int) -> Callable[[], str]:
    from pipelines.config import read_config
    from pipelines.postprocess.run_folders import postprocess_run, read_truth

    config = read_config(folder / "mtl.toml")

    def run() -> str:
        postprocess_run(folder / "runs/epoch", read_truth(config), force=True)
        return "of the selected and held-out rows"

    return run


def _report(folder: Path, size: int) -> Callable[[], str]:
    from pipelines.config import read_config
    from pipelines.report.command import make_report

    config = read_config(folder / "mtl.toml")

    def run() -> str:
        page = make_report(config, folder / "runs/epoch", None, force=True)["page"]
        return f"a page of {Path(page).stat().st_size / 1e6:,.1f} MB"

    return run


def _predict(folder: Path, size: int) -> Callable[[], str]:
    import torch

    from pipelines.config import read_config
    from pipelines.predict.predict import FrameRequest, predict_to_file

    torch.set_num_threads(1)
    config = read_config(folder / "mtl.toml")

    def run() -> str:
        request = FrameRequest(model=folder / "runs/epoch", out=folder / "test.parquet", force=True)
        return f"{predict_to_file(config, request, 'cpu')['num_frames']:,} frames of test"

    return run


RUNS: dict[str, Callable[[Path, int], Callable[[], str]]] = {
    "prepare": _prepare,
    "table": _table,
    "extract": _extract,
    "verify": _verify,
    "epoch": _epoch,
    "post": _post,
    "report": _report,
    "predict": _predict,
}

if __name__ == "__main__":
    sys.exit(main())
