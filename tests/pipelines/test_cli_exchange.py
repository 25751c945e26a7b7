"""`mtl cache import` and `mtl cache export`: the whole way, mtl.toml, what they print, their exit codes."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from cache.frames import conform, write_frames
from cache.identity import StreamIdentity
from cache.store import Cache
from helpers.processes import python
from pipelines.cli.cache import app
from pipelines.config import read_config

NUM_ROWS = 12


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with mtl.toml, frames and a matrix of one row per frame."""
    (tmp_path / "mtl.toml").write_text('# mine\n[data]\nfaces = "faces"\n[backbones.expr]\nmodel = "vit_tiny"\n')
    paths = [f"v/{row:05d}.jpg" for row in range(NUM_ROWS)]
    frames = conform(pl.DataFrame({"video": "v", "frame": range(NUM_ROWS), "path": paths, "split": "train"}), "t")
    write_frames(frames, tmp_path / "frames.parquet")
    np.save(tmp_path / "m.npy", vectors())
    return tmp_path


def vectors() -> np.ndarray:
    return np.arange(2.0 * NUM_ROWS).reshape(NUM_ROWS, 2)


def mtl_cache(project: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(project / "mtl.toml")])


def test_import_makes_a_stream_and_a_section(project: Path) -> None:
    words = ("import", "clip", str(project / "m.npy"), "--backbone-name", "ViT-B-32", "--task", "va")
    result = mtl_cache(project, *words)
    assert result.exit_code == 0, result.exception
    assert "12 of 12 frames into stream clip, 2 wide" in result.stdout
    assert "in the order of the frames table" in result.stderr
    stream = Cache.open(project / "cache.zarr").stream("clip")
    np.testing.assert_array_equal(stream.read(), vectors())
    identity = stream.identity
    assert (identity.backbone, identity.preprocessing, identity.pooling) == ("ViT-B-32", {}, "imported")
    config = read_config(project / "mtl.toml")
    assert config.backbones["clip"].is_imported
    assert config.own_streams(["va"]) == ("clip",)
    assert (project / "mtl.toml").read_text().startswith("# mine\n")
    assert mtl_cache(project, "import", "clip", str(project / "m.npy"), "--backbone-name", "ViT-B-32").exit_code == 0
    assert read_config(project / "mtl.toml").backbones["clip"].tasks == ("va",)


def test_import_reports_what_is_lacking_and_left_over(project: Path) -> None:
    keys = pl.DataFrame({"video": ["v"] * 11 + ["w"], "frame": range(NUM_ROWS)})
    keys.write_parquet(project / "k.parquet")
    words = ("import", "clip", str(project / "m.npy"), "--keys", str(project / "k.parquet"))
    printed = mtl_cache(project, *words).stderr
    assert "1 frames are missing steps: not in the imported file" in printed
    assert "1 vectors belong to no frame, such as video 'w' frame 11" in printed
    report = json.loads(mtl_cache(project, *words, "--json").stdout)
    assert report["failed"] == {"not in the imported file": 1}
    assert (report["num_valid"], report["num_extra"], report["in_order"]) == (11, 1, False)


def test_a_pickle_says_that_it_runs_code(project: Path) -> None:
    (project / "p.pkl").write_bytes(pickle.dumps({f"v/{row}": vector for row, vector in enumerate(vectors())}))
    result = mtl_cache(project, "import", "clip", str(project / "p.pkl"), "--allow-pickle", "--json")
    assert "runs code from the file" in result.stderr
    assert json.loads(result.stdout)["num_valid"] == 12


def test_the_section_of_a_model_is_never_replaced(project: Path) -> None:
    before = (project / "mtl.toml").read_text()
    result = mtl_cache(project, "import", "expr", str(project / "m.npy"))
    assert isinstance(result.exception, ValueError)
    assert "is a model (vit_tiny); choose another name" in str(result.exception)
    assert (project / "mtl.toml").read_text() == before
    assert not (project / "cache.zarr").exists()


def test_a_failed_import_leaves_mtl_toml(project: Path) -> None:
    before = (project / "mtl.toml").read_text()
    np.save(project / "m.npy", vectors()[:-1])
    assert isinstance(mtl_cache(project, "import", "clip", str(project / "m.npy")).exception, ValueError)
    assert (project / "mtl.toml").read_text() == before
    assert Cache.open(project / "cache.zarr").streams() == []


def test_a_view_joins_its_base(project: Path) -> None:
    np.save(project / "flipped.npy", -vectors())
    mtl_cache(project, "import", "clip", str(project / "m.npy"), "--task", "va")
    before = (project / "mtl.toml").read_text()
    words = ("import", "clip", str(project / "flipped.npy"), "--view", "hflip")
    result = mtl_cache(project, *words)
    assert "12 of 12 frames into stream clip (view hflip), 2 wide" in result.stdout
    assert (project / "mtl.toml").read_text() == before
    cache = Cache.open(project / "cache.zarr")
    assert cache.streams() == [("clip", "base"), ("clip", "hflip")]
    np.testing.assert_array_equal(cache.stream("clip", "hflip").read(), -vectors())
    assert json.loads(mtl_cache(project, *words, "--json").stdout)["view"] == "hflip"
    out = ("export", "clip", "--view", "hflip", "--to", str(project / "out.npy"))
    assert mtl_cache(project, *out).exit_code == 0
    np.testing.assert_array_equal(np.load(project / "out.npy"), -vectors())
    assert mtl_cache(project, "rm", "clip", "--view", "hflip", "--yes").exit_code == 0
    assert cache.streams() == [("clip", "base")]


