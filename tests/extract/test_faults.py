"""Extractions killed at random moments, started twice, over very many frames: the bytes and memory of a calm run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import killed_extraction, many_frames
from helpers.processes import environment, program

NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="no /proc to read memory from")
NEEDS_FORK = pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")


def found_by(main: Callable[[], object], *arguments: object) -> dict:
    """What a program of `helpers` prints as JSON."""
    return json.loads(program(main, *arguments, env=environment(OMP_WAIT_POLICY="PASSIVE")))


# Killed at random moments


@NEEDS_FORK
def test_killed_at_five_moments(tmp_path: Path) -> None:
    assert found_by(killed_extraction.main, "kill", tmp_path, 5, 11, 1)["kills"] >= 5


@pytest.mark.slow
@NEEDS_FORK
@pytest.mark.parametrize(("num_streams", "num_kills"), [(1, 15), pytest.param(2, 35, marks=pytest.mark.long)])
def test_killed_at_many_moments(tmp_path: Path, num_streams: int, num_kills: int) -> None:
    found = found_by(killed_extraction.main, "kill", tmp_path, num_kills, 13, num_streams)
    assert found["kills"] >= num_kills
    assert len(found["phases"]) >= 3, "the moments are not spread"
    assert found["phases"]["between shards"] >= num_kills // 5, found["phases"]


@NEEDS_FORK
def test_killed_at_moments_of_an_extraction_into_an_object_store(tmp_path: Path, s3_url: str) -> None:
    assert found_by(killed_extraction.main, "kill", tmp_path, 3, 19, 1, s3_url)["kills"] >= 3


@pytest.mark.long
@NEEDS_FORK
@pytest.mark.parametrize(("num_streams", "num_kills"), [(1, 20), (2, 30)])
def test_killed_at_many_moments_into_an_object_store(
    tmp_path: Path, s3_url: str, num_streams: int, num_kills: int
) -> None:
    found = found_by(killed_extraction.main, "kill", tmp_path, num_kills, 23, num_streams, s3_url)
    assert found["kills"] >= num_kills
    assert found["phases"]["between shards"] >= num_kills // 5, found["phases"]


# Started twice


@NEEDS_FORK
def test_two_at_once(tmp_path: Path) -> None:
    """One gets through; the other is refused in one line, or finds all done. The bytes are those of one alone."""
    found = found_by(killed_extraction.main, "twice", tmp_path, 6, 17, 2)
    assert found["refused"] + found["both"] == 6
    assert found["refused"] > 0
    assert all("is being written by process" in line for line in found["said"])


@NEEDS_FORK
def test_two_at_once_into_an_object_store(tmp_path: Path, s3_url: str) -> None:
    found = found_by(killed_extraction.main, "twice", tmp_path, 4, 29, 1, s3_url)
    assert found["refused"] + found["both"] == 4
    assert all("is being written by process" in line for line in found["said"])


# Very many frames

MB = 1_000_000


def memory_of(folder: Path, num_frames: int, width: int, batch_size: int = 256) -> dict:
    """`table` and `extraction` in bytes."""
    folder.mkdir()
    for _ in range(2):  # first the frames table
        found = found_by(many_frames.main, folder, num_frames, width, batch_size)
    return found


@pytest.mark.slow
@NEEDS_PROC
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Half a million frames, table and all: 0.5 GB above the backbone at most. A width of 64 spares the disk; what
    grows with the width is a few shards, as the next test shows."""
    few, many = (memory_of(tmp_path / str(rows), rows, 64) for rows in (50_000, 500_000))
    assert many["table"] + many["extraction"] < 500 * MB
    assert many["extraction"] < 300 * MB
    # An embedding of 64 kept for each of them would be 58 MB.
    assert many["extraction"] - few["extraction"] < 30 * MB, (few, many)


@pytest.mark.slow
@NEEDS_PROC
def test_memory_of_wide_embeddings(tmp_path: Path) -> None:
    """Shards of 4,096 rows of 768 are 6 MB each; a few are in memory, whatever the number of frames."""
    few, many = (memory_of(tmp_path / str(rows), rows, 768)["extraction"] for rows in (20_000, 60_000))
    assert many < 250 * MB
    assert many - few < 35 * MB, (few, many)  # the rows themselves: 61 MB
