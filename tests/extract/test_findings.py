"""The data check: counts, and each finding on a table or folder that deserves it."""

import json
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg

from cache.frames import conform
from cache.labels import schema_of
from cache.names import ACTION_UNITS, LABEL_COLUMNS
from extract.annotations.checks import Finding
from extract.annotations.face_checks import check_faces
from extract.annotations.findings import Findings, examine
from extract.annotations.gather import Sources, check_replaced, gather


def table(*rows: tuple[str, int, str], **columns: list[object]) -> pl.DataFrame:
    """Rows (video, frame, split) with every label present, positive for frame 1, unless `columns` say otherwise."""
    frames = pl.DataFrame(rows, schema=["video", "frame", "split"], orient="row")
    frames = frames.with_columns(path=pl.format("{}/{}.jpg", "video", "frame"), valence=0.5, arousal=0.0)
    frames = frames.with_columns(*[pl.lit(1).alias(name) for name in ACTION_UNITS], expression=pl.lit(0))
    return conform(frames.with_columns(**{name: pl.Series(values) for name, values in columns.items()}), "test")


def codes(findings: Findings) -> dict[str, int]:
    return {finding.code: finding.count for finding in findings.findings}


def one(findings: Findings, code: str) -> tuple[str, int, tuple[str, ...]]:
    found = [finding for finding in findings.findings if finding.code == code]
    assert len(found) == 1, f"{code}: {len(found)} of {[finding.code for finding in findings.findings]}"
    return found[0].severity, found[0].count, found[0].examples


def jpeg(path: Path, value: int, size: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(np.full((size, size, 3), value, dtype=np.uint8)))
    return path


# --- counts ------------------------------------------------------------------------------------------------------


def test_counts_of_a_split() -> None:
    frames = table(
        ("a", 1, "train"),
        ("a", 3, "train"),
        ("b", 10, "train"),
        ("b", 110, "train"),
        ("b", 111, "train"),
        ("c", 1, "val"),
        valence=[0.5, -0.5, None, None, None, 1.0],
        arousal=[0.0, 0.0, 1.0, None, None, 0.0],
        expression=[4, 4, None, None, None, 0],
        **{name: [1, 0, None, None, None, 1] for name in ACTION_UNITS},
    )
    findings = examine(frames, None)
    train = findings.splits["train"]
    assert (findings.num_rows, findings.num_videos, findings.num_subjects) == (6, 3, None)
    assert list(findings.splits) == ["train", "val"]
    assert (train.num_rows, train.num_videos, train.num_unlabelled) == (5, 2, 2)
    assert train.num_labelled == {"va": 3, "expr": 2, "au": 2}
    assert train.classes["expr"]["Happiness"] == 2
    assert train.positives["AU12"] == (1, 2)
    assert train.moments["valence"] == (0.0, 0.5)
    assert train.gaps == {"median": 2, "p90": 100, "max": 100}
    assert findings.splits["val"].gaps is None


def test_gaps_never_span_two_videos() -> None:
    findings = examine(table(("a", 1, "train"), ("a", 2, "train"), ("b", 900, "train"), ("b", 901, "train")), None)
    assert findings.splits["train"].gaps == {"median": 1, "p90": 1, "max": 1}


def test_json_has_stable_keys() -> None:
    document = json.loads(json.dumps(examine(table(("a", 1, "train"), ("a", 2, "val")), None).to_json()))
    assert list(document) == ["num_rows", "num_videos", "num_subjects", "splits", "faces", "findings"]
    assert set(document["splits"]["train"]) == {
        "num_videos",
        "num_rows",
        "num_labelled",
        "num_unlabelled",
        "classes",
        "positives",
        "moments",
        "gaps",
    }
    assert document["splits"]["train"]["positives"]["AU1"] == {"positive": 1, "labelled": 1}
    assert set(document["findings"][0]) == {"code", "severity", "count", "message", "remedy", "examples"}
    assert [finding["severity"] for finding in document["findings"]] == ["error", "warning"]


