"""`mtl extract` from the outside: what it fills, prints and returns; and the names of devices."""

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg
import torch

from cache.frames import conform, write_frames
from cache.store import Cache
from cache.stream import Stream
from extract.backbones.build import build_trainable, save_backbone
from helpers import watched
from helpers.cli import Ended, typed
from helpers.processes import python, server, start
from pipelines.config import Config
from pipelines.device import resolve_device
from pipelines.extraction import run, several
from pipelines.extraction.one import Choices, loaded

NUM_FACES = 30
TOML = """
[data]
faces = "faces"
[cache]
shard_rows = 8
[backbones.expr]
model = "test_resnet"
weights = "random"
size_px = 32
[backbones.va]
model = "test_vit"
weights = "backbones/va.safetensors"
"""
Result = tuple[int, str, str]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mtl(*words: str) -> Ended:
    return typed("extract", *words)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 faces of 32 px, their frames table, and two backbones: one random, one from a file of ours."""
    generator = np.random.default_rng(0)
    rows = [(f"v{index % 2}", index, f"v{index % 2}/{index:05d}.jpg") for index in range(NUM_FACES)]
    for _, _, path in rows:
        face = tmp_path / "faces" / path
        face.parent.mkdir(parents=True, exist_ok=True)
        face.write_bytes(simplejpeg.encode_jpeg(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    frames = conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "test")
    write_frames(frames, tmp_path / "frames.parquet")
    (tmp_path / "mtl.toml").write_text(TOML)
    module, preprocessing = build_trainable("test_vit", 2, 32, "random", seed=4)
    save_backbone(tmp_path / "backbones/va.safetensors", module.backbone, "test_vit", preprocessing, {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def streams(project: Path) -> list[str]:
    return [name for name, _ in Cache.open(project / "cache.zarr").streams()]


def one_error(result: Result) -> str:
    """The text of a run that must have failed with one line and nothing else."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("mtl: error: ")
    assert err.count("\n") == 1
    return err


def test_all_backbones(project: Path) -> None:
    code, out, err = mtl()
    assert (code, err) == (0, "")
    assert out.startswith("30 faces into 2 streams (expr, va) in ")
    assert "faces/s" in out
    cache = Cache.open(project / "cache.zarr")
    assert cache.stream("expr").read().shape == (NUM_FACES, 96)
    assert cache.stream("va").read().shape == (NUM_FACES, 64)
    assert cache.stream("va").identity.preprocessing["size_px"] == 32
    assert mtl() == (0, "30 faces were in 2 streams (expr, va) already\n", "")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--backbone", "va"], ["va"]),
        (["--backbone", "va,expr"], ["expr", "va"]),
        (["--backbone", "va", "--backbone", "expr", "--backbone", "va"], ["expr", "va"]),
    ],
)
def test_some_backbones(project: Path, arguments: list[str], wanted: list[str]) -> None:
    assert mtl(*arguments, "--batch-size", "7", "--threads", "1", "--precision", "bfloat16", "--device", "cpu")[0] == 0
    assert streams(project) == wanted
    assert Cache.open(project / "cache.zarr").stream(wanted[0]).provenance["precision"] == "bfloat16"


def test_json(project: Path) -> None:
    (project / "faces/v0/00004.jpg").write_bytes(b"")
    code, out, err = mtl("--json", "--backbone", "expr")
    assert (code, err) == (1, "")
    document = json.loads(out)
    assert document.pop("seconds") > 0
    assert document.pop("faces_per_s") > 0
    failed = [{"video": "v0", "frame": 4, "path": "v0/00004.jpg", "reason": "empty file"}]
    assert document == {
        "streams": ["expr"],
        "filled": ["expr"],
        "num_done": 30,
        "num_skipped": 0,
        "num_elsewhere": 0,
        "num_shards_redone": 0,
        "notes": [],
        "failed": failed,
    }


