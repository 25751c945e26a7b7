"""A billion faces on paper: the simulation agrees, and each limit shows where it must."""

import dataclasses
import subprocess
import sys

import pytest

from bench.simulate import Plan, costs, devices_until, on_paper, simulate

SMALL = Plan(faces=4_096_000, gpus=8, lifetime_hours=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"faces_per_s": 50_000.0},
        {"archive_faces": 0},
        {"archive_faces": 0, "gets_per_s": 900.0},
        {"puts_per_s": 5.0},
        {"put_s": 20.0},
        {"bytes_per_s": 2e6},
        {"driver_s": 1.0},
        {"gpus": 1},
        {"gpus": 40, "lifetime_hours": 0.05, "restart_s": 10.0},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_the_simulation_agrees_with_the_paper(changes: dict) -> None:
    plan = dataclasses.replace(SMALL, **changes)
    assert simulate(plan).hours == pytest.approx(on_paper(plan).hours, rel=0.12)


def test_hours_are_faces_over_devices_and_their_rate() -> None:
    assert on_paper(SMALL).hours == pytest.approx(4_096_000 / 3_376 / 8 / 3600)
    assert on_paper(Plan(lifetime_hours=0)).gpu_hours == pytest.approx(1e9 / 3_376 / 3600)


def test_lost_devices_cost_shards_that_are_done_again() -> None:
    """No more than one each, and none where none is lost."""
    lossy = dataclasses.replace(SMALL, lifetime_hours=0.02)
    found = simulate(lossy)
    assert found.redone_shards > 5
    assert found.hours > simulate(SMALL).hours
    assert simulate(SMALL).redone_shards == 0
    assert simulate(lossy) == simulate(lossy)


def test_single_jpegs_are_what_breaks_first() -> None:
    """$5,000 to put, and one prefix feeds one device and a half."""
    single = Plan(archive_faces=0)
    assert costs(single, on_paper(single))["dollars to put the faces"] == pytest.approx(5_000)
    assert costs(single, on_paper(single))["dollars to get the faces"] == pytest.approx(400, rel=1e-5)
    fast = dataclasses.replace(single, get_s=0.0)  # as many requests at once as it takes
    name, devices = next(iter(devices_until(fast).items()))
    assert (name, round(devices, 2)) == ("GET rate of the prefixes", 1.63)
    assert next(iter(devices_until(Plan()))) != "GET rate of the prefixes"
    assert costs(Plan(), on_paper(Plan()))["dollars to put the faces"] == pytest.approx(0.05)


def test_sizes() -> None:
    found = costs(Plan(), on_paper(Plan()))
    assert found["TB of faces"] == pytest.approx(4.0)
    assert found["TB of the stream"] == pytest.approx(1.545, abs=0.002)


def test_the_command() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.simulate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--faces", "1e6", "--gpus", "2", "--set", "driver_s=0")
    assert done.returncode == 0, done.stderr
    assert "1,000,000 faces, 2 devices, 245 shards" in done.stdout
    assert "no such number; there: faces, " in run("--set", "nothing=1").stderr
