"""`mtl cache`: what it prints, its exit codes, and that it works without torch."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from cache.frames import conform, frames_digest, write_frames
from cache.identity import StreamIdentity, bytes_digest
from cache.store import Cache
from helpers.processes import python
from pipelines.cli.cache import app

NUM_ROWS = 24


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with mtl.toml, faces, frames and a cache with the stream `expr`, row 3 failed."""
    (tmp_path / "mtl.toml").write_text('[data]\nfaces = "faces"\n[backbones.expr]\nmodel = "vit_tiny"\n')
    paths = [f"v/{row:05d}.jpg" for row in range(NUM_ROWS)]
    frames = conform(pl.DataFrame({"video": "v", "frame": range(NUM_ROWS), "path": paths, "split": "train"}), "t")
    write_frames(frames, tmp_path / "frames.parquet")
    (tmp_path / "faces/v").mkdir(parents=True)
    for row, path in enumerate(paths):
        (tmp_path / "faces" / path).write_bytes(bytes([row]))
    identity = StreamIdentity(
        backbone="vit_tiny",
        weights="0123456789abcdef" * 2,
        preprocessing={"size_px": 112, "mean": [0.5, 0.5, 0.5]},
        pooling="token",
        dtype="float16",
        view="base",
        frames=frames_digest(frames),
        num_frames=NUM_ROWS,
        width=4,
    )
    stream = Cache.open(tmp_path / "cache.zarr", create=True).create("expr", identity, 10, {"precision": "bfloat16"})
    digests = np.stack([np.frombuffer(bytes_digest(bytes([row])), np.uint8) for row in range(NUM_ROWS)])
    for shard in range(stream.num_shards):
        start, stop = stream.rows(shard)
        failed = {3: "[red] not an image"} if shard == 0 else {}
        stream.write_shard(shard, np.ones((stop - start, 4), np.float16), digests[start:stop], failed)
    return tmp_path


def mtl_cache(project: Path, *words: str, **options: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(project / "mtl.toml")], **options)


def flip(project: Path, shard: int) -> Path:
    path = project / f"cache.zarr/expr/base/embedding/c/{shard}/0"
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(data)
    return path


def missing(project: Path) -> list[int]:
    return Cache.open(project / "cache.zarr").stream("expr").missing_shards()


