"""The tests that need a GPU, NCCL with one process, compiled backbones, and the commands from faces to a study."""

import copy
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench.gpu_check.embedding import backbone_of
from bench.gpu_check.sizes import Sizes
from bench.measure import Row, Target, interleave, ratios, walls
from extract.backbones.norms import synchronised
from extract.backbones.runtime import Runtime, embedder, release, steady
from pipelines.cli import make_app

ROOT = Path(__file__).parents[2]
TOML = """
[data]
faces = "data/cropped_aligned"
[backbones.tiny]
model = "test_mambaout"
weights = "random"
size_px = 32
"""
SMALL = "[set]\nwidth = 16\nsteps = 8\neval_steps = 4\nwindow = 8\nstride = 4\nnum_heads = 2\n"
GRID = f'{SMALL}[product]\ntemporal = ["gru", "tcn"]\nfusion = ["concat", "attention"]\nseed = [0, 1]\n'


class Counts:
    """Counts how tests ended, as a plugin of pytest."""

    def __init__(self) -> None:
        self.passed, self.skipped, self.failed = 0, 0, list[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1


def marked_tests(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """TE: the tests marked `gpu`, which skip themselves on a CPU."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    counts = Counts()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", f"--rootdir={ROOT}"]
    code = pytest.main([*options, *files], plugins=[counts])
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), f"pytest ended with {code}"
    note = f"{counts.passed} passed, {counts.skipped} skipped"
    note += f"; failed: {', '.join(counts.failed)}" if counts.failed else ""
    none_ran = device.type == "cuda" and not counts.passed
    what, values = "failed tests of those marked gpu", [float(len(counts.failed) + none_ran)]
    yield Row(id="TE", what=what, values=values, target=Target(0, at_most=True), device=device.type, note=note)


def one_process_group(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """NC: what training on several devices asks of torch.distributed, in a group of one process: gradients of a wrapped
    model as those of the model, gathers and sums as what went in."""
    on_gpu = device.type == "cuda"
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        if on_gpu:
            torch.cuda.set_device(device)
        where = f"file://{name}/store"
        dist.init_process_group(backend, init_method=where, rank=0, world_size=1, timeout=timedelta(seconds=60))
        try:
            yield _gradients(device)
            yield _gathered(device)
        finally:
            dist.destroy_process_group()


def compiled(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """CO: a compiled backbone against the eager one: speed, and the least cosine of embeddings of random faces."""
    model = sizes.live
    backbone = backbone_of(model)
    faces = torch.zeros(sizes.batch_faces, model.size_px, model.size_px, 3, dtype=torch.uint8, device=device)
    faces.random_(0, 256)
    with steady(device):
        begin = time.perf_counter()
        ways = {
            mode: embedder(backbone, Runtime(precision="bfloat16", mode=mode), device, sizes.batch_faces)
            for mode in ("compiled", "eager")
        }
        ready = time.perf_counter() - begin
        found = {mode: embed(faces).float().cpu() for mode, embed in ways.items()}
        costs = interleave({mode: lambda embed=embed: embed(faces).cpu() for mode, embed in ways.items()}, sizes.rounds)
    release(device)
    cosine = float(nn.functional.cosine_similarity(found["compiled"], found["eager"]).min())
    note = f"{model.name} at {model.size_px} px, bfloat16; ready in {ready:.0f} s"
    what = "1 - least cosine of compiled and eager embeddings"
    target, kind = Target(0.01, at_most=True), device.type
    yield Row(id="COc", what=what, values=[1 - cosine], target=target, device=kind, note=note)
    gains = ratios(walls(costs["eager"]), walls(costs["compiled"]))
    yield Row(id="CO", what="compiled backbone ÷ eager, faces/s", values=gains, device=device.type, note=note)


def commands(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """CM: the commands from made faces to a searched study and its predictions, each with --device; seconds of each."""
    videos, frames = str(sizes.demo_videos), str(sizes.demo_frames)
    where = ["--device", device.type]
    small = [f"--set=finetune.{each}" for each in ("init=random", "epochs=1", "batch_size=8", "size_px=32")]
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name, chdir(name):
        _mtl("demo-data", "data", "--videos", videos, "--frames", frames)
        Path("mtl.toml").write_text(TOML)
        Path("grid.toml").write_text(GRID)
        _mtl("prepare", "--train", "data/train_set.txt", "--val", "data/val_set.txt")
        for words in (
            ["finetune", "--task", "expr", "--model", "test_vit2", *small, *where],
            ["extract", *where],
            ["train-head", "--name", "one", "--set", "train.steps=8", "--set", "head.width=16", *where],
            ["search", "--grid", "grid.toml", *where],
            ["predict", "one", "--split", "val", *where],
        ):
            begin = time.perf_counter()
            _mtl(*words)
            note, seconds = f"mtl {words[0]} on {device}", time.perf_counter() - begin
            yield Row(id=f"CM {words[0]}", what="seconds of a command", values=[seconds], device=device.type, note=note)


def _mtl(*words: str) -> None:
    """A command in this process; what it prints goes with the part's output."""
    try:
        make_app(words[0])(list(words), standalone_mode=False)
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"mtl {words[0]} ended with {error.code}") from error


def _gradients(device: torch.device) -> Row:
    torch.manual_seed(0)
    norm: list[nn.Module] = [nn.BatchNorm2d(8)] if device.type == "cuda" else []
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), *norm, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    plain = plain.to(device)
    model = copy.deepcopy(plain)
    model = synchronised(model) if norm else model
    wrapped = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    x = torch.randn(6, 3, 12, 12, device=device)
    for each in (plain, wrapped):
        each(x).square().mean().backward()
    error = max(
        float((mine.grad - theirs.grad).norm() / theirs.grad.norm().clamp(min=1e-12))
        for mine, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True)
    )
    note = "synchronised batch normalisation" if norm else "without batch normalisation"
    what, target = "gradients of a wrapped model, relative error", Target(1e-5, at_most=True)
    return Row(id="NC", what=what, values=[error], target=target, device=device.type, note=note)


def _gathered(device: torch.device) -> Row:
    x = torch.arange(12.0, device=device).view(3, 4)
    parts, total, objects = [torch.empty_like(x)], x.clone(), [None]
    dist.all_gather(parts, x)
    dist.all_reduce(total)
    counts = torch.zeros(1, dtype=torch.int64)
    dist.all_gather_into_tensor(counts, torch.tensor([3]))
    dist.all_gather_object(objects, {"rank": 0})
    wrong = [not torch.equal(parts[0], x), not torch.equal(total, x), int(counts) != 3, objects != [{"rank": 0}]]
    what, target = "gathers and sums that differ from what went in", Target(0, at_most=True)
    return Row(id="NCg", what=what, values=[float(sum(wrong))], target=target, device=device.type)
