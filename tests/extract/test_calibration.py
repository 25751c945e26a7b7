"""Trials of runtimes: they choose what pays, stay within their time, and are not repeated by the next run.

Passes and making ready take made-up times on a clock of their own, but where a test says otherwise.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cache.frames import conform
from cache.store import Cache
from extract.backbones import calibration, kept_trials, onnx_pass, passes, runtime, trials
from extract.backbones.build import Backbone
from extract.backbones.calibration import CANDIDATE_MODES, CandidateMode, choose_runtime
from extract.backbones.runtime import MODES, Runtime, embedder, release
from extract.backbones.trials import Allowance
from extract.config import BackboneConfig
from extract.engine import extract
from extract.jobs import Settings
from helpers.compiled_pass import COMPILED, CPU, plainly, some_faces, tiny

MANY = 10**9
EAGER = Runtime(mode="eager")
ONNX, HALF = Runtime(mode="onnx"), Runtime(precision="bfloat16")


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's cache folder; nothing made ready stays behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    yield tmp_path / "user"
    release(CPU)


class Machine:
    """Faces/s by "precision mode"; what is not there fails to be made ready. Each pass has a fixed cost as well."""

    def __init__(self) -> None:
        self.speeds: dict[str, float] = {}
        self.ready_s = {"compiled": 60.0, "onnx": 0.5}
        self.now_s, self.pass_s, self.passes = 100.0, 0.0, list[tuple[str, int]]()

    def set(self, **speeds: float) -> None:
        self.speeds = {name.replace("_", " "): rate for name, rate in speeds.items()}

    def embedder(self, backbone: Backbone, chosen: Runtime, device: torch.device, batch_size: int) -> str:
        if str(chosen) not in self.speeds:
            raise ValueError(f"{backbone.name} cannot be compiled")
        self.now_s += self.ready_s.pop(chosen.mode, 0)
        return str(chosen)

    def seconds(self, name: str, faces: Tensor) -> float:
        taken_s = self.pass_s + len(faces) / self.speeds[name]
        self.now_s += taken_s
        self.passes.append((name, len(faces)))
        return taken_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    for module in (calibration, trials):
        monkeypatch.setattr(module, "embedder", made.embedder)
        monkeypatch.setattr(module, "clock", lambda: made.now_s)
    monkeypatch.setattr(trials, "pass_s", made.seconds)
    monkeypatch.setitem(calibration.WHY_NOT, "compiled", lambda device: None)
    monkeypatch.setitem(calibration.WHY_NOT, "onnx", lambda device: None)
    monkeypatch.setattr(passes, "native_bfloat16", lambda: True)
    return made


# Choices


def test_few_faces_without_a_trial() -> None:
    """No forward pass at all."""
    chosen, report = choose_runtime(tiny(most=0), 1999, 4, CPU)
    assert (chosen, report["faces_per_s"]) == (EAGER, {})
    assert json.loads(json.dumps(report)) == report


def test_what_is_asked_for_is_not_tried() -> None:
    chosen, report = choose_runtime(tiny(most=0), MANY, 4, CPU, precision="bfloat16", mode="eager")
    assert (chosen, report["faces_per_s"]) == (Runtime(precision="bfloat16"), {})


def test_a_model_that_torch_does_not_run() -> None:
    backbone = dataclasses.replace(tiny(most=0), config=BackboneConfig(model="onnx:own.onnx"))
    assert choose_runtime(backbone, MANY, 4, CPU)[0] == EAGER
    for option, wrong in (("precision", {"precision": "bfloat16"}), ("runtime", {"mode": "compiled"})):
        with pytest.raises(ValueError, match=f"expr is onnx:own.onnx, which runs as it is; leave out --{option}"):
            choose_runtime(backbone, MANY, 4, CPU, **wrong)


@pytest.mark.parametrize(("gain", "precision"), [(2.0, "bfloat16"), (1.1, "float32"), (0.2, "float32")])
def test_precision_by_a_trial(machine: Machine, gain: float, precision: str) -> None:
    machine.set(float32_eager=1000, bfloat16_eager=1000 * gain)
    chosen, report = choose_runtime(tiny(), 2000, 4, CPU)
    assert chosen == Runtime(precision=precision)
    assert report["faces_per_s"] == pytest.approx(machine.speeds)


def test_no_trial_of_bfloat16_without_its_instructions(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "native_bfloat16", lambda: False)
    machine.set(float32_eager=1000)
    chosen, report = choose_runtime(tiny(), 2000, 4, CPU)
    assert (chosen, report["faces_per_s"]) == (EAGER, machine.speeds)
    assert report["why"][0] == "this processor has no instructions for bfloat16"


@pytest.mark.parametrize(
    ("num_faces", "rates", "wanted", "why"),
    [
        (10_000, {}, EAGER, "float32 compiled not tried: it takes 90 s to make ready, and trials have"),
        (800_000, {"float32_onnx": 2000}, ONNX, "float32 compiled not tried"),
        (800_000, {"float32_onnx": 1050}, EAGER, "float32 compiled not tried"),
        (5_200_000, {"float32_onnx": 1200, "float32_compiled": 2000}, COMPILED, "is 1.67 x as fast as float32 onnx"),
        (
            5_200_000,
            {"float32_onnx": 1200, "float32_compiled": 1300},
            ONNX,
            "is 1.08 x as fast as float32 onnx, and",
        ),
        (MANY, {"float32_compiled": 2000}, COMPILED, "float32 compiled is 2.00 x as fast as float32 eager"),
        (800_000, {"bfloat16_eager": 2000, "float32_onnx": 1600}, ONNX, "bfloat16 compiled not tried"),
        (800_000, {"bfloat16_eager": 2000, "float32_onnx": 1500}, HALF, "bfloat16 compiled not tried"),
        (MANY, {"bfloat16_eager": 2000, "float32_onnx": 1900, "bfloat16_compiled": 2400}, ONNX, "and 1.30 is wanted"),
        (MANY, {}, EAGER, "float32 compiled cannot be had: expr cannot be compiled"),
    ],
)
def test_modes_that_pay(machine: Machine, num_faces: int, rates: dict[str, float], wanted: Runtime, why: str) -> None:
    machine.set(**{"float32_eager": 1000, "bfloat16_eager": 500, **rates})
    chosen, report = choose_runtime(tiny(), num_faces, 4, CPU)
    assert chosen == wanted
    assert why in report["why"][-1]
    assert choose_runtime(tiny(), num_faces, 4, CPU)[0] == wanted


def test_a_precision_asked_for_leaves_out_modes_of_another(machine: Machine) -> None:
    machine.set(bfloat16_eager=1000, float32_onnx=9000, bfloat16_compiled=1000)
    chosen, _ = choose_runtime(tiny(), MANY, 4, CPU, precision="bfloat16")
    assert chosen == Runtime(precision="bfloat16")
    assert "float32 onnx" not in {name for name, _ in machine.passes}


# Time


@pytest.mark.parametrize("num_faces", [2000, 20_000, 10**6, MANY])
@pytest.mark.parametrize("speed", [0.5, 30.0, 1000.0, 50_000.0])
@pytest.mark.parametrize("gain", [0.05, 0.9, 2.5])
def test_two_percent_or_a_second(machine: Machine, num_faces: int, speed: float, gain: float) -> None:
    """Whatever the model, the number of faces and the processor."""
    rates = {"bfloat16_eager": gain * speed, "float32_onnx": max(gain, 0.5) * speed}
    machine.set(float32_eager=speed, float32_compiled=speed, bfloat16_compiled=speed, **rates)
    start_s = machine.now_s
    _, report = choose_runtime(tiny(), num_faces, 64, CPU)
    assert report["trial_s"] == pytest.approx(machine.now_s - start_s)
    assert report["trial_s"] <= max(1.0, 0.02 * num_faces / speed) * 1.05


def test_a_hopeless_candidate_has_one_pass(machine: Machine) -> None:
    machine.set(float32_eager=4000, bfloat16_eager=240)
    choose_runtime(tiny(), 10_167, 64, CPU)
    assert [passed for passed in machine.passes if passed[0] == "bfloat16 eager"] == [("bfloat16 eager", 1)]


def test_backbones_share_the_second(machine: Machine) -> None:
    """Each has its part, and what those before it left."""
    machine.set(float32_eager=1000, bfloat16_eager=1000)
    machine.pass_s = 0.05
    allowance = Allowance(3)
    for size_px in (16, 32, 64):
        backbone = tiny()
        other = dataclasses.replace(backbone.preprocessing, size_px=size_px)
        _, report = choose_runtime(
            dataclasses.replace(backbone, preprocessing=other), 2000, 64, CPU, allowance=allowance
        )
        assert "bfloat16 eager" in report["faces_per_s"]
    assert 0.5 < allowance.spent_s <= 1.1


def test_imports_of_a_mode_count_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones of one model have one runtime: what the first of them imported is no cost of the second."""

    def imports(device: torch.device) -> None:
        machine.now_s += 0.4

    monkeypatch.setitem(calibration.WHY_NOT, "onnx", imports)
    machine.set(float32_eager=5000, bfloat16_eager=5000, float32_onnx=9000)
    machine.ready_s["onnx"] = 0.1
    allowance = Allowance(1)
    chosen = [choose_runtime(tiny(), 10_167, 64, CPU, allowance=allowance)[0] for _ in range(3)]
    assert chosen == [ONNX] * 3
    assert 0.5 < allowance.spent_s <= 1.05