def test_failed_faces(project: Path) -> None:
    """Listed up to 20, exit code 1 unless allowed, told again, and redone once put right."""
    whole = (project / "faces/v0/00000.jpg").read_bytes()
    for index in range(25):
        (project / f"faces/v{index % 2}/{index:05d}.jpg").write_bytes(whole[:-50] if index else b"GIF89a")
    code, _, err = mtl("--backbone", "expr")
    assert code == 1
    assert err.startswith("25 faces failed:\n  v0/00000.jpg (video v0, frame 0): not an image\n")
    assert err.count("damaged JPEG") == 19
    assert "and 5 more" in err
    assert "--allow-failed" in err
    code, out, err = mtl("--backbone", "expr", "--allow-failed")
    assert (code, out) == (0, "30 faces were in 1 stream (expr) already\n")
    assert "25 faces failed" in err
    for index in range(25):
        (project / f"faces/v{index % 2}/{index:05d}.jpg").write_bytes(whole)
    code, out, err = mtl("--backbone", "expr")
    assert (code, err) == (0, "")
    assert Cache.open(project / "cache.zarr").stream("expr").valid().all()


def test_another_frame_list(project: Path) -> None:
    assert mtl("--backbone", "expr")[0] == 0
    frames = pl.read_parquet(project / "frames.parquet")
    write_frames(frames[:-1], project / "frames.parquet")
    error = one_error(mtl("--backbone", "expr"))
    assert "frame list (cached 30 frames, wanted 29)" in error
    assert "mtl cache rm expr" in error


