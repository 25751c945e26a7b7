"""The connection to a Ray cluster: where it is, whether it answers, and how many workers it has room for."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.cluster.worker import Place

RAISED = re.compile(r"[\w.]*(Error|Exception): ")
MOST = 300  # characters of a reason; some go on for pages
TCP_S = 5.0
ANSWER_S = 60.0
START = "`ray start --head` starts one, --address HOST:PORT names another"
# ray.init takes minutes to give up on a port where something else answers, and ends the process then.
PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL')"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChoices:
    """`address` is HOST:PORT, or "" for $RAY_ADDRESS or the cluster that this machine belongs to. A worker has so many
    GPUs, a share of one included, and so many cores; 0 cores: one, or an equal share of a node's beside GPUs."""

    address: str = ""
    gpus_per_worker: float = 1.0
    cpus_per_worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that is connected. A worker takes `gpus` and `cpus` of a node."""

    address: str
    gpus: float
    cpus: int

    @property
    def place(self) -> Place:
        return Place(
            device="cuda" if self.gpus else "cpu",
            gpu_share=self.gpus or 1.0,
            num_cores=self.cpus,
            workers=self.workers(),
        )

    def workers(self) -> dict[str, int]:
        """How many workers each machine has room for now, by its name; several nodes of a test may be one."""
        found = Counter[str]()
        for name, node in _named_nodes():
            found[name] += _room(node, self.gpus, self.cpus)
        return dict(found)

    def capacity(self) -> int:
        """Workers that its nodes have room for now."""
        return sum(self.workers().values())

    def require_room(self) -> None:
        """Raises ValueError where there is none for a single worker."""
        if not self.capacity():
            nodes = _nodes()
            num_cpus, num_gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
            raise ValueError(
                f"--engine ray: no node at {self.address} has room for a worker of {self.cpus} CPUs and {self.gpus:g} "
                f"GPUs ({len(nodes)} nodes have {num_cpus:g} CPUs and {num_gpus:g} GPUs together); lower "
                "--cpus-per-worker or --gpus-per-worker, or add nodes"
            )


@contextmanager
def connected(choices: ClusterChoices, device: str) -> Iterator[Cluster]:
    """The cluster of `choices`, until the end of the work; workers on GPUs where it has any, unless `device` is cpu.

    Raises:
        ValueError: Ray is not installed, there is no cluster, it has another version of Ray or Python, or no room.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: with --engine ray the cluster places the workers; use auto, cpu or cuda")
    ray = _ray()
    address = _found(choices.address)
    before = signal.getsignal(signal.SIGTERM)
    # Ray prints what it says of lost workers to standard output, --json or not; this is the switch of its own debugger.
    ray._private.worker._worker_logs_enabled = False
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--engine ray: no connection to {address}: {reason_of(error)}") from None
    try:
        if before is not None:  # Ray takes SIGTERM for itself
            signal.signal(signal.SIGTERM, before)
        cluster = _cluster(address, choices, device)
        cluster.require_room()
        yield cluster
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True


def reason_of(error: BaseException) -> str:
    """An error of Ray's in one line: what was raised last, where it quotes a traceback, else what it says first."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if RAISED.match(line)]
    return raised[-1][:MOST] if raised else lines[0][:MOST] if lines else type(error).__name__


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray; type `pip install 'mtl-affect[ray]'`") from None
    return ray


def _found(address: str) -> str:
    """The address, after something answered there as a cluster of this version does."""
    where = f"--address {address}" if address else "--engine ray"
    variable = os.environ.get("RAY_ADDRESS", "")
    if not address and variable not in ("", "auto", "local"):
        address, where = variable, f"RAY_ADDRESS={variable}"
    if address.startswith("ray://"):
        raise ValueError(f"{where}: run the command on a machine of the cluster, with --address HOST:PORT")
    if address:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{where}: expected HOST:PORT, as in --address 10.0.0.1:6379")
        try:
            socket.create_connection((host, int(port)), TCP_S).close()
        except OSError as error:
            raise ValueError(f"{where}: no Ray cluster there ({error.strerror or error}); {START}") from None
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE, address or "auto"], timeout=ANSWER_S, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{where}: no Ray cluster answered in {ANSWER_S:g} s; {START}") from None
    if probe.returncode:
        raise ValueError(f"{where}: no connection to a Ray cluster ({_last_raised(probe.stderr)}); {START}")
    return address or "auto"


def _last_raised(text: str) -> str:
    """The last error in what a process printed, to its end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if RAISED.match(line)]
    return " ".join(" ".join(lines[starts[-1] :] if starts else lines[-1:]).split())[:MOST] or "no reason given"


def _cluster(address: str, choices: ClusterChoices, device: str) -> Cluster:
    nodes = [node for node in _nodes() if node.get("GPU", 0.0) > 0]
    if device == "cuda" and not nodes:
        raise ValueError(f"--device cuda: the Ray cluster at {address} has no GPU; use --device cpu")
    if device == "cpu" or not nodes:
        return Cluster(address=address, gpus=0.0, cpus=choices.cpus_per_worker or 1)
    shares = [node.get("CPU", 1.0) * choices.gpus_per_worker / node["GPU"] for node in nodes]
    cpus = choices.cpus_per_worker or max(1, math.floor(min(shares)))
    return Cluster(address=address, gpus=choices.gpus_per_worker, cpus=cpus)


def _nodes() -> list[Mapping[str, float]]:
    """What each living node has, by kind."""
    return [node for _, node in _named_nodes()]


def _named_nodes() -> list[tuple[str, Mapping[str, float]]]:
    """The name of the machine of each living node, and what the node has."""
    return [(node["NodeManagerHostname"], node["Resources"]) for node in _ray().nodes() if node["Alive"]]


def _room(node: Mapping[str, float], gpus: float, cpus: int) -> int:
    by_cpu = math.floor(node.get("CPU", 0.0) / cpus)
    if not gpus:
        return by_cpu
    # A share of a GPU is a share of one: 0.4 leaves room for two on each.
    num_gpus = math.floor(node.get("GPU", 0.0))
    return min(by_cpu, num_gpus * math.floor(1 / gpus + 1e-9) if gpus <= 1 else math.floor(num_gpus / gpus))
