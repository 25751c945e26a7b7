"""Bundles with backbones: from aligned faces to the predictions that mtl makes of the cache."""

import csv
import sys
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from helpers.bad_input import EXTRACT, PREPARE, TOML
from helpers.cli import call, refused
from runtime import mtl_runtime
from runtime.mtl_runtime import Bundle

SIZE_PX, WIDTH, BATCH = 16, 6, 3
SECTION = f"""
[backbones.conv]
model = "onnx:conv.onnx"
size_px = {SIZE_PX}
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
tasks = ["va"]
licence = "mine alone"
"""


def write_conv(path: Path) -> None:
    """A convolution and the mean over places, of [3, 3, S, S]: a batch that is fixed."""
    weights = np.random.default_rng(0).normal(size=(WIDTH, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [BATCH, 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [BATCH, WIDTH])],
        [numpy_helper.from_array(weights, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run reads a timm backbone and an ONNX file, and its bundle, `out`."""
    folder = tmp_path_factory.mktemp("faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_conv(Path("conv.onnx"))
        Path("mtl.toml").write_text(TOML + SECTION)
        call("demo-data", "data", "--videos", "9", "--frames", "8")
        call(*PREPARE)
        call(*EXTRACT)
        call("train-head", "--name", "one")
        call("export", "one", "--onnx", "out")
    return folder


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def run_as_program(*words: object) -> int:
    """Exit code of `mtl_runtime.py WORDS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mtl_runtime", *map(str, words)])
        try:
            mtl_runtime.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_faces_give_what_the_cache_gives(project: Path) -> None:
    call("predict", "one", "--split", "val", "--out", "wanted.csv")
    wanted = pl.read_csv("wanted.csv").sort("video", "frame")
    for path in wanted["path"]:
        (Path("val") / path).parent.mkdir(parents=True, exist_ok=True)
        (Path("val") / path).symlink_to(project / "data/cropped_aligned" / path)
    assert run_as_program("out", "val", "--out", "found.csv") == 0
    found = pl.read_csv("found.csv").sort("video", "frame")
    assert found.select("video", "frame", "valid").equals(wanted.select("video", "frame", "valid"))
    assert found.columns == ["video", "frame", "valid", *wanted.columns[4:], "expression_name"]
    for name in wanted.columns[4:]:
        assert (found[name].cast(pl.Float64) - wanted[name].cast(pl.Float64)).abs().max() <= 1e-4, name


def test_what_is_in_the_bundle(project: Path) -> None:
    bundle = Bundle("out")
    assert (bundle.face_px, bundle.alignment, bundle.fps, bundle.follow_orientation) == (112, None, 30.0, True)
    assert bundle.streams["conv"] == WIDTH
    assert {path.name for path in Path("out").glob("*.onnx")} == {
        *("backbone-conv.onnx", "input-conv.onnx", "backbone-expr.onnx", "input-expr.onnx", "head-1.onnx")
    }
    assert (Path("out") / "backbone-conv.onnx").read_bytes() == Path("conv.onnx").read_bytes()
    assert bundle.record["streams"]["conv"]["licence"] == "mine alone"
    assert (Path("out") / "mtl_runtime.py").read_bytes() == Path(mtl_runtime.__file__).read_bytes()


@pytest.fixture(scope="module")
def shared_files(folder: Path) -> Path:
    """The bundle `views` of a run that reads embedding and scores of one section and two outputs of one ONNX file, in
    two views."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = onnx.load("conv.onnx")
        model.graph.node.append(helper.make_node("Neg", ["embedding"], ["opposite"]))
        model.graph.output.append(helper.make_tensor_value_info("opposite", TensorProto.FLOAT, [BATCH, WIDTH]))
        onnx.save(model, "two.onnx")
        text = TOML.replace("[backbones.expr]\n", '[backbones.expr]\noutputs = ["embedding", "scores"]\n')
        assert text != TOML
        section = SECTION.replace("conv.onnx", "two.onnx")
        both = "".join(section.replace("conv]", f'{name}]\noutput = "{name}"') for name in ("embedding", "opposite"))
        Path("shared.toml").write_text(text.replace('"cache.zarr"', '"shared.zarr"') + both)
        config = ("--config", "shared.toml", "--set", "cache.path=shared.zarr")
        call("extract", "--views", "base,hflip", "--threads", "1", *config)
        call("train-head", "--name", "shared", *config)
        call("export", "shared", "--onnx", "views", "--set", 'predict.views=["base","hflip"]', *config)
    return folder / "views"


def test_a_file_is_written_once_for_all_views_and_streams(shared_files: Path) -> None:
    """What such a bundle computes was compared with torch before it got its name."""
    bundle = Bundle(shared_files)
    assert len(bundle.streams) == 8
    files = {path.name: path.read_bytes() for path in shared_files.glob("backbone-*.onnx")}
    assert set(files) == {"backbone-expr.onnx", "backbone-embedding.onnx"}
    assert files["backbone-embedding.onnx"] == (shared_files.parent / "two.onnx").read_bytes()
    inputs = {path.name for path in shared_files.glob("input-*.onnx")}
    assert {"input-expr.onnx", "input-expr.hflip.onnx", "input-embedding.onnx", "input-embedding.hflip.onnx"} <= inputs
    faces = np.random.default_rng(1).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    found = bundle.embed(faces, rounded=False)
    assert np.array_equal(found["opposite"], -found["embedding"])
    for name in ("expr", "expr-scores", "embedding", "opposite"):
        assert not np.allclose(found[f"{name}/hflip"], found[name], atol=1e-4)


def test_faces_in_any_number_and_only_of_its_size(project: Path) -> None:
    """A batch that is fixed is filled up, and what fills it changes nothing."""
    bundle = Bundle("out")
    faces = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    whole = bundle.embed(faces)
    for count in (1, 2, 4):
        for name, values in bundle.embed(faces[:count]).items():
            assert np.allclose(values, whole[name][:count], rtol=2e-3, atol=1e-6)  # float16: rounded to 1e-3
    assert bundle.embed(faces[:0])["conv"].shape == (0, WIDTH)
    for wrong in (faces[:, :100], faces.astype(np.float32), faces[0]):
        with pytest.raises(ValueError, match="takes faces"):
            bundle.embed(wrong)


def test_what_the_program_refuses(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, and no file."""
    small = tmp_path / "small.npy"
    np.save(small, np.zeros((2, 64, 64, 3), np.uint8))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/1.jpg").write_bytes(b"no picture")
    for words, told in (
        (("out", tmp_path / "gone"), "no faces here"),
        (("out", small), "takes faces [N, 112, 112, 3]"),
        (("out", tmp_path / "broken"), "1.jpg: not a picture"),
        (("gone", small), "no such bundle"),
    ):
        assert run_as_program(*words, "--out", tmp_path / "never.csv") == 2
        line = capsys.readouterr().err
        assert line.startswith("mtl_runtime: error: ")
        assert line.count("\n") == 1
        assert told in line
    assert {path.name for path in tmp_path.iterdir()} == {"small.npy", "broken"}
    faces = tmp_path / "ok.npy"
    np.save(faces, np.zeros((2, 112, 112, 3), np.uint8))
    assert run_as_program("out", faces) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["video"], row["frame"]) for row in rows] == [("ok", "1"), ("ok", "2")]
    (tmp_path / "there.csv").touch()
    assert run_as_program("out", faces, "--out", tmp_path / "there.csv") == 2


def test_pictures_are_turned_as_they_say(project: Path, tmp_path: Path) -> None:
    """As extraction does, and not where the bundle says that it did not."""
    turned, exif = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)), Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "1.png", exif=exif)
    stored = mtl_runtime._pixels([tmp_path / "1.png"], follow_orientation=False)[0]
    upright = mtl_runtime._pixels([tmp_path / "1.png"], follow_orientation=True)[0]
    assert np.array_equal(upright, stored[::-1, ::-1])


def test_backbones_that_are_gone_or_changed(project: Path) -> None:
    for words, told in (
        (("backbones.expr.seed=1",), "[backbones.expr] is not the backbone of its stream expr: weights"),
        (('backbones.expr.interpolation="nearest"',), "[backbones.expr] is not the backbone of its stream expr"),
        (('backbones.conv.model="onnx:gone.onnx"',), "gone.onnx: no such ONNX file"),
        (('data.faces="gone"',), "no such folder of faces"),
    ):
        assert told in refused("export", "one", "--onnx", "never", *(w for each in words for w in ("--set", each)))
    assert not Path("never").exists()
