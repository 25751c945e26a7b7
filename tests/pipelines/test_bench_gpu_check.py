"""`python -m bench.gpu_check` without a GPU: its options, its limits, what it says, and all of it at toy size."""

import dataclasses
import io
import itertools
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from bench import processes
from bench.entries import Entry
from bench.gpu_check import agreement, graphs, packages, running
from bench.gpu_check.__main__ import PARTS, main, parse
from bench.gpu_check.data import made_videos
from bench.gpu_check.lines import PartResult, end_line, print_table, row_line, write_json
from bench.gpu_check.running import Part, run_part
from bench.gpu_check.sizes import QUICK, Sizes
from bench.measure import Row, Target
from pipelines.training.optimise import StackedAdamW

ROOT = Path(__file__).parents[2]
MACHINE = {"device": "cuda", "gpu": "a card"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "graph"], "--only graph: no such part; there: tests, graphs, agreement,"),
        (["--minutes", "0"], "--minutes 0: expected more than 0 and at most 1440"),
        (
            ["--device", "cpu"],
            "--device cpu: a CPU is measured by `make bench`; with --quick it tries the check itself",
        ),
    ],
)
def test_options_that_cannot_be_meant(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_all_parts_are_meant_by_default() -> None:
    asked = parse([])
    assert (asked.only, asked.minutes, asked.device) == (list(PARTS), 8.0, "cuda")
    assert parse(["--only", "nccl, tests"]).only == ["nccl", "tests"]
    assert "compiled" not in parse(["--device", "cpu", "--quick"]).only


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(processes, "machines", lambda: {"cpu": {"cores": "2"}})
    monkeypatch.setattr(running, "start_server", lambda parts: None)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said == "gpu-check: PyTorch finds no CUDA GPU here; --device cpu --quick tries the check without one\n"


def test_packages_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert packages.missing() == []
    assert main(["--wheels", str(tmp_path)]) == 2
    assert f"--wheels {tmp_path}: no wheels there" in capsys.readouterr().err
    (tmp_path / "broken-1-py3-none-any.whl").write_bytes(b"no zip")
    refused = subprocess.CompletedProcess([], 1, "", "WARNING: old\nERROR: Invalid wheel filename\n")
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: refused)
    assert main(["--wheels", str(tmp_path)]) == 2
    assert "pip does not install them: ERROR: Invalid wheel filename\n" in capsys.readouterr().err
    monkeypatch.setattr(packages, "NEEDED", ("zarr", "not-there", "numpy"))
    assert packages.missing() == ["not-there"]
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu-check: not installed here: not-there; where pip works, type `pip download --no-deps ")
    assert said.count("\n") == 1
    pinned = packages.with_versions(["zarr", "not-there"])
    assert re.fullmatch(r"zarr==3\.\d+\.\d+", pinned[0])
    assert pinned[1] == "not-there"


def test_wheels_packed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "a/__init__.py": b"",
        "a/library.so": bytes(range(256)) * 300,
        "a-1.dist-info/RECORD": b"a/__init__.py,,\n",
    }
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    monkeypatch.setattr(packages, "LARGE_BYTES", 1024)
    assert main(["--shrink", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0.1 MiB of wheels, 0.0 MiB now\n"
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]
    with zipfile.ZipFile(wheel) as file:
        assert {name: file.read(name) for name in file.namelist()} == files


@pytest.mark.parametrize("name", ["zarr", "donfig", "numcodecs", "polars", "optuna", "alembic", "sqlalchemy"])
def test_what_the_needed_packages_need_is_needed(name: str) -> None:
    """Their wheels are installed without dependencies."""
    plain = [line for line in requires(name) or () if "extra" not in line and "python_version" not in line]
    found = {re.split(r"[ <>=!~;\[]", line)[0].lower().replace("_", "-") for line in plain}
    assert found <= set(packages.NEEDED)


def error_row(value: float) -> Row:
    return Row(
        id="GR gru", what="error", values=[value], target=Target(1e-6, at_most=True), device="cuda", note="M = 3"
    )


def good(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    assert (sizes, device) == (QUICK, torch.device("cpu"))
    yield error_row(0.0)
    yield error_row(1.0)


def broken(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    yield error_row(0.0)
    print("what it had printed")
    raise RuntimeError("CUDA error: an illegal memory access\nand much more")


def part(function: str, **values: Any) -> Part:
    return Part(function=function, **{"name": "graphs", "module": __name__, "limit_s": 60, "is_check": True, **values})


class Received(list):
    send = list.append


def in_this_process(entry: Entry, device: str, limit_s: float, send: Callable[..., None]) -> Iterator[Row | str]:
    """`bench.processes.rows_of`, which has its own tests, without a process."""
    received = Received()
    send(entry, device, limit_s, received)
    assert received.pop(0) == processes.READY
    yield from received


@pytest.mark.parametrize(
    ("function", "state", "count", "reason"),
    [
        ("good", "done", 2, ""),
        ("broken", "failed", 1, "RuntimeError: CUDA error: an illegal memory access"),
        ("not_there", "failed", 0, f"AttributeError: module {__name__!r} has no attribute 'not_there'"),
    ],
)
def test_a_part_ends_alone(
    function: str,
    state: str,
    count: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(running, "rows_of", in_this_process)
    monkeypatch.setattr(running.multiprocessing, "set_start_method", lambda name, force: None)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(good=good, broken=broken))
    told: list[dict[str, Any]] = []
    result = run_part(part(function), "cpu", 3600, told.append, quick=True)
    assert (result.state, len(result.rows), result.reason) == (state, count, reason)
    assert told == result.rows
    assert not result.is_good, "the second row of the good one misses its target"
    said = capsys.readouterr()
    assert said.out == ""
    assert ("what it had printed" in said.err, "Traceback" in said.err) == (function == "broken", state == "failed")


def test_a_part_that_is_cut_or_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "rows_of", lambda *_: iter([error_row(0.0), "cut after 5 s"]))
    result = run_part(part("good"), "cpu", 60, lambda row: None)
    assert (result.state, len(result.rows), result.reason) == ("cut", 1, "cut after 5 s")
    result = run_part(part("good"), "cpu", 0, lambda row: None)
    assert (result.state, result.rows, result.reason) == ("left out", [], "no time was left")


def test_parts_that_check_nothing_may_miss_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "rows_of", lambda *_: iter([error_row(0.0), error_row(1.0)]))
    told: list[dict[str, Any]] = []
    assert run_part(part("good", is_check=False), "cpu", 60, told.append).is_good
    run_part(part("good", is_check=False, has_targets=False), "cpu", 60, told.append)
    assert [row["verdict"] for row in told] == ["met", "missed", None, None]


def test_a_graph_or_a_device_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of graphs and of devices, with a head on the CPU that learns at another rate."""
    sizes = dataclasses.replace(QUICK, videos=5, video_frames=20, streams=1)
    config, dataset = made_videos(sizes, torch.device("cpu"))
    assert graphs._error(config, dataset, "none", {"temporal": "none"}, 2)[0] == 0
    assert agreement._head_error(*[(config, dataset)] * 2, "none", {"temporal": "none"}, 2) == 0
    step = StackedAdamW.step_on_device
    lots = itertools.cycle([1, 1.01])  # of each pair of stacks the second
    monkeypatch.setattr(StackedAdamW, "step_on_device", lambda self, rates, on: step(self, rates * next(lots), on))
    assert graphs._error(config, dataset, "none", {"temporal": "none"}, 3)[0] > 1e-5
    assert agreement._head_error(*[(config, dataset)] * 2, "none", {"temporal": "none"}, 3) > 0


def test_lines_table_and_file(tmp_path: Path) -> None:
    rows = [
        {"id": name, **error_row(value).to_json()} for name, value in (("GR gru", 0.0), ("GR tcn", 1.0), ("GR", 1.0))
    ]
    assert row_line(rows[1]) == "GR tcn: 1 (1 to 1) (target ≤ 1e-06: missed) error; M = 3"
    results = [PartResult("graphs", True, rows, "done", seconds=2), PartResult("nccl", True, reason="no time was left")]
    assert end_line(results[1]) == "nccl: left out, 0 rows in 0 s: no time was left"
    path = tmp_path / "new" / "gpu.json"
    write_json(path, MACHINE, results)
    found = json.loads(path.read_text())
    assert found["machine"] == MACHINE
    assert [found["parts"]["graphs"]["rows"][1][key] for key in ("id", "value", "verdict")] == ["GR tcn", 1.0, "missed"]
    assert found["parts"]["nccl"]["state"] == "left out"
    console = Console(width=120, record=True, file=io.StringIO())
    print_table(MACHINE, results, console)
    text = console.export_text()
    assert "GR gru" not in text, "single cases that hold are in the file alone"
    assert "GR tcn" in text
    assert "left out" in text


@pytest.mark.long
def test_every_part_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = [
        sys.executable,
        "-m",
        "bench.gpu_check",
        "--device",
        "cpu",
        "--quick",
        "--minutes",
        "20",
        "--out",
        str(out),
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == [name for name in PARTS if name != "compiled"]
    assert all(part["state"] == "done" and part["rows"] for part in parts.values())