PAIN = schema_of(tomllib.loads((Path(__file__).parents[1] / "fixtures/labels/pain.toml").read_text()), "pain.toml")


def pain_table(**columns: list[object]) -> pl.DataFrame:
    base = {"video": ["a", "a", "b"], "frame": [1, 2, 1], "path": ["a/1.jpg", "a/2.jpg", "b/1.jpg"]}
    return conform(pl.DataFrame({**base, "split": ["train", "train", "val"], **columns}), "test", PAIN)


def test_counts_go_by_the_groups_of_a_schema() -> None:
    frames = pain_table(pain=[2, 4, None], AU4=[0.5, None, 1.0], state=[0, 0, 2], AU9=[1, 0, 0], AU20=[1, None, None])
    findings = examine(frames, None, schema=PAIN)
    train = findings.splits["train"]
    assert train.num_labelled == {"pain": 2, "intensity": 1, "state": 2, "seen": 2}
    assert train.classes == {"state": {"Calm": 2, "Tense": 0, "Distressed": 0}}
    assert train.positives == {"AU9": (1, 2), "AU20": (1, 1), "AU25": (0, 0)}
    assert train.moments == {"pain": (3.0, 1.0), "AU4": (0.5, 0.0), "AU6": None, "AU43": None}
    assert {f.message: f.examples for f in findings.findings} == {
        "task pain: no labelled frame in val": ("pain in val",),
        "2 state classes without a labelled frame in train": ("Tense", "Distressed"),
        "2 state classes without a labelled frame in val": ("Calm", "Tense"),
        "1 action unit without a label in train": ("AU25",),
        "2 action units without a label in val": ("AU20", "AU25"),
        "1 action unit without a positive in val": ("AU9",),
    }


def test_ranges_go_by_the_schema() -> None:
    frames = pain_table(pain=[2, 4, None], state=[0, 1, 2]).with_columns(pain=pl.Series([11.0, 4, -1]))
    found = {f.message: f.examples for f in examine(frames, None, schema=PAIN).findings if f.code == "out_of_range"}
    assert found == {"pain: 2 values outside [0, 10]": ("a/1.jpg: 11.0", "b/1.jpg: -1.0")}


def test_accuracy_has_no_mean_f1() -> None:
    document = PAIN.to_mapping()
    document["groups"][2]["score"] = "accuracy"
    frames = pain_table(state=[0, 0, 0])
    findings = examine(frames, None, schema=schema_of(document, "x")).findings
    (remedy,) = [f.remedy for f in findings if f.code == "no_positive_in_split"]
    assert remedy == "train, val cannot score it, and cannot be learned"


def gaps(max_gap: int, *rows: tuple[str, int, str]) -> list[Finding]:
    found = examine(table(*rows), None, max_gap=max_gap).findings
    return [finding for finding in found if finding.code in ("no_context", "long_gaps")]


def at(video: str, split: str, *frames: int) -> list[tuple[str, int, str]]:
    return [(video, frame, split) for frame in frames]


def test_gaps_that_no_window_spans_are_counted() -> None:
    rows = [*at("a", "train", 1, 5, 305, 606, 610), *at("b", "train", 1, 900), *at("c", "val", 4, 5)]
    (found,) = gaps(300, *rows)
    assert (found.code, found.severity, found.count) == ("long_gaps", "info", 2)
    assert "2 of 6 gaps between neighbouring frames above 300 frames ([train] max_gap) in 2 videos" in found.message
    assert "; 2 frames with no other within it" in found.message
    assert found.examples == ("a frames 305 to 606", "b frames 1 to 900")
    assert not gaps(899, *rows)