def test_other_weights(project: Path) -> None:
    assert mtl("--backbone", "expr")[0] == 0
    assert "differs in: weights" in one_error(mtl("--backbone", "expr", "--set", "backbones.expr.seed=1"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backbone", "expt"], "--backbone expt: not in mtl.toml (did you mean 'expr'?); there: expr, va"),
        (["--device", "tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N"),
        (["--config", "none.toml"], "none.toml: no such file"),
        (["--set", "data.faces=none"], "none: no such folder of faces; set faces under [data]"),
        (["--set", "data.frames=none.parquet"], "no frames table"),
        (["--set", "backbones.expr.model=test_resnt"], "[backbones.expr]: timm has no model 'test_resnt'"),
        (["--set", "backbones.va.weights=none.pt"], "none.pt: no such weights file"),
        (["--set", "backbones.va.model=test_vit2"], "tensors match test_vit2"),
        (["--set", "cache.path=faces"], "this is not an embedding cache"),
        (["--views", "flip"], "view 'flip': there are base, hflip, crop0.5 to crop0.99 and aug1 to aug100"),
        (["--views", "aug:0"], "--views aug:0: 1 to 100 augmentations"),
        (["--shard", "0/3"], "--shard 0/3: expected I/N with 1 <= I <= N"),
        (["--shard", "2"], "--shard 2: expected I/N"),
        (["--device", "cpu,tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N"),
        (["--device", "all"], "--device all: PyTorch finds no CUDA GPU here"),
        (["--runtime", "graph"], "graph"),
    ],
)
def test_one_line_errors(project: Path, arguments: list[str], says: str) -> None:
    assert says in one_error(mtl(*arguments))


def test_a_choice_that_there_is_not(project: Path) -> None:
    code, out, err = mtl("--runtime", "fast")
    assert (code, out) == (2, "")
    assert "Invalid value for '--runtime': 'fast' is not one of 'auto'" in " ".join(err.replace("│", "").split())


def test_no_backbones(project: Path) -> None:
    (project / "mtl.toml").write_text("")
    assert "add a section [backbones.NAME]" in one_error(mtl())


def test_a_pickle_that_would_run_code(project: Path) -> None:
    torch.save(Trap(str(project / "run")), project / "va.pt")
    assert "could run code" in one_error(mtl("--set", "backbones.va.weights=va.pt"))
    assert not (project / "run").exists()


class Trap:
    """Its pickle makes a folder when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_disk_full(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Stream.write_shard

    def write_shard(stream: Stream, shard: int, *args: object) -> None:
        if shard == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stream.folder))
        real(stream, shard, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "write_shard", write_shard)
        assert "No space left on device" in one_error(mtl("--backbone", "expr"))
    code, out, _ = mtl("--backbone", "expr")
    assert code == 0
    assert out.startswith("14 faces into 1 stream (expr)")
    assert "16 faces were in 1 stream (expr) already" in out


def test_help_has_examples() -> None:
    code, out, _ = mtl("--help")
    assert code == 0
    assert "Examples" in out
    assert "mtl extract --backbone" in out


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"--device {name}: PyTorch finds no CUDA GPU"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="there are 2 GPUs here, cuda:0 to cuda:1"):
        resolve_device("cuda:2")
    for name in ("gpu", "cuda:", "cuda:x", "", "cpu:0"):
        with pytest.raises(ValueError, match="expected auto, cpu, cuda or cuda:N"):
            resolve_device(name)


def test_the_device_of_an_extraction_is_the_current_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Memory is pinned in the context of the current GPU, and a process for the second needs none on the first."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    config = dataclasses.replace(Config(), folder=tmp_path)
    for name in ("cpu", "cuda:1", "cuda"):
        assert loaded(config, [], Choices(), name)[2].device == torch.device(name)
    assert chosen == [torch.device("cuda", 1)]


def files_of(project: Path) -> dict[str, bytes]:
    root = project / "cache.zarr"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_views(project: Path) -> None:
    code, out, err = mtl("--backbone", "expr", "--views", "base,hflip,aug:2")
    assert (code, err) == (0, "")
    assert out.startswith("30 faces into 4 streams (expr, expr/hflip, expr/aug1, expr/aug2) in ")
    cache = Cache.open(project / "cache.zarr")
    assert [view for _, view in cache.streams()] == ["aug1", "aug2", "base", "hflip"]
    assert mtl("--backbone", "expr", "--views", "aug1")[1] == "30 faces were in 1 stream (expr/aug1) already\n"
    added = mtl("--backbone", "expr", "--views", "base,crop0.9,hflip")[1]
    assert added.startswith("30 faces into 1 stream (expr/crop0.9) in ")


def test_the_bar_is_called_after_few_streams_and_counts_many(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []

    class Titled(run.ExtractionBar):
        def __init__(self, title: str, unit: str = "faces") -> None:
            titles.append(title)
            super().__init__(title, unit)

    monkeypatch.setattr(run, "ExtractionBar", Titled)
    assert mtl()[0] == 0
    assert mtl("--views", "base,hflip,crop0.9")[0] == 0
    assert titles == ["extract expr, va", "extract 6 streams"]


def test_shards(project: Path) -> None:
    code, out, _ = mtl("--backbone", "expr", "--shard", "2/2")
    assert code == 0
    assert out.splitlines()[0].startswith("14 faces into 1 stream (expr)")
    assert out.splitlines()[1] == "16 faces are left to the other parts"
    assert "16 faces into 1 stream" in mtl("--backbone", "expr", "--shard", "1/2")[1]
    assert mtl("--backbone", "expr")[1] == "30 faces were in 1 stream (expr) already\n"


@pytest.mark.slow
def test_two_processes(project: Path, tmp_path: Path) -> None:
    """One process a device, here both on the CPU: the bytes of one process, and one report."""
    (project / "faces/v1/00005.jpg").write_bytes(b"")
    code, out, err = mtl("--device", "cpu,cpu", "--views", "base,hflip", "--json")
    assert (code, err) == (1, "")
    report = json.loads(out)
    assert (report["num_done"], report["num_skipped"], report["num_elsewhere"]) == (30, 0, 0)
    assert [failure["frame"] for failure in report["failed"]] == [5]
    two = files_of(project)
    shutil.rmtree(project / "cache.zarr")
    assert mtl("--device", "cpu", "--views", "base,hflip", "--allow-failed")[0] == 0
    assert files_of(project) == two


@pytest.mark.slow
def test_two_processes_fail_as_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are forked here: the test before has fresh ones, which take long to import all."""
    monkeypatch.setattr(several, "get_context", lambda method: server())
    error = one_error(mtl("--device", "cpu,cpu", "--set", "backbones.va.weights=none.pt"))
    assert "none.pt: no such weights file" in error


def test_nothing_to_do_loads_and_writes_nothing(project: Path) -> None:
    """A finished cache may be on a disk that can only be read, and on a machine without the backbone's time to load."""
    (project / "faces/v1/00005.jpg").write_bytes(b"")
    assert mtl()[0] == 1
    fresh = "from helpers.watched import main; main()"
    done = python("-c", fresh, "extract", "--allow-failed", cwd=project)
    assert done.stdout.splitlines() == ["30 faces were in 2 streams (expr, va) already", "[]"]
    (project / "cache.zarr/va/base/embedding/c/1/0").unlink()
    code, _, _ = start(watched.main, "extract", "--allow-failed", cwd=project).end()
    assert code in (watched.OPENED, watched.CHANGED)  # it was making the shard again
