"""What a worker of a cluster must share with the driver, how a cluster is found, and where workers fit."""

import http.server
import os
import pickle
import platform
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import stub_study
from helpers.processes import ROOT
from pipelines.cli.options import cluster_of
from pipelines.cluster import connection, pool
from pipelines.cluster.connection import ClusterChoices, _cluster, _last_raised, _room, connected, reason_of
from pipelines.cluster.pool import Lost, Pool
from pipelines.cluster.requirements import Requirements, code_digest, requirements, versions
from pipelines.cluster.worker import Done, Failed, Place, Stopped, Worker
from pipelines.extraction.on_ray import _Progress, _report, num_rows
from pipelines.extraction.one import ExtractionBar
from pipelines.search.grid import expand
from pipelines.search.on_ray import _lost_errors, _portable, _with_memory
from pipelines.search.study import Study, make_trials
from pipelines.strategy import strategy_of

# What a worker must have


@pytest.fixture
def needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Requirements]:
    monkeypatch.chdir(tmp_path)
    for name in ("faces", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights").write_bytes(b"weights")
    found = requirements([Path("weights")], [Path("faces")], Path("cache"))
    found.renew()
    yield found
    found.remove()
    assert not list((tmp_path / "cache").iterdir())


def test_a_worker_that_has_all_of_it(needed: Requirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert needed.problem() == ""
    assert Path.cwd() == tmp_path  # relative paths start where the driver's do
    assert Worker().check(needed) == ""


def test_a_worker_without_the_weights_file(needed: Requirements) -> None:
    Path("weights").unlink()
    assert (
        Worker()
        .check(needed)
        .endswith("has no file weights; every node needs it under the same path, on a file system that they share")
    )


def test_a_worker_with_other_weights(needed: Requirements) -> None:
    Path("weights").write_bytes(b"other..")
    assert needed.problem().startswith("has another weights than the driver, by its digest;")


def test_a_worker_without_the_faces(needed: Requirements) -> None:
    Path("faces").rmdir()
    assert needed.problem().startswith("has no folder faces; every node needs it")


def test_a_worker_with_a_cache_of_its_own(needed: Requirements) -> None:
    needed.remove()
    assert needed.problem().startswith("sees another cache than the driver; every node needs it")


def test_a_worker_without_the_working_folder(needed: Requirements) -> None:
    assert replace(needed, folder="/no/such").problem().startswith("has no folder /no/such; every node needs it")


@pytest.mark.parametrize("name", ["mtl", "Python", "torch"])
def test_a_worker_of_another_version(needed: Requirements, name: str) -> None:
    found = versions()[name]
    other = replace(needed, versions={**needed.versions, name: "2.6"})
    assert other.problem() == f"has {name} {found}, the driver has 2.6; install the same on all nodes"


def test_the_code_is_told_by_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.cluster.requirements.import_module",
        lambda name: SimpleNamespace(__file__=str(tmp_path / name / "__init__.py")),
    )
    for name in ("cache", "extract", "heads", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    before = code_digest()
    (tmp_path / "heads" / "__init__.py").write_text("x")
    assert code_digest() != before


# Workers


class Job:
    """Doubles numbers."""

    def prepare(self, place: Place) -> None:
        if place.device == "none":
            raise ValueError("no device")

    def do(self, item: int, tell, check) -> int:
        tell(item)
        check()
        if item < 0:
            raise OSError("full")
        return 2 * item


def test_a_worker_does_what_it_is_given() -> None:
    worker, job = Worker(), pickle.dumps(Job())
    failed = worker.prepare(job, Place(device="none", gpu_share=1.0, num_cores=1))
    assert isinstance(failed, Failed)
    assert worker.prepare(job, Place(device="cpu", gpu_share=1.0, num_cores=1)) == Done(None, [])
    assert worker.do(2) == Done(4, [2])
    assert isinstance(worker.do(-1), Failed)
    assert worker.told() == [-1]
    worker.stop()
    assert worker.do(3) == Stopped()


# Where a cluster is


def test_options_go_together() -> None:
    assert cluster_of("local", "", 1.0, 0) is None
    assert cluster_of("ray", "a:1", 0.5, 2) == ClusterChoices(address="a:1", gpus_per_worker=0.5, cpus_per_worker=2)
    with pytest.raises(ValueError, match="--address a:1: goes with --engine ray only"):
        cluster_of("local", "a:1", 1.0, 0)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nowhere", "--address nowhere: expected HOST:PORT, as in --address 10.0.0.1:6379"),
        ("here:99999", "--address here:99999: expected HOST:PORT"),
        ("ray://here:10001", "run the command on a machine of the cluster, with --address HOST:PORT"),
    ],
)
def test_an_address_that_can_be_none(address: str, says: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(ValueError, match=says), connected(ClusterChoices(address=address), "auto"):
        pass


def test_an_address_where_nothing_is() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(
            ValueError, match=rf"--address {address}: no Ray cluster there \(Connection refused\); `ray start"
        ),
        connected(ClusterChoices(address=address), "auto"),
    ):
        pass