def test_no_context_at_all_is_a_warning() -> None:
    (found,) = gaps(10, *at("a", "train", 1, 101, 201), *at("b", "val", 1, 12))
    assert (found.code, found.severity, found.count) == ("no_context", "warning", 3)
    assert "heads get no context" in found.message
    assert "5 frames with no other" in found.message
    assert "the median gap is 100" in found.remedy


def test_frames_of_no_split_are_context_and_those_of_another_split_are_not() -> None:
    assert not gaps(10, *at("a", "train", 1, 17), *at("a", "none", 9))
    (found,) = gaps(10, *at("a", "train", 1, 17), *at("a", "val", 9, 10))
    assert (found.count, found.code) == (1, "long_gaps")
    assert gaps(10, *at("a", "none", 1, 17))[0].code == "no_context"
    assert not gaps(10, *at("a", "none", 1), *at("b", "train", 17))


# --- findings about rows and labels ------------------------------------------------------------------------------


def test_a_video_in_two_splits() -> None:
    findings = examine(table(("10", 1, "train"), ("10", 2, "val"), ("100", 1, "val"), ("7", 1, "none")), None)
    assert one(findings, "video_in_several_splits") == ("error", 1, ("10 (train, val)",))


def test_a_subject_in_two_splits() -> None:
    rows = (("a", 1, "train"), ("b", 2, "val"), ("c", 1, "test"), ("d", 1, "none"))
    findings = examine(table(*rows, subject=["ann", "ann", "ben", "ben"]), None)
    assert findings.num_subjects == 2
    assert one(findings, "subject_in_several_splits") == ("warning", 1, ("ann (train, val)",))


@pytest.mark.parametrize("column", ["video", "subject"])
def test_names_that_a_spreadsheet_would_run(column: str) -> None:
    names = ["=1+1", "@sum", "+cmd|x", "-a", "-12", "+1.5", "a=1", "plain"]
    videos = names if column == "video" else [f"v{index}" for index in range(len(names))]
    rows = [(video, 1, "train") for video in videos]
    findings = examine(table(*rows, **({} if column == "video" else {"subject": names})), None)
    assert one(findings, "names_like_formulas") == ("info", 4, ("+cmd|x", "-a", "=1+1", "@sum"))


def test_two_sides_of_a_recording() -> None:
    findings = examine(table(("v_left", 1, "train"), ("v_right", 1, "val"), ("w_left", 1, "train")), None)
    assert one(findings, "recording_in_several_splits") == ("warning", 1, ("v (train, val)",))
    assert one(findings, "ids_are_two_sides") == ("info", 1, ("v_left and v_right",))


def test_ids_that_collide() -> None:
    findings = examine(table(*[(video, 1, "train") for video in ("10", "100", "1000", "Ab", "aB", "b")]), None)
    assert one(findings, "ids_differ_by_case") == ("warning", 1, ("Ab, aB",))
    assert one(findings, "ids_share_prefix") == ("info", 2, ("10 and 100", "100 and 1000"))


def test_a_task_without_labels() -> None:
    rows = (("a", 1, "train"), ("b", 1, "val"), ("c", 1, "test"))
    none = [None, None, None]
    findings = examine(table(*rows, expression=none, valence=[None, 0.5, 0.5], arousal=[None, 0.5, 0.5]), None)
    assert one(findings, "task_without_labels") == ("info", 1, ("expr",))
    assert one(findings, "task_without_labels_in_split") == ("warning", 1, ("va in train",))


def test_a_test_list_is_no_finding() -> None:
    labels = {name: [1, 1, None] for name in LABEL_COLUMNS}
    findings = examine(table(("a", 1, "train"), ("b", 1, "val"), ("c", 1, "test"), **labels), None)
    assert "task_without_labels_in_split" not in codes(findings)


