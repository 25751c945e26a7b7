"""A Ray cluster of two nodes on this machine, for tests: `with two_nodes(folder) as cluster`."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TRIES = 3  # the raylet waits 15 s for its workers, which a busy machine may not have ready by then
NODE: Mapping[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@contextmanager
def two_nodes(folder: Path) -> Iterator[Any]:
    """The cluster, whose files are in `folder` (its path must be short: sockets are in it); skips where it cannot be
    started. Its head has no core: workers are on the two nodes, so each can be removed."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, TRIES + 1):
        cluster = Cluster()
        try:
            cluster.add_node(**{**NODE, "num_cpus": 0})
            for _ in range(2):
                cluster.add_node(**NODE)
            break
        except Exception as error:  # Ray's own, of many kinds
            cluster.shutdown()
            if number == TRIES:
                pytest.skip(f"no Ray cluster starts here after {TRIES} tries: {error}")
            time.sleep(2)
    try:
        yield cluster
    finally:
        cluster.shutdown()
