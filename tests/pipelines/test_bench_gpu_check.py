"""`python -m bench.gpu_check` without a GPU: its options, its limits, what it says, and all of it at toy size."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.gpu_check import packages
from bench.gpu_check.__main__ import PARTS, main, parse
from bench.gpu_check.lines import PartResult, end_line, print_table, row_line, write_json
from bench.gpu_check.running import Part, run_part
from bench.measure import Row, Target

ROOT = Path(__file__).parents[2]
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
MACHINE = {"device": "cuda", "torch": "2.11"}


def error_row(value: float) -> Row:
    return Row(
        id="GR gru", what="error", values=[value], target=Target(1e-6, at_most=True), device="cuda", note="M = 3"
    )


def good() -> Iterator[Row]:
    yield error_row(0.0)
    yield error_row(1.0)


def broken() -> Iterator[Row]:
    yield error_row(0.0)
    raise RuntimeError("CUDA error: an illegal memory access\nand much more")


def endless() -> Iterator[Row]:
    yield error_row(0.0)
    time.sleep(600)
    yield error_row(0.0)


def killed() -> Iterator[Row]:
    yield error_row(0.0)
    os._exit(9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "graph"], "--only graph: no such part; there: tests, graphs,"),
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


@WITHOUT_GPU
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("name", ["zarr", "donfig", "numcodecs", "polars", "optuna", "alembic", "sqlalchemy"])
def test_what_the_needed_packages_need_is_needed(name: str) -> None:
    """Their wheels are installed without dependencies."""
    plain = [line for line in requires(name) or () if "extra" not in line and "python_version" not in line]
    found = {re.split(r"[ <>=!~;\[]", line)[0].lower().replace("_", "-") for line in plain}
    assert found <= set(packages.NEEDED)


@pytest.mark.parametrize(
    ("run", "limit_s", "state", "count", "reason"),
    [
        (good, 60, "done", 2, ""),
        (broken, 60, "failed", 1, "RuntimeError: CUDA error: an illegal memory access"),
        (endless, 0.5, "cut", 1, "after its 0 s"),
        (killed, 60, "failed", 1, "its process ended with exit code 9"),
        (good, 0, "left out", 0, "no time was left"),
    ],
)
def test_a_part_ends_alone(run, limit_s: float, state: str, count: int, reason: str) -> None:
    told = []
    result = run_part(Part(name="graphs", run=run, limit_s=limit_s, is_check=True), 3600, told.append)
    assert (result.state, len(result.rows), result.reason) == (state, count, reason)
    assert told == result.rows
    assert not result.is_good, "the second row of the good one misses its target"


def test_parts_that_check_nothing_may_miss_their_targets() -> None:
    part = Part(name="stacks", run=good, limit_s=60)
    assert run_part(part, 60, lambda row: None).is_good
    told = []
    run_part(Part(name="stacks", run=good, limit_s=60, has_targets=False), 60, told.append)
    assert [row["verdict"] for row in told] == [None, None]


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