def test_classes_and_units_without_a_positive() -> None:
    rows = (("a", 1, "train"), ("b", 1, "val"))
    findings = examine(table(*rows, expression=[4, 4], AU1=[0, 1], AU2=[None, 1]), None)
    lacking = {f.message: f.examples for f in findings.findings if f.code == "no_positive_in_split"}
    others = ("Neutral", "Anger", "Disgust", "Fear", "Sadness", "Surprise", "Other")
    assert lacking == {
        "7 expressions without a labelled frame in train, val": others,
        "1 action unit without a positive in train": ("AU1",),
        "1 action unit without a label in train": ("AU2",),
    }


def test_splits_without_rows() -> None:
    assert one(examine(table(("a", 1, "train")), None), "empty_split") == ("warning", 1, ("val",))
    assert one(examine(table(("a", 1, "none")), None), "no_split")[0] == "warning"
    unlabelled = table(("a", 1, "none")).with_columns(pl.lit(None).cast(pl.Int8).alias(n) for n in LABEL_COLUMNS)
    assert one(examine(unlabelled, None), "no_split")[0] == "info"


def test_values_out_of_range() -> None:
    frames = table(("a", 1, "train"), ("a", 2, "train")).with_columns(
        valence=pl.Series([1.5, 0.0]), AU1=pl.Series([1, 7])
    )
    found = {f.message: f.examples for f in examine(frames, None).findings if f.code == "out_of_range"}
    assert found == {
        "valence: 1 value outside [-1, 1]": ("a/1.jpg: 1.5",),
        "AU1: 1 value outside [0, 1]": ("a/2.jpg: 7",),
    }


def test_videos_without_a_subject() -> None:
    frames = table(("a", 1, "train"), ("b", 1, "val"), subject=["ann", None])
    assert one(examine(frames, None), "video_without_subject") == ("warning", 1, ("b",))


# --- findings about face files -----------------------------------------------------------------------------------


def test_missing_unreadable_and_equal_faces(tmp_path: Path) -> None:
    rows = [("a", 1, "train"), ("a", 2, "train"), ("a", 3, "train"), ("b", 1, "val"), ("b", 2, "val"), ("b", 3, "none")]
    for video, frame, value in (("a", 1, 10), ("a", 2, 10), ("b", 1, 99), ("b", 3, 99)):
        jpeg(tmp_path / video / f"{frame}.jpg", value)
    (tmp_path / "a" / "3.jpg").write_bytes(jpeg(tmp_path / "x" / "1.jpg", 5, size=64).read_bytes()[:200])
    done: list[int] = []
    findings = examine(table(*rows), tmp_path, done.append)
    assert sum(done) == 6
    assert one(findings, "missing_faces") == ("error", 1, ("b/2.jpg",))
    severity, count, examples = one(findings, "unreadable_faces")
    assert (severity, count) == ("error", 1)
    assert examples[0].startswith("a/3.jpg: ")
    assert one(findings, "equal_faces") == ("info", 2, ("a/1.jpg = a/2.jpg", "b/1.jpg = b/3.jpg"))
    assert "equal_faces_across_splits" not in codes(findings)
    assert findings.faces is not None
    assert (findings.faces.num_missing, findings.faces.num_read, findings.faces.num_unreadable) == (1, 4, 1)
    assert findings.faces.sizes == {"16x16": 4}


def test_equal_faces_across_splits(tmp_path: Path) -> None:
    for video in ("a", "b"):
        jpeg(tmp_path / video / "1.jpg", 10)
    jpeg(tmp_path / "b" / "2.jpg", 20, size=24)
    findings = examine(table(("a", 1, "train"), ("b", 1, "val"), ("b", 2, "val")), tmp_path)
    assert one(findings, "equal_faces_across_splits") == ("warning", 1, ("a/1.jpg = b/1.jpg",))
    assert one(findings, "faces_of_several_sizes")[2] == ("2 of 16 x 16 px", "1 of 24 x 24 px")


def test_faces_are_looked_for_without_opening_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"")
    findings = examine(table(("a", 1, "train"), ("a", 2, "train")), tmp_path, open_faces=False)
    assert one(findings, "missing_faces") == ("error", 1, ("a/2.jpg",))
    assert "unreadable_faces" not in codes(findings)