def test_an_address_where_something_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(connection, "ANSWER_S", 2.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        try:
            with (
                pytest.raises(ValueError, match=f"--address {address}: no Ray cluster answered in 2 s; `ray start"),
                connected(ClusterChoices(address=address), "auto"),
            ):
                pass
        finally:
            server.shutdown()


def test_the_address_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(ValueError, match=r"RAY_ADDRESS=127.0.0.1:1: no Ray cluster there \(Connection refused\)"),
        connected(ClusterChoices(), "auto"),
    ):
        pass


def test_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match=r"needs Ray; type `pip install 'mtl-affect\[ray\]'`"),
        connected(ClusterChoices(), "auto"),
    ):
        pass


@pytest.mark.parametrize("device", ["all", "cuda:0", "cuda:0,cuda:1"])
def test_the_cluster_places_the_workers(device: str) -> None:
    with pytest.raises(ValueError, match="the cluster places the workers"), connected(ClusterChoices(), device):
        pass


@pytest.mark.parametrize(
    ("node", "gpus", "cpus", "room"),
    [
        ({"CPU": 8}, 0, 1, 8),
        ({"CPU": 8}, 0, 3, 2),
        ({"CPU": 8, "GPU": 2}, 1, 2, 2),
        ({"CPU": 8, "GPU": 2}, 0.5, 2, 4),
        ({"CPU": 8, "GPU": 2}, 0.5, 4, 2),
        ({"CPU": 8, "GPU": 2}, 0.4, 1, 4),
        ({"CPU": 8, "GPU": 1}, 0.1, 1, 8),
        ({"CPU": 80, "GPU": 1}, 0.1, 1, 10),
        ({"CPU": 8}, 1, 1, 0),
        ({"GPU": 8}, 1, 1, 0),
    ],
)
def test_workers_on_a_node(node: dict[str, float], gpus: float, cpus: int, room: int) -> None:
    assert _room(node, gpus, cpus) == room


@pytest.mark.parametrize(
    ("device", "choices", "gpus", "cpus"),
    [
        ("auto", ClusterChoices(), 1.0, 4),
        ("cuda", ClusterChoices(gpus_per_worker=0.5), 0.5, 2),
        ("auto", ClusterChoices(gpus_per_worker=0.5, cpus_per_worker=3), 0.5, 3),
        ("cpu", ClusterChoices(), 0.0, 1),
        ("cpu", ClusterChoices(cpus_per_worker=4), 0.0, 4),
    ],
)
def test_what_a_worker_takes(
    monkeypatch: pytest.MonkeyPatch, device: str, choices: ClusterChoices, gpus: float, cpus: int
) -> None:
    nodes = [("a", {"CPU": 16}), ("b", {"CPU": 8, "GPU": 2}), ("c", {"CPU": 32, "GPU": 4})]
    monkeypatch.setattr(connection, "_named_nodes", lambda: nodes)
    cluster = _cluster("here", choices, device)
    assert (cluster.gpus, cluster.cpus) == (gpus, cpus)


def test_no_gpu_and_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_named_nodes", lambda: [("a", {"CPU": 1}), ("b", {"CPU": 2})])
    with pytest.raises(ValueError, match="--device cuda: the Ray cluster at here has no GPU; use --device cpu"):
        _cluster("here", ClusterChoices(), "cuda")
    with pytest.raises(ValueError, match=r"a worker of 64 CPUs and 0 GPUs \(2 nodes have 3 CPUs and 0 GPUs together\)"):
        _cluster("here", ClusterChoices(cpus_per_worker=64), "auto").require_room()


