"""`--engine ray` on a cluster of two nodes: the bytes and the leaderboard of one machine, whatever is killed."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cache.frames import write_frames
from cache.store import Cache
from helpers import ray_cluster
from helpers.cli import refused, typed
from helpers.face_project import BACKBONE, FACES
from helpers.made_project import TOML, Made
from helpers.processes import ROOT, start
from helpers.ray_cluster import kill_one, variables, when
from helpers.small_faces import make_faces
from pipelines.cli import main

pytestmark = [pytest.mark.long, pytest.mark.slow]

CACHE = "[cache]\nshard_rows = 8\n"
EXTRACT = ("extract", "--quiet", "--views", "base,hflip,aug:2")
GRID = """
[product]
temporal = ["none", "gru", "tcn"]
lr = [1e-3, 2e-3]
seed = [0, 1]
[[list]]
fusion = "sum"
[[list]]
fusion = "concat"
"""
SEARCH = ("search", "--quiet", "--grid", "grid.toml")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster.two_nodes() as cluster:
        yield cluster


@pytest.fixture
def on_ray(cluster: Any) -> tuple[str, ...]:
    return "--engine", "ray", "--address", cluster.address


# Extraction


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project, and in `local` the cache and the report that one process makes."""
    folder = tmp_path_factory.mktemp("faces")
    write_frames(make_faces(folder / "faces"), folder / "frames.parquet")
    backbones = [BACKBONE.format(name=name, model=model) for name, model in (("va", "test_vit2"), ("au", "test_vit"))]
    (folder / "mtl.toml").write_text(FACES + CACHE + TOML + "".join(backbones))
    broken = next((folder / "faces").rglob("*.jpg"))
    broken.write_bytes(b"no picture")
    (folder / "local").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, out, _ = typed(*EXTRACT, "--device", "cpu", "--json")
    assert code == 1
    (folder / "local" / "report.json").write_text(out)
    (folder / "cache.zarr").rename(folder / "local" / "cache.zarr")
    return folder