def test_whole_batches_where_there_is_time(machine: Machine) -> None:
    """A second's worth of faces, at most a batch and at least eight."""
    for speed, batch_size, expected in ((10_000, 64, 64), (32, 64, 32), (1, 64, 8), (1, 4, 4)):
        machine.passes.clear()
        machine.set(float32_eager=speed, bfloat16_eager=speed)
        choose_runtime(tiny(), 20_000 + expected, batch_size, CPU, mode="eager")
        assert machine.passes[-1] == ("bfloat16 eager", expected)
        for path in kept_trials.user_folder().rglob("*.json"):
            path.unlink()


# The next run


def test_the_next_run_has_no_trial(machine: Machine, user: Path) -> None:
    """The same choice without a pass; the kept gain decides for another number of faces too."""
    machine.set(float32_eager=1000, bfloat16_eager=1100, float32_onnx=1500, float32_compiled=1600)
    machine.ready_s["onnx"] = 10.0
    first, before = choose_runtime(tiny(), MANY, 64, CPU)
    assert first == ONNX
    machine.passes.clear()
    again, report = choose_runtime(tiny(), MANY, 64, CPU)
    assert (again, machine.passes, report["trial_s"]) == (ONNX, [], 0)
    assert report["faces_per_s"] == before["faces_per_s"]
    few, report = choose_runtime(tiny(), 20_000, 64, CPU)
    assert (few, machine.passes) == (EAGER, [])
    assert "not used: it takes 10 s to make ready" in report["why"][1]
    assert [path.suffix for path in (user / "mtl/trials").iterdir()] == [".json"]