def test_ls(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    printed = mtl_cache(project, "ls").stdout
    assert all(word in printed for word in ("expr", "base", "24", "100%", "95.8%"))
    (stream,) = json.loads(mtl_cache(project, "ls", "--json").stdout)
    assert stream["coverage"] == {"train": [23, 24]}
    assert (stream["num_rows"], stream["num_done"], stream["num_failed"]) == (24, 24, 1)
    (project / "frames.parquet").unlink()
    assert json.loads(mtl_cache(project, "ls", "--json").stdout)[0]["coverage"] is None


def test_ls_of_an_empty_cache(project: Path) -> None:
    Cache.open(project / "cache.zarr").remove("expr")
    assert "no streams yet; `mtl extract` makes them" in mtl_cache(project, "ls").stdout


def test_ls_names_a_damaged_stream(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (project / "cache.zarr/expr/base/zarr.json").write_text("{")
    assert "damaged metadata" in mtl_cache(project, "ls").stdout


def test_info(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    printed = mtl_cache(project, "info", "expr").stdout
    for text in ("vit_tiny", "0123456789abcdef" * 2, "size_px", "[0.5, 0.5, 0.5]", "bfloat16", "row 3: [red] not an"):
        assert text in printed
    (stream,) = json.loads(mtl_cache(project, "info", "expr", "--json").stdout)
    assert stream["failed"] == {"3": "[red] not an image"}


def test_verify_whole(project: Path) -> None:
    result = mtl_cache(project, "verify")
    assert result.exit_code == 0
    assert "1 stream, all whole" in result.stdout


def test_verify_finds_and_changes_nothing(project: Path) -> None:
    flip(project, 1)
    (project / "faces/v/00020.jpg").write_bytes(b"new")
    result = mtl_cache(project, "verify", "expr")
    assert result.exit_code == 1
    assert "shard: shard 1: " in result.stdout
    assert "face: face v/00020.jpg has changed since extraction" in result.stdout
    assert result.stdout.count("type `mtl cache verify expr --repair`, then `mtl extract --backbone expr`") == 1
    assert missing(project) == []
    document = json.loads(mtl_cache(project, "verify", "--no-faces", "--json").stdout)
    assert [(each["kind"], each["shard"]) for each in document["damages"]] == [("shard", 1)]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_verify_looks_into_archives(project: Path, kind: str) -> None:
    """Faces packed since the extraction are the same faces; a changed one is found in the archive too."""
    shutil.make_archive(str(project / "faces/v"), kind, project / "faces/v")
    (project / "faces/v").rename(project / "moved")
    result = mtl_cache(project, "verify")
    assert (result.exit_code, "1 stream, all whole" in result.stdout) == (0, True)
    (project / "moved/00020.jpg").write_bytes(b"new")
    (project / "moved/00021.jpg").unlink()
    shutil.make_archive(str(project / "faces/v"), kind, project / "moved")
    document = json.loads(mtl_cache(project, "verify", "--json").stdout)
    assert [each["what"] for each in document["damages"]] == [
        "face v/00020.jpg has changed since extraction",
        "face v/00021.jpg is missing or cannot be read",
    ]


def test_verify_repairs(project: Path) -> None:
    flip(project, 1)
    result = mtl_cache(project, "verify", "--repair")
    assert result.exit_code == 1
    assert result.stdout.endswith(": 1 shard is to be made again; type `mtl extract --backbone expr`\n")
    assert "--repair" not in result.stdout
    assert missing(project) == [1]
    again = mtl_cache(project, "verify", "--repair", "--json")
    assert again.exit_code == 1  # still incomplete
    assert json.loads(again.stdout)["repaired_shards"] == 0


def test_verify_writes_states_anew(project: Path) -> None:
    """Marks tell them, so no shard is redone."""
    path = project / "cache.zarr/expr/base/state/c/0"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    result = mtl_cache(project, "verify", "--repair")
    assert result.exit_code == 1
    assert "group: " in result.stdout
    assert "state/c/0 has changed since extraction" in " ".join(result.stdout.split())
    assert result.stdout.endswith("1 file written anew\n")
    assert path.read_bytes() == whole
    assert mtl_cache(project, "verify").exit_code == 0


def test_verify_without_faces_says_so(project: Path) -> None:
    (project / "faces").rename(project / "moved")
    result = mtl_cache(project, "verify")
    assert result.exit_code == 0
    assert "faces are not checked" in result.stderr
    result = mtl_cache(project, "verify", "--faces")
    assert isinstance(result.exception, ValueError)
    assert "leave out --faces" in str(result.exception)


def test_repair_leaves_streams_with_damaged_metadata_alone(project: Path) -> None:
    (project / "cache.zarr/expr/base/zarr.json").write_text("{")
    result = mtl_cache(project, "verify", "--repair")
    assert result.exit_code == 1
    assert "type `mtl cache rm expr`, then `mtl extract --backbone expr`" in result.stdout


def test_rm(project: Path) -> None:
    result = mtl_cache(project, "rm", "expr")
    assert isinstance(result.exception, ValueError)
    assert "add --yes" in str(result.exception)
    assert Cache.open(project / "cache.zarr").streams() == [("expr", "base")]
    assert mtl_cache(project, "rm", "expr", "--yes").exit_code == 0
    assert Cache.open(project / "cache.zarr").streams() == []


def test_rm_of_several_is_of_all_or_none(project: Path) -> None:
    cache = Cache.open(project / "cache.zarr")
    cache.create("va", cache.stream("expr").identity, 10, {})
    result = mtl_cache(project, "rm", "expr", "au", "--yes")
    assert "no stream au; there: expr (view base), va (view base)" in str(result.exception)
    assert "mtl cache rm expr va: there is no terminal" in str(mtl_cache(project, "rm", "expr", "va").exception)
    assert cache.streams() == [("expr", "base"), ("va", "base")]
    result = mtl_cache(project, "rm", "va", "expr", "va", "--yes")
    assert result.exit_code == 0, result.exception
    assert result.stdout.count("removed") == 2
    assert cache.streams() == []


def test_rm_asks_at_a_terminal(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cli.cache._is_terminal", lambda: True)
    assert mtl_cache(project, "rm", "expr", input="n\n").exit_code == 1
    assert Cache.open(project / "cache.zarr").streams() == [("expr", "base")]
    assert mtl_cache(project, "rm", "expr", input="y\n").exit_code == 0
    assert Cache.open(project / "cache.zarr").streams() == []


@pytest.mark.parametrize(
    "command", [("info", "va"), ("verify", "va"), ("rm", "va", "--yes"), ("info", "expr", "--view", "x")]
)
def test_a_stream_that_is_not_there(project: Path, command: tuple[str, ...]) -> None:
    result = mtl_cache(project, *command)
    assert isinstance(result.exception, ValueError)
    assert r"there: expr (view base)" in str(result.exception)


def test_the_configuration_is_read_with_overrides(project: Path) -> None:
    result = mtl_cache(project, "ls", "--set", "cache.path=other.zarr")
    assert "other.zarr: there is no cache here" in str(result.exception)


IMPORTED = """
import contextlib, io, json, sys
from pipelines.cli import main

found = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["mtl", *words]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    found[words[1]] = [each for each in sys.modules if each.partition(".")[0] not in sys.stdlib_module_names]
print(json.dumps(found))
"""
HEAVY = ("torch", "timm", "zarr", "numcodecs", "obstore", "optuna", "scipy", "sklearn", "matplotlib", "numpy.ma")
MOST = 520  # modules outside the library of Python itself; 470 with polars 2.1 and pydantic 2.14


def test_the_cache_is_shown_without_what_takes_long_to_import(project: Path) -> None:
    """Counted, for seconds are not repeatable: `mtl cache ls` took 0.9 s of CPU time with zarr and all commands, 0.6
    without."""
    config = ["--config", str(project / "mtl.toml")]
    commands = [["cache", "ls", *config], ["cache", "info", "expr", *config], ["cache", "verify", *config]]
    found = json.loads(python("-c", IMPORTED, json.dumps(commands)).stdout)
    assert list(found) == ["ls", "info", "verify"]
    for command, modules in found.items():
        heavy = HEAVY if command != "verify" else ("torch", "timm")  # zarr reads the digests of faces
        assert (command, set(heavy) & set(modules)) == (command, set())
        assert {each for each in modules if each.startswith("pipelines.cli.")} >= {"pipelines.cli.cache"}
        assert "pipelines.cli.search" not in modules
    assert len(found["info"]) < MOST


@pytest.mark.parametrize("file", ["zarr.json", "expr/zarr.json", "expr/base/zarr.json"])
def test_damaged_metadata_are_damage(project: Path, file: str) -> None:
    (project / "cache.zarr" / file).write_text("{")
    result = mtl_cache(project, "verify")
    assert result.exit_code == 1
    assert "zarr.json" in result.stdout
    assert "damaged" in result.stdout
    assert "mtl extract" in result.stdout
    (damage,) = json.loads(mtl_cache(project, "verify", "--json").stdout)["damages"]
    assert (damage["kind"], "zarr.json" in damage["what"]) == ("metadata", True)


@pytest.mark.parametrize("command", ["ls", "info", "verify", "rm"])
def test_help_has_examples(command: str) -> None:
    assert f"mtl cache {command}" in CliRunner().invoke(app, [command, "--help"]).stdout


def test_verification_names_the_view(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache.open(project / "cache.zarr")
    identity = dataclasses.replace(cache.stream("expr").identity, view="hflip")
    cache.create("expr", identity, 10, {})
    titles: list[str] = []

    def progress(title: str, *rest: object) -> nullcontext[Callable[[int], None]]:
        titles.append(title)
        return nullcontext(lambda count: None)

    monkeypatch.setattr("pipelines.progress.progress", progress)
    mtl_cache(project, "verify")
    assert titles == ["Verifying expr", "Verifying expr/hflip"]