def test_many_faces_keep_their_rows(tmp_path: Path) -> None:
    """More rows than one chunk of the thread pool: the row numbers of all chunks are right."""
    paths = [f"a/{number}.jpg" for number in range(600)]
    for number, path in enumerate(paths):
        if number % 300 == 7:
            jpeg(tmp_path / path, 1)
        elif number % 50:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(b"no image")
    found = check_faces(paths, tmp_path, lambda count: None)
    assert found.missing == tuple(range(0, 600, 50))
    assert len(found.unreadable) == 586
    assert [row for row, _ in found.unreadable] == sorted({*range(600)} - {*found.missing, 7, 307})
    assert found.digests.any(axis=1).nonzero()[0].tolist() == [7, 307]
    assert check_faces(paths, tmp_path, lambda count: None, open_faces=False).missing == found.missing


def test_no_faces_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such faces folder"):
        examine(table(("a", 1, "train")), tmp_path / "none")


# --- gathering ---------------------------------------------------------------------------------------------------


def test_per_track_frames_without_a_face_are_left_out(tmp_path: Path) -> None:
    for task, split, video, text in (
        ("VA_Set", "Train_Set", "a", "valence,arousal\n0.1,0\n0.2,0\n0.3,0\n"),
        ("VA_Set", "Train_Set", "b", "valence,arousal\n0.1,0\n"),
        ("EXPR_Set", "Validation_Set", "b", "Neutral\n0\n"),
    ):
        folder = tmp_path / "tracks" / task / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{video}.txt").write_text(text)
    with pytest.raises(ValueError, match="no such faces folder"):
        gather(Sources(faces=tmp_path / "none", tracks=tmp_path / "tracks"))
    (tmp_path / "faces").mkdir()
    with pytest.raises(ValueError, match="none of the 4 frames"):
        gather(Sources(faces=tmp_path / "faces", tracks=tmp_path / "tracks"))
    for path in ("a/00001.jpg", "a/00003.jpg", "b/00001.jpg"):
        jpeg(tmp_path / "faces" / path, 0)
    frames, found = gather(Sources(faces=tmp_path / "faces", tracks=tmp_path / "tracks"))
    assert frames.select("path", "split").rows() == [
        ("a/00001.jpg", "train"),
        ("a/00003.jpg", "train"),
        ("b/00001.jpg", "val"),
    ]
    assert {finding.code: finding.examples for finding in found} == {
        "frames_without_face": ("a/00002.jpg",),
        "tracks_split_differently": ("VA_Set/Train_Set/b.txt",),
    }


def test_a_replaced_frame_list_is_told(tmp_path: Path) -> None:
    out = tmp_path / "frames.parquet"
    frames = table(("a", 1, "train"), ("a", 2, "train"))
    assert check_replaced(frames, out) == ()
    frames.write_parquet(out)
    assert check_replaced(frames.with_columns(valence=pl.lit(0.1)), out) == ()
    assert [finding.code for finding in check_replaced(frames[:1], out)] == ["frame_list_changed"]


@pytest.mark.real
def test_real_faces(real_data: Path) -> None:
    folder = real_data / "talking"
    sources = Sources(
        faces=folder / "cropped_aligned",
        annotations={split: folder / f"{split}_set.txt" for split in ("train", "val", "test")},
        subjects=folder / "subjects.csv",
    )
    frames, found = gather(sources)
    findings = examine(frames, sources.faces, extra=found)
    assert one(findings, "subject_in_several_splits") == ("warning", 1, ("webcam_a (train, val)",))
    assert findings.faces is not None
    assert (findings.faces.num_missing, findings.faces.num_unreadable) == (0, 0)
    assert findings.faces.sizes == {"112x112": 5166}
    assert findings.num_of("error") == 0
