"""`--engine ray` with the cache in an object store: the bytes, the runs and the leaderboard of one machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from cache.frames import write_frames
from cache.storage.objects import ObjectStorage
from helpers import object_store, ray_cluster
from helpers.cli import typed
from helpers.face_project import BACKBONE, FACES
from helpers.made_project import TOML
from helpers.object_store import SECRET, objects_of
from helpers.ray_cluster import kill_one, when
from helpers.small_faces import make_faces

pytestmark = [pytest.mark.long, pytest.mark.slow]

EXTRACT = ("extract", "--quiet")
SEARCH = ("search", "--quiet", "--grid", "grid.toml")
GRID = '[product]\ntemporal = ["none", "gru"]\nlr = [1e-3, 2e-3]\nseed = [0, 1]\n'
CACHE = '[cache]\npath = "{url}"\nshard_rows = 8\n'
IN_FOLDER = ("--set", "cache.path=folder.zarr", "--device", "cpu")


@pytest.fixture(scope="module")
def on_ray(s3_server: str) -> Iterator[tuple[str, ...]]:
    """A cluster whose workers have the store's variables from where their nodes were started."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment(s3_server).items():
            patch.setenv(name, value)
        with ray_cluster.two_nodes() as cluster:
            yield "--engine", "ray", "--address", cluster.address


def files_of(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if not name.endswith(".lock")}


def num_shards(url: str) -> int:
    return sum("/c/" in entry.key for entry in ObjectStorage(url).entries(""))


def test_extraction_and_search_with_workers_killed(
    tmp_path: Path, s3_url: str, on_ray: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_frames(make_faces(tmp_path / "faces"), tmp_path / "frames.parquet")
    backbones = [BACKBONE.format(name=name, model=model) for name, model in (("va", "test_vit2"), ("au", "test_vit"))]
    (tmp_path / "mtl.toml").write_text(FACES + CACHE.format(url=s3_url) + TOML + "".join(backbones))
    (tmp_path / "grid.toml").write_text(GRID)
    assert typed(*EXTRACT, *IN_FOLDER).code == 0
    assert typed(*SEARCH, *IN_FOLDER).code == 0
    shutil.move("studies", "local")
    with when(lambda: num_shards(s3_url) >= 3, kill_one):
        code, _, err = typed(*EXTRACT, *on_ray)
        assert (code, err) == (0, "")
    assert objects_of(s3_url) == files_of(tmp_path / "folder.zarr")
    runs = tmp_path / "studies" / "grid" / "runs"
    with when(lambda: bool(list(runs.glob("*/run.json"))), kill_one):
        code, _, err = typed(*SEARCH, *on_ray)
        assert (code, err) == (0, "")
    boards = [
        pl.read_csv(tmp_path / each / "grid" / "leaderboard.csv").drop("seconds") for each in ("studies", "local")
    ]
    assert boards[0].equals(boards[1], null_equal=True)
    for path in (tmp_path / "local" / "grid" / "runs").glob("*/predictions.parquet"):
        assert (runs / path.parent.name / path.name).read_bytes() == path.read_bytes()
    assert SECRET not in "".join(path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.is_file())
