"""The per-track folders of Aff-Wild2."""

from pathlib import Path

import pytest

from cache.names import ACTION_UNITS, EXPRESSIONS
from extract.annotations.tracks import list_tracks, read_per_track, settle

HEADERS = {"va": "valence,arousal", "expr": ",".join(EXPRESSIONS), "au": ",".join(ACTION_UNITS)}
FOLDERS = {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"}
UNITS = "0,1,0,1,0,1,0,1,0,1,0,1"


def track(root: Path, task: str, split: str, video: str, *rows: str, header: str | None = None) -> Path:
    path = root / FOLDERS[task] / split / f"{video}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header or HEADERS[task], *rows, ""]))
    return path


def test_three_tracks_meet_on_the_frame(tmp_path: Path) -> None:
    track(tmp_path, "va", "Train_Set", "10", "0.1,0.2", "-5,-5", "0.3,0.4")
    track(tmp_path, "expr", "Train_Set", "10", "4", "-1")
    track(tmp_path, "au", "Train_Set", "100_left", UNITS, UNITS.replace("1", "-1"))
    track(tmp_path, "au", "Validation_Set", "7", UNITS)
    frames = read_per_track(tmp_path)
    assert frames.select("path", "frame", "split", "expression", "AU2").rows() == [
        ("10/00001.jpg", 1, "train", 4, None),
        ("10/00002.jpg", 2, "train", None, None),
        ("10/00003.jpg", 3, "train", None, None),
        ("100_left/00001.jpg", 1, "train", None, 1),
        ("100_left/00002.jpg", 2, "train", None, None),
        ("7/00001.jpg", 1, "val", None, 1),
    ]
    assert frames["valence"].to_list() == [pytest.approx(0.1), None, pytest.approx(0.3), None, None, None]


def test_older_folder_names_and_orders(tmp_path: Path) -> None:
    folder = tmp_path / "EXPR_Set" / "Training_Set"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Neutral,Happiness,Anger\n1\n2\n")
    other = tmp_path / "VA_Set" / "Validation_Set"
    other.mkdir(parents=True)
    (other / "b.txt").write_text("arousal, valence\n0.5,-0.5\n")
    frames = read_per_track(tmp_path)
    assert frames["expression"].to_list() == [4, 1, None]
    assert frames.select("valence", "arousal").row(2) == (-0.5, 0.5)


def test_a_video_of_two_splits_keeps_its_validation_labels(tmp_path: Path) -> None:
    left_out = track(tmp_path, "va", "Train_Set", "a", "0.1,0.2")
    track(tmp_path, "expr", "Validation_Set", "a", "4")
    track(tmp_path, "va", "Train_Set", "ab", "0.1,0.2")
    assert [file.path for file in settle(list_tracks(tmp_path))[1]] == [left_out]
    assert read_per_track(tmp_path).select("video", "split", "valence", "expression").rows() == [
        ("a", "val", None, 4),
        ("ab", "train", pytest.approx(0.1), None),
    ]


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("va", ["0.1,0.2", "0.1,x"], r"a\.txt:3: arousal is 'x'"),
        ("va", ["0.1,0.2", "", "0.1,0.3"], r"a\.txt:3: an empty line"),
        ("va", ["", "0.1,0.3"], r"a\.txt:2: an empty line"),
        ("va", ["0.1"], r"a\.txt:2: too few columns: 1, but the header has 2"),
        ("expr", ["8"], r"a\.txt:2: expression is '8'"),
        ("au", ["5" + UNITS], r"a\.txt:2: AU1 is '50'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, task: str, rows: list[str], message: str) -> None:
    track(tmp_path, task, "Train_Set", "a", *rows)
    with pytest.raises(ValueError, match=message):
        read_per_track(tmp_path)


def test_a_folder_that_holds_no_tracks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        list_tracks(tmp_path / "none")
    with pytest.raises(ValueError, match="no annotations here"):
        list_tracks(tmp_path)
    track(tmp_path, "va", "Train_Set", "a", "0", header="valence")
    with pytest.raises(ValueError, match=r"a\.txt:1: columns valence; expected"):
        read_per_track(tmp_path)
    track(tmp_path, "va", "Validation_Set", "a", "0,0")
    with pytest.raises(ValueError, match="stands also in"):
        list_tracks(tmp_path)