def test_workers_of_one_machine_divide_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free is that of the machine, or of the GPU: each worker would take most of it."""
    here = platform.node()
    nodes = [(here, {"CPU": 3}), ("elsewhere", {"CPU": 16}), (here, {"CPU": 5, "GPU": 1})]
    monkeypatch.setattr(connection, "_named_nodes", lambda: nodes)
    monkeypatch.setattr("pipelines.training.resident.free_bytes", lambda device: 8 * 10**9)
    on_cpus, on_gpus = _cluster("here", ClusterChoices(), "cpu"), _cluster("here", ClusterChoices(), "cuda")
    assert on_cpus.place.workers == {here: 8, "elsewhere": 16}
    assert _with_memory(stub_study.make_config(), on_cpus.place).memory_gb == pytest.approx(0.6)
    given = replace(stub_study.make_config(), memory_gb=3.0)
    assert _with_memory(given, on_cpus.place).memory_gb == 3.0
    assert [replace(on_gpus.place, gpu_share=share).memory_share for share in (0.25, 1.0, 2.0)] == [0.25, 1.0, 1.0]


def test_rows_in_any_of_several_ranges() -> None:
    assert num_rows([]) == 0
    assert num_rows([(4, 8), (0, 4), (2, 6), (10, 11)]) == 9


# The job script of the page


def test_the_job_script_starts_a_cluster_and_works_on_it(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (script,) = [text for text in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) if "mtl-ray" in text]
    said = tmp_path / "said"
    stands = {
        "scontrol": "echo first; echo second; echo third",
        "sleep": "exit 0",
        "srun": f'echo "$@" >> {said}',
    }
    (tmp_path / "bin").mkdir()
    for name, body in stands.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    (tmp_path / "job.sh").write_text(script)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "x"}
    subprocess.run(["bash", str(tmp_path / "job.sh")], env=environment, check=True, timeout=60)
    lines = sorted(said.read_text().splitlines())
    assert lines == sorted(
        [
            "--nodes=1 --ntasks=1 --overlap -w first ray start --head --node-ip-address=first --port=6379 --block",
            "--nodes=2 --ntasks=2 --overlap --exclude=first ray start --address=first:6379 --block",
            "--nodes=1 --ntasks=1 --overlap -w first mtl extract --engine ray --address first:6379",
            "--nodes=1 --ntasks=1 --overlap -w first mtl search --grid grids/joint.toml --engine ray "
            "--address first:6379",
        ]
    )


def test_reasons_take_one_line() -> None:
    assert reason_of(RuntimeError("The actor died unexpectedly.\n\tclass_name: Worker\n\tpid: 3")) == (
        "The actor died unexpectedly."
    )
    raised = (
        "The actor died because of an error\nTraceback:\n  File x\nModuleNotFoundError: No module named 'pipelines'"
    )
    assert reason_of(RuntimeError(raised)) == "ModuleNotFoundError: No module named 'pipelines'"
    printed = "Traceback:\nRuntimeError: Version mismatch: started with:\n    Ray: 2.9\n    Python: 3.10\n"
    assert _last_raised(printed) == "RuntimeError: Version mismatch: started with: Ray: 2.9 Python: 3.10"
    assert _last_raised("") == "no reason given"


# What goes wrong in a stack


class Odd(Exception):
    """Cannot travel: it takes two arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_errors_of_trials_travel_with_their_traceback() -> None:
    assert _portable(None) is None
    try:
        raise ValueError("the loss is not finite")
    except ValueError as error:
        found = pickle.loads(pickle.dumps(_portable(error)))
    assert (type(found), str(found)) == (ValueError, "the loss is not finite")
    assert "test_errors_of_trials_travel_with_their_traceback" in "".join(traceback.format_exception(found))
    odd = _portable(Odd("a", "b"))
    assert (type(odd), str(odd)) == (RuntimeError, "ab")


def test_a_part_that_no_worker_survives_ends_the_extraction() -> None:
    with pytest.raises(ValueError, match=r"part 3 of 16 of the shards: its workers were lost .* \(killed; perhaps"):
        _report((3, 16), Lost("killed"), _Progress(ExtractionBar("extract")))


def test_a_stack_that_no_worker_survives_fails_but_for_the_runs_that_are_there(tmp_path: Path) -> None:
    frames, config = stub_study.make_frames(), stub_study.make_config()
    inputs = stub_study.make_inputs(frames, config)
    strategies = expand(stub_study.make_grid({"product": {"seed": [0, 1]}}), strategy_of(config))
    trials = make_trials(strategies, config, inputs)
    study = Study(tmp_path, {trial.digest: trial for trial in trials})
    stub_study.write_run(study.run_folder(trials[1]), trials[1].strategy, frames, config)
    lost, written = _lost_errors(study, list(trials), Lost("out of memory"))
    assert "workers were lost again and again (out of memory" in str(lost)
    assert written is None


def test_a_driver_without_workers_says_what_it_waits_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = object.__new__(Pool)
    waiting._members, waiting._alive_s, waiting._has_told = [], time.monotonic() - pool.NOTICE_S - 1, False
    monkeypatch.setattr(pool, "POLL_S", 0.0)
    with pytest.warns(UserWarning, match="no worker: waiting up to 15 minutes for a node"):
        assert list(waiting._turn()) == []
    assert list(waiting._turn()) == []  # warnings are errors here