@pytest.fixture
def extracting(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for one extraction of that project."""
    for name in ("faces", "frames.parquet", "mtl.toml"):
        (tmp_path / name).symlink_to(faces / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    root = folder / "cache.zarr"
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def num_marks(folder: Path) -> int:
    """Shards that are done, of all streams."""
    try:
        cache = Cache.open(folder / "cache.zarr", read_only=True)
        return sum(len(cache.stream(*key).done_shards()) for key in cache.streams())
    except ValueError:  # it is being made
        return 0


def reported(out: str) -> dict[str, Any]:
    """What does not depend on the time it took."""
    return {key: value for key, value in json.loads(out).items() if key not in ("seconds", "faces_per_s")}


def test_a_worker_killed_and_a_node_removed_in_an_extraction(
    extracting: Path, faces: Path, cluster: Any, on_ray: tuple[str, ...]
) -> None:
    local = json.loads((faces / "local" / "report.json").read_text())
    with when(lambda: num_marks(extracting) >= 3, kill_one), when(lambda: num_marks(extracting) >= 60, remove(cluster)):
        code, out, err = typed(*EXTRACT, *on_ray, "--json")
        assert (code, err) == (1, "")
    cluster.add_node(**ray_cluster.NODE)
    assert reported(out) == reported(json.dumps(local))
    assert files_of(extracting) == files_of(faces / "local")
    assert not list(extracting.glob("cache.zarr/.tmp-*"))
    again = json.loads(typed(*EXTRACT, "--engine", "ray", "--address", "127.0.0.1:1", "--json").out)
    assert (again["num_done"], again["num_skipped"], again["failed"]) == (0, 384, local["failed"])


def test_drivers_stopped_in_an_extraction(extracting: Path, faces: Path, on_ray: tuple[str, ...]) -> None:
    """Each resumes what the one before it left."""
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        before = num_marks(extracting)
        assert stopped(number, lambda: num_marks(extracting), 3, *EXTRACT, *on_ray) == code
        assert before < num_marks(extracting) < num_marks(faces / "local")
    report = json.loads(typed(*EXTRACT, *on_ray, "--json").out)
    assert report["num_done"] < 384
    assert report["num_done"] + report["num_skipped"] == 384
    assert files_of(extracting) == files_of(faces / "local")


def remove(cluster: Any) -> Callable[[], None]:
    return lambda: cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)


def stopped(number: int, count: Callable[[], int], more: int, *words: str) -> int:
    """The exit code of `mtl WORDS` in a process of its own, signalled when `count()` has grown by `more`."""
    before, driver = count(), start(main, *words, cwd=Path.cwd(), env=variables())
    with when(lambda: count() >= before + more, lambda: os.kill(driver.process.pid or 0, number)):
        code, _, err = driver.end()
    assert "Traceback" not in err
    return code


# Search


@pytest.fixture(scope="module")
def searched(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project and the study of it that one process makes."""
    folder = tmp_path_factory.mktemp("searched")
    made.write(folder)
    (folder / "grid.toml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert typed(*SEARCH, "--device", "cpu").code == 0
    return folder


@pytest.fixture
def searching(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mtl.toml", "frames.parquet", "grid.toml"):
        shutil.copy(searched / name, tmp_path / name)
    shutil.copytree(searched / "cache.zarr", tmp_path / "cache.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("studies/grid/runs/*/run.json"))


def assert_same_study(folder: Path, local: Path) -> None:
    names = [path.name for path in runs_of(local)]
    assert [path.name for path in runs_of(folder)] == names
    for name in names:
        for file in ("predictions.parquet", "metrics.json"):
            ours, theirs = (each / "studies" / "grid" / "runs" / name / file for each in (folder, local))
            assert ours.read_bytes() == theirs.read_bytes(), (name, file)
    boards = [pl.read_csv(each / "studies" / "grid" / "leaderboard.csv").drop("seconds") for each in (folder, local)]
    assert boards[0].equals(boards[1], null_equal=True)
    assert not [path.name for path in (folder / "studies" / "grid" / "runs").iterdir() if path.name[0] == "."]


def test_a_worker_killed_and_a_node_removed_in_a_search(
    searching: Path, searched: Path, cluster: Any, on_ray: tuple[str, ...]
) -> None:
    with (
        when(lambda: len(runs_of(searching)) >= 2, kill_one),
        when(lambda: len(runs_of(searching)) >= 10, remove(cluster)),
    ):
        code, out, err = typed(*SEARCH, *on_ray)
        assert (code, err) == (0, "")
    cluster.add_node(**ray_cluster.NODE)
    assert "24 trials: 0 finished before, 24 to run" in out
    assert_same_study(searching, searched)
    again = typed(*SEARCH, "--engine", "ray", "--address", "127.0.0.1:1")
    assert (again.code, "24 finished before, 0 to run" in again.out) == (0, True)


def test_drivers_stopped_in_a_search(searching: Path, searched: Path, on_ray: tuple[str, ...]) -> None:
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        assert stopped(number, lambda: len(runs_of(searching)), 2, *SEARCH, *on_ray) == code
        assert len(runs_of(searching)) < 24
    assert typed(*SEARCH, *on_ray).code == 0
    assert_same_study(searching, searched)


# What is refused


def test_a_worker_of_other_code(
    extracting: Path, cluster: Any, on_ray: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in ("cache", "extract", "heads", "pipelines"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "heads" / "blocks.py").open("a") as file:
        file.write("# changed\n")
    node = cluster.add_node(**{**ray_cluster.NODE, "num_cpus": 3}, env_vars={"PYTHONPATH": str(other)})
    try:
        err = refused(*EXTRACT, *on_ray, "--cpus-per-worker", "3")
    finally:
        cluster.remove_node(node)
    assert "has mtl 0.1.0 (" in err
    assert "install the same on all nodes" in err
