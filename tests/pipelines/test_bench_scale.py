"""The measurement of cost per frame goes through every step and prints a row of each."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.scale_steps import RUNS


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to read memory from")
def test_every_step_has_a_row(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.scale", "15000", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == list(RUNS), done.stdout + done.stderr
    assert all(float(row[4]) > 0 and row[2] != "failed" for row in rows)
