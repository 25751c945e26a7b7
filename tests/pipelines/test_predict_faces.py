"""`mtl predict MODEL SOURCE` of aligned faces: the numbers of the cache, every form of source, errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from cache.seals import sealed_json
from helpers.cli import call, invoke, refused
from helpers.face_project import make_face_project
from helpers.made_sources import make_tar, make_zip
from pipelines.json_files import read_json
from pipelines.predict.compound import PAIRS

FLOATS = ["valence", "arousal", "p_Neutral", "p_Other", "p_AU1", "p_AU26"]
KEY = ["video", "frame"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_face_project(folder)
    return folder


@pytest.fixture
def project(faces: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(faces)
    return faces


def predicted(*words: object, code: int = 0) -> tuple[dict[str, Any], pl.DataFrame]:
    """(JSON summary, table) of `mtl predict`."""
    done = json.loads(invoke("predict", *words, "--force", "--json", code=code).stdout)
    return done, pl.read_parquet(done["out"])


@pytest.mark.parametrize("model", ["gru", "both"])
def test_faces_are_predicted_as_from_the_cache(project: Path, model: str) -> None:
    _, cached = predicted(model, "--split", "test", "--compound", "--box", "2")
    done, table = predicted(model, "faces", "--compound", "--box", "2")
    assert done["source_kind"] == "aligned"
    assert "square, 32 px" in done["why"]
    assert table.columns[:10] == [*KEY, "time_s", "face", "x0", "y0", "x1", "y1", "detection_score", "valid"]
    assert (len(table), done["num_videos"], table["valid"].all()) == (24 * 16, 24, True)
    assert table["face"].null_count() == table["x0"].null_count() == table["time_s"].null_count() == len(table)
    # Windows of a split end where it ends, and so do videos here; streams hold float16.
    both = cached.join(table, on=KEY, suffix="_new", maintain_order="left")
    assert len(both) == len(cached)
    for name in (*FLOATS, "p_Sadly_Angry"):
        assert both[f"{name}_new"].to_numpy() == pytest.approx(both[name].to_numpy(), abs=2e-3), name
    assert set(table.select("compound", "compound_name").rows()) <= set(enumerate(PAIRS))
    named = table.select("expression", "expression_name").unique().sort("expression")
    assert set(named.rows()) <= set(
        enumerate(["Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other"])
    )
    assert not list(Path("predictions").glob(".*"))


def test_a_bundle_predicts_what_its_run_does(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no mtl.toml; and one of a newer version is refused."""
    bundle = tmp_path / "bundle"
    call("export", "gru", "--onnx", bundle, "--no-post")
    _, wanted = predicted("gru", "faces", "--no-post")
    monkeypatch.chdir(tmp_path)
    done, found = predicted("bundle", project / "faces", "--out", "found.parquet")
    assert (done["bundle"], done["post"]) == ("bundle", None)
    assert "post-processing: none in this bundle" in call("predict", "bundle", project / "faces", "--force")
    assert found.columns == wanted.columns
    assert found.schema == wanted.schema
    for name in FLOATS:
        assert found[name].to_numpy() == pytest.approx(wanted[name].to_numpy(), abs=2e-3), name
    (tmp_path / "large").mkdir()
    Image.new("RGB", (48, 48)).save(tmp_path / "large" / "00001.png")
    assert "takes faces of 32 x 32 px, but one of large has 48 x 48" in refused("predict", "bundle", "large")
    record = read_json(bundle / "bundle.json")
    (bundle / "bundle.json").write_bytes(sealed_json({**record, "format": 99}))
    assert "format 99" in refused("predict", "bundle", project / "faces", "--out", "again.parquet")


@pytest.mark.slow
def test_faces_are_predicted_as_the_mean_over_views(project: Path, tmp_path: Path) -> None:
    """By a run and by its bundle, which crops and mirrors them itself."""
    views = ("base", "hflip", "crop0.8")
    each = [predicted("none", "faces", "--views", view, "--out", tmp_path / "one.parquet")[1] for view in views]
    _, found = predicted("none", "faces", "--views", ",".join(views), "--out", tmp_path / "all.parquet")
    call("export", "none", "--onnx", tmp_path / "bundle", "--views", ",".join(views))
    _, bundled = predicted(tmp_path / "bundle", "faces", "--out", tmp_path / "bundled.parquet")
    for name in FLOATS:
        mean = sum(one[name].to_numpy() for one in each) / len(views)
        assert found[name].to_numpy() == pytest.approx(mean, abs=1e-5), name
        assert bundled[name].to_numpy() == pytest.approx(mean, abs=2e-3), name
        assert abs(each[0][name].to_numpy() - mean).max() > 1e-3
    words = ("predict", tmp_path / "bundle", "faces", "--views", "base", "--out", tmp_path / "x.csv")
    assert "a bundle predicts the views it was exported with" in refused(*words)


