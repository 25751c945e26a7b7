"""The commands with a cache in an object store: what they print, write and refuse, as with one in a folder."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.frames import write_frames
from cache.store import Cache
from cache.verify import verify
from helpers.cli import call, refused, typed
from helpers.made_project import TOML
from helpers.object_store import SECRET, Gateway, objects_of
from helpers.small_faces import make_faces
from pipelines.config import read_config

BACKBONE = '\n[backbones.{name}]\nmodel = "{model}"\nweights = "random"\nsize_px = 32\n'
EXTRACT = ("extract", "--device", "cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toml(url: str) -> str:
    backbones = [BACKBONE.format(name=name, model=model) for name, model in (("va", "test_vit2"), ("au", "test_vit"))]
    place = f'[cache]\npath = "{url}"\nlocal = "local"\nshard_rows = 100\n'
    return "\n".join(['[data]\nfaces = "faces"\n', place, TOML, *backbones])


@pytest.fixture
def project(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 videos of 16 faces, two backbones, and no cache yet."""
    monkeypatch.chdir(tmp_path)
    write_frames(make_faces(tmp_path / "faces"), tmp_path / "frames.parquet")
    (tmp_path / "mtl.toml").write_text(toml(s3_url))
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if not name.endswith(".lock")}


def test_from_faces_to_a_run(project: Path, s3_url: str) -> None:
    """The same bytes, the same lines, the same scores as with a folder; `mtl verify`, `rm` and the rest on the way."""
    in_folder = ("--config", "folder.toml")
    (project / "folder.toml").write_text(toml("folder.zarr").replace('local = "local"\n', ""))
    assert typed(*EXTRACT, *in_folder)[0] == 0
    for part in ("2/2", "1/2"):
        assert typed(*EXTRACT, "--shard", part)[0] == 0
    assert objects_of(s3_url) == files_of(project / "folder.zarr")
    code, out, err = typed(*EXTRACT)
    assert (code, err) == (0, "")
    assert out == typed(*EXTRACT, *in_folder)[1]
    assert call("cache", "ls", "--json") == call("cache", "ls", "--json", *in_folder)
    assert call("cache", "info", "va", "--json") == call("cache", "info", "va", "--json", *in_folder)
    assert f"{s3_url}: 2 streams, all whole" in call("cache", "verify")
    train = ("train-head", "--temporal", "none", "--device", "cpu", "--json")
    call(*train, "--name", "there")
    call(*train, "--name", "here", *in_folder)
    assert (project / "runs/there/metrics.json").read_bytes() == (project / "runs/here/metrics.json").read_bytes()
    kept = {path.name for path in (project / "local").rglob("*") if path.is_file()}
    stream = Cache.open(s3_url).stream("va")
    assert {stream.mark(0).file.blake2b} < kept
    assert SECRET not in "".join(path.read_text(errors="ignore") for path in project.rglob("*") if path.is_file())


def test_damage_repair_rm_import_and_export(project: Path, s3_url: str) -> None:
    call(*EXTRACT, "--backbone", "va")
    whole = objects_of(s3_url)
    cache = Cache.open(s3_url)
    data = bytearray(whole["va/base/embedding/c/1/0"])
    data[7] ^= 1
    cache.files.put("va/base/embedding/c/1/0", bytes(data))
    code, out, _ = typed("cache", "verify", "--json")
    assert (code, json.loads(out)["damages"][0]["shard"]) == (1, 1)
    assert typed("cache", "verify", "--repair")[0] == 1
    assert "100 faces" in call(*EXTRACT, "--backbone", "va")
    assert objects_of(s3_url) == whole
    call("cache", "export", "va", "--to", "va.npy")
    vectors = np.load("va.npy")
    assert np.array_equal(vectors, cache.stream("va").read())
    call("cache", "import", "copy", "va.npy", "--keys", "va.parquet")
    assert np.array_equal(Cache.open(s3_url).stream("copy").read(), vectors)
    assert f"{s3_url}: removed va" in call("cache", "rm", "va", "--yes")
    assert Cache.open(s3_url).streams() == [("copy", "base")]


@pytest.mark.long
@pytest.mark.slow
def test_two_processes(project: Path, s3_url: str) -> None:
    """One process per device, each with the claim of its part."""
    code, _, err = typed("extract", "--device", "cpu,cpu", "--backbone", "au")
    assert (code, err) == (0, "")
    stream = Cache.open(s3_url).stream("au")
    assert verify(stream, None, None, lambda count: None) == []
    assert list(stream.files.keys("embedding/claims")) == []


def test_bad_places(project: Path, s3_url: str) -> None:
    line = refused(*EXTRACT, "--set", "cache.path=s3://no-such-bucket/cache")
    assert line.startswith("mtl: error: s3://no-such-bucket: there is no such bucket; make it, or correct path under")
    assert f"{s3_url}: there is no cache here; `mtl extract` makes one" in refused("cache", "ls")
    assert f"{s3_url}: there is no cache here; type `mtl extract`" in refused("train-head")


