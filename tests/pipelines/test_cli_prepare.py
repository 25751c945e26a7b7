"""`mtl prepare` from the outside: what it writes, prints and returns."""

import json
import os
import re
import shutil
import tarfile
import tomllib
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
import tomlkit

from cache.frames import read_frames, stored_schema
from cache.labels import DISFA
from cache.names import LABEL_COLUMNS
from helpers.cli import Ended, typed

HEADER = ",".join(("image", *LABEL_COLUMNS))
LABELS = "0.5,-0.25,4,1,1,1,1,1,1,1,1,1,1,1,1"
Result = tuple[int, str, str]
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(autouse=True)
def _typed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mtl(*words: str, columns: int = 80) -> Ended:
    return typed("prepare", *words, columns=columns)


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


def test_places_come_from_the_configuration(project: Path) -> None:
    code, out, err = mtl("--train", "train.txt", "--val", "val.txt")
    assert (code, err) == (0, "")
    assert "made/frames.parquet: 3 rows written" in out
    frames = read_frames(project / "made" / "frames.parquet")
    assert frames.select("path", "split").rows() == [
        ("a/00001.jpg", "train"),
        ("a/00003.jpg", "train"),
        ("b/00001.jpg", "val"),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_and_has_no_colours_when_piped(project: Path, width: int) -> None:
    (project / "subjects.csv").write_text("video,subject\na,ann\nb,ann\n")
    (project / "crops" / "b" / "00001.jpg").unlink()
    _, out, _ = mtl("--train", "train.txt", "--val", "val.txt", "--subjects", "subjects.csv", columns=width)
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= width
    assert "1 face of 3 not on disk: b/00001.jpg" in out
    assert "1 subject in more than one split: ann (train, val)" in out


LABELLED = {"va": "0.5,-0.25,-1" + ",-1" * 12, "expr": "-5,-5,4" + ",-1" * 12, "au": "-5,-5,-1" + ",1" * 12}
TITLES = {"va": "Valence and arousal", "expr": "Expressions", "au": "Positives of action units"}


@pytest.mark.parametrize("tasks", [("va",), ("expr",), ("au",), ("va", "expr"), ()])
def test_tables_of_tasks_without_labels_are_left_out(project: Path, tasks: tuple[str, ...]) -> None:
    rows = [f"a/0000{index + 1}.jpg,{LABELLED[task]}" for index, task in enumerate(tasks)]
    rows = rows or [f"a/00001.jpg,-5,-5{',-1' * 13}"]
    (project / "train.txt").write_text("\n".join([HEADER, *rows]) + "\n")
    _, out, _ = mtl("--train", "train.txt")
    titles = {part.strip() for line in out.splitlines() for part in line.split("   ")}
    assert {task for task, title in TITLES.items() if title in titles} == set(tasks)
    assert ("valence" in out) == ("va" in tasks)
    assert ("\nAU12 " in out) == ("au" in tasks)
    assert f"{max(len(tasks), 1)} row" + "s" * (len(tasks) > 1) + " written" in out


def labelled_by(project: Path, schema: str, *lines: str) -> None:
    """The project with another schema, and a table labels.csv."""
    with (project / "mtl.toml").open("a") as file:
        file.write(schema)
    (project / "labels.csv").write_text("\n".join([*lines, ""]))


PAIN = tomlkit.dumps({"labels": tomllib.loads((FIXTURES / "labels" / "pain.toml").read_text())})
INTENSITIES = ("image,split,AU1,AU25", "a/00001.jpg,train,5,0.5", "a/00003.jpg,train,,4", "b/00001.jpg,val,1,0")


def test_a_table_of_another_schema(project: Path) -> None:
    labelled_by(project, '[labels]\nname = "disfa"\n', *INTENSITIES)
    code, out, err = mtl("--table", "labels.csv")
    assert (code, err) == (0, "")
    path = project / "made" / "frames.parquet"
    assert stored_schema(path) == DISFA
    assert read_frames(path, DISFA).select("AU1", "AU25").rows() == [(5, 0.5), (None, 4), (1, 0)]
    assert "Mean ± SD of intensity" in out
    assert re.search(r"^AU25 +2\.25 ± 1\.75 +0\.00 ± 0\.00", out, re.MULTILINE)
    assert "Expressions" not in out
    document = json.loads(mtl("--table", "labels.csv", "--json")[1])
    assert document["splits"]["train"]["num_labelled"] == {"intensity": 2}


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_has_a_table_for_each_group(project: Path, width: int) -> None:
    rows = ("image,split,pain,state,AU9", "a/00001.jpg,train,3,Calm,1", "b/00001.jpg,val,5,Tense,0")
    labelled_by(project, PAIN, *rows)
    code, out, err = mtl("--table", "labels.csv", columns=width)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= width
    assert ("split  videos  rows  pain  intensity  state  seen  no label" in out) == (width == 120)
    assert re.search(r"^pain +1 +1$", out.replace(" \n", "\n"), re.MULTILINE) or width == 120
    assert "…" not in out
    for words in ("Classes of state", "Positives; mean ± SD", "Distressed", "pain", "3.00 ± 0.00"):
        assert words in out


@pytest.mark.parametrize(
    ("name", "lines", "arguments", "message"),
    [
        (
            "disfa",
            ("image,AU1", "a/00001.jpg,6"),
            ("--table",),
            "labels.csv:2: AU1 is '6'; expected a number in [0, 5]",
        ),
        (
            "disfa",
            ("image,AU7", "a/00001.jpg,1"),
            ("--train",),
            "labels.csv:1: unknown column 'AU7' (did you mean 'AU17'?)",
        ),
        ("fer7", ("image,expression", "a/00001.jpg,Happy"), ("--val",), "labels.csv:2: expression is 'Happy' (did you"),
        (
            "bp4d",
            ("a/00001.jpg,1",),
            ("--train",),
            "labels.csv:1: no header; files without one are the challenge's own",
        ),
        ("bp4d", ("image,AU1",), ("--table",), "labels.csv: no rows below the header"),
    ],
)
def test_wrong_rows_of_another_schema_are_one_line(
    project: Path, name: str, lines: tuple[str, ...], arguments: tuple[str], message: str
) -> None:
    labelled_by(project, f'[labels]\nname = "{name}"\n', *lines)
    code, out, err = mtl(*arguments, "labels.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"mtl: error: {message}")
    assert not (project / "made" / "frames.parquet").exists()


def test_gaps_go_by_the_configuration(project: Path) -> None:
    arguments = ("--train", "train.txt", "--val", "val.txt")
    assert "context" not in mtl(*arguments)[1]
    with open(project / "mtl.toml", "a") as file:
        file.write("[train]\nmax_gap = 1\n")
    out = " ".join(mtl(*arguments)[1].split())
    assert "every gap between neighbouring frames is above 1 frame ([train] max_gap) in 1 video" in out
    assert "1 to 3" in out


def test_json_alone_on_standard_output(project: Path) -> None:
    code, out, _ = mtl("--train", "train.txt", "--val", "val.txt", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["frames"] == "made/frames.parquet"
    assert document["splits"]["train"]["num_labelled"] == {"va": 2, "expr": 2, "au": 2}
    assert document["faces"]["num_read"] == 3


def test_errors_make_the_exit_code_1_and_strict_warnings_too(project: Path) -> None:
    arguments = ("--train", "train.txt", "--val", "val.txt")
    assert (mtl(*arguments)[0], mtl(*arguments, "--strict")[0]) == (0, 1)
    (project / "crops" / "a" / "00003.jpg").write_bytes(b"")
    code, out, _ = mtl(*arguments)
    assert code == 1
    assert "1 face of 3 cannot be decoded: a/00003.jpg: empty file" in out
    assert read_frames(project / "made" / "frames.parquet").height == 3
    code, out, _ = mtl(*arguments, "--no-check-faces")
    assert (code, "cannot be decoded" in out) == (0, False)
    (project / "crops" / "a" / "00003.jpg").unlink()
    assert mtl(*arguments, "--no-check-faces")[0] == 1


def test_labels_without_a_split_are_named(project: Path) -> None:
    (project / "labels.csv").write_text("image,AU1\na/00001.jpg,1\na/00002.jpg,\na/00003.jpg,0\n")
    code, out, _ = mtl("--table", "labels.csv", "--val", "val.txt", columns=200)
    assert code == 0
    assert "2 labelled rows of labels.csv in no split" in out
    assert "add a column split (train, val or test)" in " ".join(out.split())
    (project / "labels.csv").write_text("image,AU1,split\na/00001.jpg,1,\na/00002.jpg,,train\n")
    assert "in no split" not in mtl("--table", "labels.csv", "--val", "val.txt", columns=200)[1]


def test_context_adds_the_other_faces(project: Path) -> None:
    (project / "subjects.csv").write_text("video,subject\na,ann\nb,ben\n")
    mtl("--train", "train.txt", "--context", "--subjects", "subjects.csv")
    frames = read_frames(project / "made" / "frames.parquet")
    assert frames.select("frame", "split", "valence", "subject").rows() == [
        (1, "train", 0.5, "ann"),
        (2, "train", None, "ann"),
        (3, "train", 0.5, "ann"),
        (1, "none", None, "ben"),
    ]


def test_faces_alone_need_no_configuration(project: Path) -> None:
    (project / "mtl.toml").unlink()
    code, out, _ = mtl("--faces", "crops", "--out", "x.parquet")
    assert (code, "4 frames of 2 videos" in out) == (0, True)
    assert set(read_frames(project / "x.parquet")["split"]) == {"none"}
    code, _, err = mtl("--faces", "crops")
    assert (code, err) == (2, "mtl: error: mtl.toml: no such file; `mtl init` writes one\n")


def packed(project: Path) -> None:
    """Video a as a tar, video b as a zip with a folder inside; the files are gone."""
    with tarfile.open(project / "crops/a.tar", "w") as archive:
        for face in sorted((project / "crops/a").iterdir()):
            archive.add(face, face.name)
    with zipfile.ZipFile(project / "crops/b.zip", "w") as archive:
        archive.write(project / "crops/b/00001.jpg", "b/00001.jpg")
    for video in "ab":
        shutil.rmtree(project / "crops" / video)


def test_packed_faces_give_the_table_of_the_files(project: Path) -> None:
    arguments = {"alone": (), "annotated": ("--train", "train.txt", "--val", "val.txt"), "context": ()}
    arguments["context"] = (*arguments["annotated"], "--context")
    as_files = {name: mtl(*words, "--json", "--out", f"{name}.parquet") for name, words in arguments.items()}
    tables = {name: read_frames(project / f"{name}.parquet") for name in arguments}
    packed(project)
    for name, words in arguments.items():
        assert mtl(*words, "--json", "--out", f"{name}.parquet") == as_files[name]
        assert read_frames(project / f"{name}.parquet").equals(tables[name])
        assert json.loads(as_files[name][1])["faces"]["num_missing"] == 0


def test_packed_faces_that_cannot_be_had(project: Path) -> None:
    packed(project)
    with tarfile.open(project / "crops/a.tar") as archive:
        end = archive.getmember("00002.jpg").offset_data + 10
    os.truncate(project / "crops/a.tar", end)
    (project / "crops/b.zip").write_bytes(b"")
    code, out, err = mtl("--train", "train.txt", "--val", "val.txt", "--json")
    faces = json.loads(out)["faces"]
    assert (code, err, faces["num_missing"], faces["num_unreadable"]) == (1, "", 0, 2)
    code, out, _ = mtl("--out", "x.parquet")
    assert code == 1
    assert "2 packed videos not read whole: a.tar: the archive is cut off or damaged" in " ".join(out.split())
    (project / "crops/a.tar").unlink()
    code, out, err = mtl()
    assert (code, out, err) == (2, "", "mtl: error: crops/b.zip: the archive is cut off or damaged\n")


def test_a_video_is_listed_and_checked(project: Path) -> None:
    with av.open(str(project / "crops/c.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "bgr0"
        for shade in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    code, out, err = mtl("--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["faces"]["sizes"] == {"16x16": 4, "32x32": 3}
    paths = read_frames(project / "made/frames.parquet")["path"].to_list()
    assert paths[-3:] == ["c/00001.jpg", "c/00002.jpg", "c/00003.jpg"]
    (project / "val.txt").write_text(f"{HEADER}\nc/00003.jpg,{LABELS}\nc/00004.jpg,{LABELS}\n")
    _, out, _ = mtl("--train", "train.txt", "--val", "val.txt")
    assert "1 face of 4 cannot be decoded: c/00004.jpg: the video has only 3 frames" in " ".join(out.split())


def test_a_changed_frame_list_is_told(project: Path) -> None:
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
def test_a_bad_row_is_one_line_and_writes_nothing(project: Path, bad: str, message: str) -> None:
    with (project / "train.txt").open("a") as file:
        file.write(f"{bad}\n")
    code, out, err = mtl("--train", "train.txt", "--val", "val.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"mtl: error: {message}")
    assert not (project / "made" / "frames.parquet").exists()


@pytest.mark.parametrize("out", ["made", "frames.csv", "made/frames"])
def test_where_the_table_cannot_lie_is_said_before_anything_is_read(project: Path, out: str) -> None:
    code, shown, err = mtl("--train", "no such file", "--out", out)
    said = f"{out}: the frames table is a .parquet file; give --out, or frames under [data] in mtl.toml, such a name"
    assert (code, shown, " ".join(err.split())) == (2, "", f"mtl: error: {said}")


def test_the_folder_of_the_table_is_made(project: Path) -> None:
    assert mtl("--train", "train.txt", "--out", "new/folder/frames.parquet")[0] == 0
    assert len(read_frames(project / "new/folder/frames.parquet")) == 2


@pytest.mark.parametrize("given", ["crops", "/dev/null"])
def test_what_is_no_file_is_not_said_to_be_missing(project: Path, given: str) -> None:
    code, _, err = mtl("--train", given)
    assert (code, err) == (2, f"mtl: error: {given}: is no file; check the path\n")


def test_a_missing_faces_folder_is_one_line(project: Path) -> None:
    code, out, err = mtl("--train", "train.txt", "--faces", "nowhere")
    assert (code, out) == (2, "")
    assert err == "mtl: error: nowhere: no such faces folder; name it with --faces or in mtl.toml under [data] faces\n"


def test_two_files_that_disagree_are_named(project: Path) -> None:
    (project / "val.txt").write_text(f"{HEADER}\na/00001.jpg,{LABELS}\n")
    code, _, err = mtl("--train", "train.txt", "--val", "val.txt")
    assert code == 2
    assert "video 'a', frame 1: split is 'train' in train.txt (train) and 'val' in val.txt (val)" in err


LISTS = {
    "bare": "image\nb/00001.jpg\nb/00001.jpg\nb/00009.jpg\n",
    "commas": "image,valence,arousal,expression,aus\r\nb/00001.jpg,\r\nb/9.jpg,\r\n",
    "dummies": "image_location,valence,arousal\nb/00001.jpg,.5,-.5\nb/00009.jpg,.5,-.5\n",
    "videos": "\ufeffb\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_test_list_gives_names_and_never_labels(project: Path, name: str) -> None:
    (project / "list.txt").write_text(LISTS[name], encoding="utf-8")
    code, out, err = mtl("--train", "train.txt", "--test-list", "list.txt", "--json")
    assert (code, err) == (0, "")
    test = read_frames(project / "made/frames.parquet").filter(split="test")
    assert test["path"].to_list() == ["b/00001.jpg"]
    assert not any(test.select(LABEL_COLUMNS).count().row(0))
    codes = [finding["code"] for finding in json.loads(out)["findings"]]
    assert ("frames_without_face" in codes) == (name != "videos")
    assert ("list_rows_repeated" in codes) == (name == "bare")


def test_dummy_values_are_no_test_labels(project: Path) -> None:
    (project / "list.txt").write_text(LISTS["dummies"])
    code, _, err = mtl("--train", "train.txt", "--test", "list.txt")
    assert code == 2
    assert "every one of 2 rows has the same labels (valence 0.5, arousal -0.5)" in err
    assert "give the file with --test-list" in err