def test_a_folder_an_archive_and_a_list_hold_the_same(project: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (project / "faces" / "v3").iterdir()}
    (tmp_path / "list.txt").write_text("".join(f"v3/{name}\n" for name in reversed(files)))
    shutil.copytree(project / "faces" / "v3", tmp_path / "v3")
    sources = {
        "tar": make_tar(tmp_path / "tar" / "v3.tar", files.items()),
        "zip": make_zip(tmp_path / "zip" / "v3.zip", files.items()),
        "folder of archives": tmp_path / "zip",
        "flat": tmp_path / "v3",
        "list": tmp_path / "list.txt",
    }
    _, whole = predicted("gru", "faces")
    found = {name: predicted("gru", source) for name, source in sources.items()}
    for name, (done, table) in found.items():
        assert done["source_kind"] == "aligned", name
        assert table.equals(found["flat"][1]), name
    wanted = whole.filter(pl.col("video") == "v3")
    for name in FLOATS:  # in batches with other faces
        assert found["flat"][1][name].to_numpy() == pytest.approx(wanted[name].to_numpy(), abs=1e-3), name


def test_a_cache_gives_all_rows_of_the_frames_table(project: Path) -> None:
    done, table = predicted("gru", "cache.zarr")
    assert (done["cache"], len(table), table.columns[2]) == ("cache.zarr", 24 * 16, "path")
    part = predicted("gru", "--split", "test")[1]
    assert table.join(part.select(KEY), on=KEY, how="semi").equals(part)


def test_pictures_without_numbers_are_a_video_each(project: Path, tmp_path: Path) -> None:
    for name in ("anna", "berta"):
        shutil.copy(project / "faces" / "v0" / "00000.jpg", tmp_path / f"{name}.jpg")
    _, table = predicted("gru", tmp_path)
    assert table.select(KEY).rows() == [("anna", 1), ("berta", 1)]
    assert table["valence"][0] == table["valence"][1]
    done, one = predicted("gru", tmp_path / "anna.jpg")
    assert one["valence"][0] == pytest.approx(table["valence"][0], abs=1e-3)
    assert done["num_faces"] == 1


def test_a_face_that_cannot_be_read_is_said(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "faces" / "v3", tmp_path / "v3")
    (tmp_path / "v3" / "00004.jpg").write_bytes(b"\xff\xd8\xffnothing")
    done, table = predicted("gru", tmp_path, code=1)
    assert done["num_unreadable"] == 1
    assert done["unreadable"][0].startswith("v3 frame 4: not an image")
    assert table.filter(~pl.col("valid")).select("frame", "valence").rows() == [(4, table["valence"][3])]


def test_a_picture_or_a_word_of_the_user_decides(project: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "00001.jpg")
    done, _ = predicted("gru", tmp_path, "--aligned")
    assert done["why"] == "aligned faces, as --aligned says"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nowhere"], "nowhere: no such file or folder; name faces"),
        (["empty"], "empty: no picture, no archive of faces and no video in it"),
        (
            ["faces", "--split", "test"],
            "--split and --list choose frames of the cache; leave them out, or leave out faces",
        ),
        (["cache.zarr", "--detect"], "cache.zarr: a cache holds embeddings"),
        (["faces", "--out", "nowhere/"], "a table is written as .parquet or .csv"),
        (["both.txt"], "both.txt: a list of videos, not of faces"),
        (["mixed"], "mixed: has both pictures (00001.jpg) and videos (clip.mp4); name a folder with one kind"),
    ],
)
def test_errors_are_one_line(project: Path, words: list[str], error: str) -> None:
    Path("empty").mkdir(exist_ok=True)
    Path("both.txt").write_text("v1\nv2\n")
    Path("mixed").mkdir(exist_ok=True)
    shutil.copy("faces/v0/00000.jpg", "mixed/00001.jpg")
    Path("mixed/clip.mp4").write_bytes(b"")
    assert error in refused("predict", "gru", *words, "--force")


def test_the_backbones_must_be_those_of_the_run(project: Path) -> None:
    said = refused("predict", "gru", "faces", "--force", "--set", "backbones.va.seed=1")
    assert "runs/gru: [backbones.va] is not the backbone of its stream va: weights (in the run " in said
    text = Path("mtl.toml").read_text()
    try:
        Path("mtl.toml").write_text(text.replace("[backbones.au]", "[backbones.other]"))
        assert "reads the stream au, but mtl.toml has no [backbones.au]" in refused(
            "predict", "gru", "faces", "--force"
        )
        Path("mtl.toml").write_text(text.replace('weights = "random"', 'weights = "gone.safetensors"'))
        assert "gone.safetensors" in refused("predict", "gru", "faces", "--force")
    finally:
        Path("mtl.toml").write_text(text)
