"""A Ray cluster of two nodes on this machine, for tests; its workers, and what is done to them under way."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.processes import environment

TRIES = 3  # the raylet waits 15 s for its processes, which a busy machine may not have ready by then
LIMIT_S = 120.0
NODE: Mapping[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """The cluster; skips where it cannot be started. Its head has no core: workers are on the two nodes, so that each
    can be removed."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="r"))  # a short path: sockets are in it
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(RAY_TMPDIR=str(folder), RAY_USAGE_STATS_ENABLED="0").items():
            patch.setenv(name, value)
        cluster = _started(Cluster)
        try:
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _started(make: Callable[[], Any]) -> Any:
    for number in range(1, TRIES + 1):
        cluster = make()
        try:
            for num_cpus in (0, 1, 1):
                cluster.add_node(**{**NODE, "num_cpus": num_cpus})
        except Exception as error:  # Ray's own, of many kinds
            cluster.shutdown()
            reason = f"no Ray cluster starts here: {str(error).splitlines()[0]}"
            time.sleep(2 * number)
        else:
            return cluster
    return pytest.skip(f"{reason}, {TRIES} times")


def workers() -> list[psutil.Process]:
    """The processes that work now, of the clusters of this process alone."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if (process.cmdline() or [""])[0].startswith("ray::Worker"):
                found.append(process)
    return found


@contextmanager
def when(is_time: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """`act` as soon as `is_time`, while the body runs; it must have come to that."""
    done, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if is_time():
                act()
                done.set()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LIMIT_S)
    assert done.is_set(), "it was over before that"


def kill_one() -> None:
    """SIGKILL to one of the workers."""
    workers()[0].kill()


def variables() -> dict[str, str]:
    """For a driver of its own."""
    return environment(RAY_TMPDIR=os.environ["RAY_TMPDIR"])
