"""`mtl prepare` from the outside: what it writes, prints and returns."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from cache.frames import read_frames
from cache.names import LABEL_COLUMNS
from pipelines.cli import main

HEADER = ",".join(("image", *LABEL_COLUMNS))
LABELS = "0.5,-0.25,4,1,1,1,1,1,1,1,1,1,1,1,1"
Result = tuple[int, str, str]


@pytest.fixture
def mtl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Result]:
    """Runs `mtl prepare ARGUMENTS` in `tmp_path`; gives the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["mtl", "prepare", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Faces a/00001..3 and b/00001, an annotation of a/1, a/3 (train) and b/1 (val), and an mtl.toml."""
    for index, path in enumerate(("a/00001.jpg", "a/00002.jpg", "a/00003.jpg", "b/00001.jpg")):
        face = tmp_path / "crops" / path
        face.parent.mkdir(parents=True, exist_ok=True)
        face.write_bytes(simplejpeg.encode_jpeg(np.full((16, 16, 3), 40 * index, dtype=np.uint8)))
    (tmp_path / "train.txt").write_text(f"{HEADER}\na/00001.jpg,{LABELS}\na/00003.jpg,{LABELS}\n")
    (tmp_path / "val.txt").write_text(f"{HEADER}\nb/00001.jpg,{LABELS}\n")
    (tmp_path / "mtl.toml").write_text('[data]\nfaces = "crops"\nframes = "made/frames.parquet"\n')
    (tmp_path / "made").mkdir()
    return tmp_path


def test_places_come_from_the_configuration(mtl: Callable[..., Result], project: Path) -> None:
    code, out, err = mtl("--train", "train.txt", "--val", "val.txt")
    assert (code, err) == (0, "")
    assert "made/frames.parquet: 3 rows written" in out
    frames = read_frames(project / "made" / "frames.parquet")
    assert frames.select("path", "split").rows() == [
        ("a/00001.jpg", "train"),
        ("a/00003.jpg", "train"),
        ("b/00001.jpg", "val"),
    ]


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_page_fits_and_has_no_colours_when_piped(
    mtl: Callable[..., Result], project: Path, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    (project / "subjects.csv").write_text("video,subject\na,ann\nb,ann\n")
    (project / "crops" / "b" / "00001.jpg").unlink()
    _, out, _ = mtl("--train", "train.txt", "--val", "val.txt", "--subjects", "subjects.csv")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= int(width)
    assert "1 face of 3 not on disk: b/00001.jpg" in out
    assert "1 subject in more than one split: ann (train, val)" in out


def test_json_alone_on_standard_output(mtl: Callable[..., Result], project: Path) -> None:
    code, out, _ = mtl("--train", "train.txt", "--val", "val.txt", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["frames"] == "made/frames.parquet"
    assert document["splits"]["train"]["num_labelled"] == {"va": 2, "expr": 2, "au": 2}
    assert document["faces"]["num_read"] == 3


def test_strict_makes_findings_fail(mtl: Callable[..., Result], project: Path) -> None:
    (project / "crops" / "a" / "00003.jpg").write_bytes(b"")
    arguments = ("--train", "train.txt", "--val", "val.txt")
    code, out, _ = mtl(*arguments)
    assert code == 0
    assert "1 face of 3 cannot be decoded: a/00003.jpg: empty file" in out
    assert mtl(*arguments, "--strict")[0] == 1
    assert read_frames(project / "made" / "frames.parquet").height == 3
    assert "cannot be decoded" not in mtl(*arguments, "--no-check-faces")[1]


def test_context_adds_the_other_faces(mtl: Callable[..., Result], project: Path) -> None:
    (project / "subjects.csv").write_text("video,subject\na,ann\nb,ben\n")
    mtl("--train", "train.txt", "--context", "--subjects", "subjects.csv")
    frames = read_frames(project / "made" / "frames.parquet")
    assert frames.select("frame", "split", "valence", "subject").rows() == [
        (1, "train", 0.5, "ann"),
        (2, "train", None, "ann"),
        (3, "train", 0.5, "ann"),
        (1, "none", None, "ben"),
    ]


def test_faces_alone_need_no_configuration(mtl: Callable[..., Result], project: Path) -> None:
    (project / "mtl.toml").unlink()
    code, out, _ = mtl("--faces", "crops", "--out", "x.parquet")
    assert (code, "4 frames of 2 videos" in out) == (0, True)
    assert set(read_frames(project / "x.parquet")["split"]) == {"none"}
    code, _, err = mtl("--faces", "crops")
    assert (code, err) == (2, "mtl: error: mtl.toml: no such file; `mtl init` writes one\n")


def test_a_changed_frame_list_is_told(mtl: Callable[..., Result], project: Path) -> None:
    assert "another frame list" not in mtl("--train", "train.txt")[1]
    assert "another frame list" not in mtl("--train", "train.txt")[1]
    assert "another frame list" in mtl("--val", "val.txt")[1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            f"a/00002.jpg,{LABELS.replace('0.5', 'much')}",
            "train.txt:4: valence is 'much'; expected a number in [-1, 1]",
        ),
        ("a/00002.jpg,0.5", "train.txt:4: too few columns: 2, but the header has 16"),
        (f"a/00002.jpg,{LABELS.replace('4', '11')}", "train.txt:4: expression is '11'; expected 0 to 7"),
        (f"../a/00002.jpg,{LABELS}", "train.txt:4: path is '../a/00002.jpg', it leaves the faces folder"),
    ],
)
def test_a_bad_row_is_one_line_and_writes_nothing(
    mtl: Callable[..., Result], project: Path, bad: str, message: str
) -> None:
    with (project / "train.txt").open("a") as file:
        file.write(f"{bad}\n")
    code, out, err = mtl("--train", "train.txt", "--val", "val.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"mtl: error: {message}")
    assert not (project / "made" / "frames.parquet").exists()


def test_a_missing_faces_folder_is_one_line(mtl: Callable[..., Result], project: Path) -> None:
    code, out, err = mtl("--train", "train.txt", "--faces", "nowhere")
    assert (code, out) == (2, "")
    assert err == "mtl: error: nowhere: no such faces folder; name it with --faces or in mtl.toml under [data] faces\n"


def test_two_files_that_disagree_are_named(mtl: Callable[..., Result], project: Path) -> None:
    (project / "val.txt").write_text(f"{HEADER}\na/00001.jpg,{LABELS}\n")
    code, _, err = mtl("--train", "train.txt", "--val", "val.txt")
    assert code == 2
    assert "video 'a', frame 1: split is 'train' in train.txt (train) and 'val' in val.txt (val)" in err