def test_a_store_that_goes_away(project: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused from some request on: one line, and the same command finishes afterwards."""
    with Gateway(os.environ["AWS_ENDPOINT_URL"]).serve() as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        gateway.plan = lambda request: 403 if request.path.endswith("/marks/00000001.mark") else None
        line = refused(*EXTRACT, "--backbone", "va")
        assert f"{s3_url}/va/base/embedding/marks/00000001.mark: may not be" in line
        assert SECRET not in line
        gateway.plan = lambda request: None
        assert Cache.open(s3_url).stream("va").done_shards() == [0]
        call(*EXTRACT, "--backbone", "va")
        assert Cache.open(s3_url).stream("va").is_complete


WRITES = ("PUT", "POST", "DELETE")
READING = [
    ("cache", "ls"),
    ("cache", "info", "va"),
    ("cache", "verify"),
    ("cache", "export", "va", "--to", "again.npy"),
]
WRITING = [
    ("cache", "rm", "va", "--yes"),
    ("cache", "verify", "--repair"),
    ("cache", "import", "copy", "va.npy", "--keys", "va.parquet"),
    (*EXTRACT, "--backbone", "au"),
]


@pytest.mark.long
@pytest.mark.slow
def test_a_bucket_without_permission(project: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of none, of none to list, and of none to write: one line each, and nothing is changed; what only reads, and an
    extraction that finds all done, write nothing."""
    call(*EXTRACT, "--backbone", "va")
    call("cache", "export", "va", "--to", "va.npy")
    before = objects_of(s3_url)
    with Gateway(os.environ["AWS_ENDPOINT_URL"]).serve() as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        for plan, key in (
            (lambda request: 403, "/zarr.json: may not be read (status 403"),
            (lambda request: 403 if "list-type" in request.path else None, ": may not be listed (status 403"),
        ):
            gateway.plan = plan
            for words in (READING[0], WRITING[0], WRITING[-1], ("train-head",)):
                line = refused(*words)
                assert f"{s3_url}{key}" in line, words
                assert "AWS_SECRET_ACCESS_KEY in the environment, what they allow, and AWS_ENDPOINT_URL" in line
                assert SECRET not in line
        gateway.plan = lambda request: 403 if request.method in WRITES else None
        for words in WRITING:
            assert f"{s3_url}/zarr.json: may not be written (status 403 Made); check" in refused(*words), words
        for words in (*READING, (*EXTRACT, "--backbone", "va")):
            call(*words)
        assert objects_of(s3_url) == before


def test_a_gateway_without_conditions_is_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Gateway(os.environ["AWS_ENDPOINT_URL"]).serve() as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        gateway.plan = lambda request: "unconditional" if request.method == "PUT" else None
        assert call(*EXTRACT, "--backbone", "va").count("ignores conditional writes") == 1
        assert typed("cache", "verify", "--repair").err.count("ignores conditional writes") == 1


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("s3://key:secret@bucket/cache", "keys and passwords are read from the environment"),
        ("s3://bucket/cache?X-Amz-Signature=secret", "keys and passwords are read from the environment"),
        ("s3://bucket", "write s3://BUCKET/PREFIX"),
        ("s3:///cache", "write s3://BUCKET/PREFIX"),
        ("s3://bucket/../cache", "write s3://BUCKET/PREFIX"),
        ("az://container", "write az://CONTAINER/PREFIX"),
        ("s3:/bucket/cache", "a URL has two slashes: s3://bucket/cache"),
        (
            "http://host/cache",
            "http://: unknown kind of place for a cache; known: a folder, file://, s3://, gs://, az://",
        ),
        ("file://host/cache", "write file:///FOLDER"),
    ],
)
def test_urls_that_are_none(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "mtl.toml").write_text(f'[cache]\npath = "{path}"\n')
    with pytest.raises(ValueError, match=r"mtl\.toml: \[cache\] path: ") as caught:
        read_config(tmp_path / "mtl.toml")
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_places_of_a_cache(tmp_path: Path) -> None:
    def place(text: str) -> object:
        return read_config(tmp_path / "mtl.toml", [f"cache.path={text}"]).cache_location()

    (tmp_path / "mtl.toml").write_text("")
    assert place("cache.zarr") == tmp_path / "cache.zarr"
    assert place("/data/cache.zarr") == Path("/data/cache.zarr")
    assert place("file:///data/my%20cache.zarr") == Path("/data/my cache.zarr")
    assert str(place("gs://bucket/a/b/")) == "gs://bucket/a/b"
    (tmp_path / "mtl.toml").write_text('[cache]\nlocal = "local"\nlocal_gb = 2\n')
    found = read_config(tmp_path / "mtl.toml", ["cache.path=az://c/p"]).cache_location()
    assert (str(found), found.local, found.local_gb) == ("az://c/p", tmp_path / "local", 2.0)


def test_a_cache_at_a_file_url(project: Path) -> None:
    (project / "mtl.toml").write_text(toml((project / "there.zarr").as_uri()).replace('local = "local"\n', ""))
    call(*EXTRACT, "--backbone", "au")
    assert Cache.open(project / "there.zarr").stream("au").is_complete
    assert f"{project / 'there.zarr'}: 1 stream, all whole" in call("cache", "verify")