@pytest.mark.parametrize("words", [("import", "a b", "m.npy"), ("import", "clip", "m.npy", "--task", "emotion")])
def test_names_and_tasks_are_checked(project: Path, words: tuple[str, ...]) -> None:
    assert isinstance(mtl_cache(project, *words).exception, ValueError)


def test_extraction_leaves_imported_streams_alone(project: Path) -> None:
    from extract.backbones.build import load_backbone
    from pipelines.extraction.run import choose

    mtl_cache(project, "import", "clip", str(project / "m.npy"))
    config = read_config(project / "mtl.toml")
    assert choose(config, []) == ["expr"]
    assert choose(config, ["clip"]) == ["clip"]
    with pytest.raises(ValueError, match=r"^\[backbones.clip\]: imported:m.npy was imported and cannot be run"):
        load_backbone("clip", config.backbones["clip"], project)
    (project / "mtl.toml").write_text('[backbones.clip]\nmodel = "imported:m.npy"\n')
    with pytest.raises(ValueError, match=r"all streams were imported \(clip\)"):
        choose(read_config(project / "mtl.toml"), [])


@pytest.mark.parametrize("target", ["out.h5", "out.npy", "out.parquet", "out"])
def test_export_and_back(project: Path, target: str) -> None:
    mtl_cache(project, "import", "clip", str(project / "m.npy"))
    words = ("export", "clip", "--to", str(project / target), *(["--per-video"] if target == "out" else []))
    document = json.loads(mtl_cache(project, *words, "--json").stdout)
    assert document["files"][0] == str(project / target)
    assert (document["num_rows"], document["num_valid"], document["width"]) == (12, 12, 2)
    assert "add --force" in str(mtl_cache(project, *words).exception)
    assert "12 rows of clip, 12 valid" in mtl_cache(project, *words, "--force").stdout
    assert mtl_cache(project, "import", "again", str(project / target)).exit_code == 0
    np.testing.assert_array_equal(Cache.open(project / "cache.zarr").stream("again").read(), vectors())


def test_an_error_is_one_line_and_exit_code_2_and_needs_no_torch(project: Path) -> None:
    code = "import sys; from pipelines.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules\n"
    words = ("cache", "import", "clip", project / "gone.h5", "--config", project / "mtl.toml")
    ended = python("-c", code, *words, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"mtl: error: {project}/gone.h5: no such file or folder\n"


@pytest.mark.parametrize("command", ["import", "export"])
def test_help_has_examples(command: str) -> None:
    assert f"mtl cache {command}" in CliRunner().invoke(app, [command, "--help"]).stdout.split("Examples")[1]


def _identity(project: Path, number: int, words: tuple[str, ...]) -> StreamIdentity:
    """Of a stream of other vectors over another frames table, imported with `words`."""
    folder = project / f"p{number}"
    folder.mkdir()
    (folder / "mtl.toml").write_text('[backbones.tiny]\nmodel = "test_vit"\nweights = "tiny.bin"\n')
    (folder / "tiny.bin").write_bytes(b"weights")
    paths = [f"w{number}/{row:05d}.jpg" for row in range(number + 3)]
    table = pl.DataFrame({"video": f"w{number}", "frame": range(number + 3), "path": paths})
    write_frames(conform(table, "t"), folder / "frames.parquet")
    np.save(folder / "m.npy", np.full((number + 3, 2), number + 1.0))
    result = mtl_cache(folder, "import", "clip", str(folder / "m.npy"), *words)
    assert result.exit_code == 0, result.output
    return Cache.open(folder / "cache.zarr").stream("clip").identity


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (("--made-by", "ViT-B 32"), ("--made-by", "ViT-B  32"), ""),
        (("--backbone-name", "ViT-B 32"), ("--made-by", "ViT-B 32"), ""),
        (("--backbone", "tiny"), ("--backbone", "tiny"), ""),
        (("--made-by", "ViT-B 32"), ("--made-by", "ViT-L 14"), "backbone .cached ViT-L 14, wanted ViT-B 32"),
        ((), (), "import each with the same --made-by TEXT"),
        (("--made-by", "ViT-B 32"), (), "import each with the same --made-by TEXT"),
    ],
)
def test_heads_go_by_who_made_the_embeddings(
    project: Path, first: tuple[str, ...], second: tuple[str, ...], words: str
) -> None:
    from pipelines.training.run import check_streams

    trained, found = _identity(project, 0, first), _identity(project, 1, second)
    train = SimpleNamespace(view="base")
    run = SimpleNamespace(identities={"clip": trained}, folder="runs/a", strategy=SimpleNamespace(train=train))
    dataset = SimpleNamespace(resident=SimpleNamespace(identities={("clip", "base"): found}))
    if words:
        with pytest.raises(ValueError, match=words):
            check_streams(run, dataset)  # type: ignore[arg-type]
    else:
        check_streams(run, dataset)  # type: ignore[arg-type]


def test_who_made_them_is_said_once_and_of_a_section_that_ran(project: Path) -> None:
    for words, problem in (
        (("--made-by", "a", "--backbone", "expr"), "give one"),
        (("--backbone", "none"), "not in mtl.toml"),
        (("--names", "frame"), "unknown form"),
    ):
        with pytest.raises(ValueError, match=problem):
            CliRunner().invoke(
                app,
                ["import", "x", str(project / "m.npy"), *words, "--config", str(project / "mtl.toml")],
                catch_exceptions=False,
            )