def test_what_took_longer_than_expected_is_measured_all_the_same(machine: Machine) -> None:
    """Else the next run would make it ready again, for nothing."""
    machine.set(float32_eager=1000, bfloat16_eager=1100, float32_onnx=1500)
    machine.ready_s["onnx"] = 2.0
    chosen, report = choose_runtime(tiny(), 20_000, 64, CPU)
    assert (chosen, report["trial_s"]) == (ONNX, pytest.approx(2.4, abs=0.4))
    machine.passes.clear()
    assert choose_runtime(tiny(), 20_000, 64, CPU)[0] == ONNX
    assert machine.passes == []


def test_what_can_no_longer_be_made_ready(machine: Machine) -> None:
    machine.set(float32_eager=1000, bfloat16_eager=1100, float32_onnx=1500, float32_compiled=1600)
    choose_runtime(tiny(), MANY, 64, CPU)
    del machine.speeds["float32 onnx"]
    machine.speeds["float32 compiled"] = 9e9  # was measured: 1600
    chosen, report = choose_runtime(tiny(), MANY, 64, CPU)
    assert chosen == COMPILED, report
    assert "float32 onnx cannot be had: expr cannot be compiled" in report["why"]


@pytest.mark.parametrize("change", ["batch", "threads", "version", "instructions", "size"])
def test_another_machine_or_model_is_tried(machine: Machine, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    machine.set(float32_eager=1000, bfloat16_eager=2000)
    choose_runtime(tiny(), 2000, 64, CPU)
    machine.passes.clear()
    backbone = tiny()
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    if change == "version":
        monkeypatch.setattr(kept_trials, "version", lambda package: "9.9")
    if change == "instructions":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    if change == "size":
        backbone = dataclasses.replace(backbone, preprocessing=dataclasses.replace(backbone.preprocessing, size_px=8))
    choose_runtime(backbone, 2000, 32 if change == "batch" else 64, CPU)
    assert machine.passes


BAD = {
    "empty": "",
    "not JSON": "{",
    "a list": "[]",
    "nested": "[" * 100_000,
    "another key": {"key": {}},
    "no key": {"faces_per_s": {}},
    "unknown field": {"more": 1},
    "rates are a list": {"faces_per_s": [1]},
    "rate is text": {"faces_per_s": {"float32 eager": "fast"}},
    "rate is nothing": {"faces_per_s": {"float32 eager": 0}},
    "rate is NaN": {"faces_per_s": {"float32 eager": float("nan")}},
    "ready is negative": {"ready_s": {"float32 compiled": -1}},
    "rate is beyond floats": {"faces_per_s": {"float32 eager": 10**400}},
    "rate is tiny": {"faces_per_s": {"float32 eager": 1e-320}},
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_file_that_is_not_what_was_kept(machine: Machine, user: Path, content: Any) -> None:
    """As good as none: tried again, and put right."""
    machine.set(float32_eager=1000, bfloat16_eager=2000)
    expected = choose_runtime(tiny(), 2000, 64, CPU)
    (path,) = (user / "mtl/trials").iterdir()
    good = path.read_text()
    path.write_text(content if isinstance(content, str) else json.dumps({**json.loads(good), **content}))
    if content == {"faces_per_s": {}}:
        path.write_text(json.dumps(content))
    machine.passes.clear()
    assert choose_runtime(tiny(), 2000, 64, CPU) == expected
    assert machine.passes
    assert path.read_text() == good


@pytest.mark.parametrize("kind", ["pipe", "folder", "file in place of the folder", "read-only"])
def test_a_folder_that_cannot_be_used(machine: Machine, user: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.set(float32_eager=1000, bfloat16_eager=2000)
    expected = choose_runtime(tiny(), 2000, 64, CPU)
    (path,) = (user / "mtl/trials").iterdir()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "read-only":
        monkeypatch.setattr(kept_trials, "write_durably", _refused)
    else:
        path.parent.rmdir()
        path.parent.write_text("")
    assert choose_runtime(tiny(), 2000, 64, CPU) == expected


def _refused(path: Path, data: bytes) -> None:
    raise PermissionError(path)


# Real passes


def test_a_trial_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real clocks, made-up compiler and exporter: the one kept is the extraction's, those not kept are let go, others
    stay."""
    for mode in ("compiled", "onnx"):
        monkeypatch.setitem(MODES, mode, MODES["eager"])
        monkeypatch.setitem(calibration.WHY_NOT, mode, lambda device: None)
    for kept, mode in ((0.0, "compiled"), (1000.0, "eager")):
        candidates = CandidateMode("onnx", 0, kept, "float32"), CandidateMode("compiled", 0, kept)
        monkeypatch.setitem(CANDIDATE_MODES, "cpu", candidates)
        backbone, other = tiny(), tiny()
        embedder(other, COMPILED, CPU, 4)
        chosen, report = choose_runtime(backbone, MANY, 4, CPU, precision="float32")
        assert chosen.mode == mode
        assert len(report["faces_per_s"]) == 3
        assert [key[0] for key in runtime._KEPT] == [other] + [backbone] * (mode == "compiled")
        release(CPU)


# ONNX Runtime


class Odd(nn.Module):
    """Other embeddings for another number of faces than two, with which it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * (1 if len(x) == 2 else 3)


def test_onnx_is_eager() -> None:
    """Within rounding, for any number of faces, and ready once."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    backbone, faces = tiny(), some_faces(9)
    embed = embedder(backbone, ONNX, CPU, 4)
    expected = plainly(backbone, "float32", CPU)(faces)
    for count in (4, 1, 9):
        assert embed(faces[:count]).dtype == torch.float16
        torch.testing.assert_close(embed(faces[:count]), expected[:count], rtol=2e-3, atol=1e-4)
    assert embedder(backbone, ONNX, CPU, 4) is embed


@pytest.mark.parametrize(
    ("chosen", "device", "module", "words"),
    [
        (Runtime(mode="onnx", precision="bfloat16"), CPU, None, "has float32 only; leave out --precision bfloat16"),
        (ONNX, torch.device("cuda:0"), None, "onnx needs the CPU, and this is cuda; run with --device cpu"),
        (ONNX, CPU, Odd(), "expr: onnxruntime gives other embeddings than torch, by"),
    ],
)
def test_no_onnx(chosen: Runtime, device: torch.device, module: nn.Module | None, words: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    with pytest.raises(ValueError, match=words) as caught:
        embedder(tiny(module=module), chosen, device, 4)
    assert "\n" not in str(caught.value)


def _missing(name: str) -> None:
    raise ImportError(name)


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_pass, "import_module", _missing)
    monkeypatch.setitem(calibration.WHY_NOT, "compiled", lambda device: "not here")
    with pytest.raises(ValueError, match=r"the runtime onnx cannot be had: onnx is not installed \(pip install"):
        choose_runtime(tiny(), 10, 4, CPU, mode="onnx")
    chosen, report = choose_runtime(tiny(), MANY, 4, CPU, precision="float32")
    assert any(why.startswith("float32 onnx not tried: onnx is not installed") for why in report["why"])
    assert chosen.mode != "onnx"


def test_an_extraction_by_onnxruntime(tmp_path: Path) -> None:
    """The stream says so, is as torch's, and is completed in the same way."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    faces, rows = some_faces(9), []
    (tmp_path / "v").mkdir()
    for frame, face in enumerate(faces):
        Image.fromarray(face.numpy()).save(tmp_path / f"v/{frame}.png")
        rows.append(("v", frame, f"v/{frame}.png"))
    frames = conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "made")
    cache, backbone = Cache.open(tmp_path / "cache.zarr", create=True), tiny()
    settings = Settings(device=CPU, batch_size=4, num_threads=1, shard_rows=4, runtime="onnx")
    extract(frames, tmp_path, cache, [backbone], dataclasses.replace(settings, part=(1, 2)))
    extract(frames, tmp_path, cache, [backbone], dataclasses.replace(settings, runtime="auto"))
    stream = cache.stream("expr")
    expected = plainly(backbone, "float32", CPU)(faces).numpy()
    np.testing.assert_allclose(stream.read(), expected, rtol=2e-3, atol=1e-4)
    assert (stream.provenance["precision"], stream.provenance["mode"]) == ("float32", "onnx")
    assert "onnxruntime" in stream.provenance["versions"]
