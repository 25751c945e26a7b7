"""Annotation readers: every layout, the grammar of the official text format, and errors that name file and line."""

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.names import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS
from extract.annotations import readers, sheets
from extract.annotations.columns import frame_in
from extract.annotations.matching import match_faces
from extract.annotations.readers import (
    add_context,
    merge,
    read_labels,
    read_subjects,
    scan_faces,
)
from extract.faces.listing import Listing

HEADER = ",".join(("image", *LABEL_COLUMNS))
AUS = "0,1,0,1,0,1,0,1,0,1,0,-1"
GOOD = f"a/00001.jpg,0.5,-0.25,4,{AUS}"
LAST = "0," * 11 + "1"


def write(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


def read_annotations(path: Path, split: str) -> pl.DataFrame:
    return readers.read_annotations(path, split)[0]


def read_table(path: Path) -> pl.DataFrame:
    return readers.read_table(path)[0]


def refuses(match: str, path: Path) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        read_annotations(path, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the official file -------------------------------------------------------------------------------------------


def test_reads_the_official_file(tmp_path: Path) -> None:
    frames = read_annotations(write(tmp_path / "t.txt", HEADER, GOOD, f"10/00123.jpg,-5,-5,-1,{LAST}"), "val")
    other, first = frames.rows(named=True)
    assert (first["video"], first["frame"], first["path"], first["split"]) == ("a", 1, "a/00001.jpg", "val")
    assert (first["valence"], first["arousal"], first["expression"]) == (0.5, -0.25, 4)
    assert [first[name] for name in ACTION_UNITS] == [0, 1] * 5 + [0, None]
    assert (other["video"], other["frame"], other["valence"], other["expression"]) == ("10", 123, None, None)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    swapped = "image,arousal,valence,expression," + ",".join(reversed(ACTION_UNITS))
    row = read_annotations(write(tmp_path / "t.txt", swapped, f"a/1.jpg,0.1,0.9,2,{LAST}"), "train").row(0, named=True)
    assert row["arousal"] == pytest.approx(0.1)
    assert row["valence"] == pytest.approx(0.9)
    assert (row["AU1"], row["AU26"]) == (1, 0)


@pytest.mark.parametrize("header", [HEADER, "image,valence,arousal,expression,aus", HEADER.upper(), None])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_headers_line_ends_and_byte_order_marks(tmp_path: Path, header: str | None, end: str, encoding: str) -> None:
    lines = [GOOD] if header is None else [header, GOOD]
    path = write(tmp_path / "t.txt", *lines, end=end, encoding=encoding)
    expected = read_annotations(write(tmp_path / "plain.txt", HEADER, GOOD), "train")
    assert read_annotations(path, "train").equals(expected)


def test_a_missing_mark_belongs_to_its_task_alone(tmp_path: Path) -> None:
    refuses(r"t.txt:2: valence is '-2'", write(tmp_path / "t.txt", HEADER, f"a/1.jpg,-2,0,1,{AUS}"))
    refuses(r"t.txt:2: expression is '-5'", write(tmp_path / "t.txt", HEADER, f"a/1.jpg,0,0,-5,{AUS}"))
    frames = read_annotations(write(tmp_path / "t.txt", HEADER, f"a/1.jpg,-1,-1.0,1,{AUS}"), "train")
    assert frames.select("valence", "arousal").row(0) == (-1.0, -1.0)  # a value, not a mark


def test_one_of_valence_and_arousal_may_be_missing(tmp_path: Path) -> None:
    frames = read_annotations(write(tmp_path / "t.txt", HEADER, f"a/1.jpg,-5.0,0.5,1,{AUS}"), "train")
    assert frames.select("valence", "arousal").row(0) == (None, 0.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"a/2.jpg,high,0,1,{AUS}", "valence is 'high'; expected a number in"),
        (f"a/2.jpg,0,nan,1,{AUS}", "arousal is 'nan'"),
        (f"a/2.jpg,0,1.5,1,{AUS}", "arousal is '1.5'"),
        (f"a/2.jpg,,0,1,{AUS}", "valence is empty"),
        (f"a/2.jpg,0,0,8,{AUS}", "expression is '8'"),
        (f"a/2.jpg,0,0,Bored,{AUS}", "expression is 'Bored'; expected .*Happiness"),
        (f"a/2.jpg,0,0,1.5,{AUS}", "expression is '1.5'"),
        (f"a/2.jpg,0,0,1,{AUS[:-2]}2", "AU26 is '2'; expected 0, 1, or -1"),
        (f"a/2.jpg,0,0,1,{AUS[:-2]}0.5", "AU26 is '0.5'"),
        ("a/2.jpg,0,0,1", "too few columns: 4, but the header has 16"),
        (f"a/2.jpg,0,0,1,{AUS},1", "too many columns: 17"),
        (f"../a/2.jpg,0,0,1,{AUS}", "it leaves the faces folder"),
        (f"a/../../2.jpg,0,0,1,{AUS}", "it leaves the faces folder"),
        (f"/a/2.jpg,0,0,1,{AUS}", "it leaves the faces folder"),
        (f"C:/a/2.jpg,0,0,1,{AUS}", "it leaves the faces folder"),
        (f"a\\2.jpg,0,0,1,{AUS}", "it has backslashes"),
        (f"2.jpg,0,0,1,{AUS}", "it has no video folder"),
        (f"a/face.jpg,0,0,1,{AUS}", "it has no frame number"),
        (f"a/99999999999999999999.jpg,0,0,1,{AUS}", "it is not a plain path"),
        (f"a/./2.jpg,0,0,1,{AUS}", "it is not a plain path"),
        (f"a//2.jpg,0,0,1,{AUS}", "it is not a plain path"),
        (
            f"a/frame_1.png,0,0,1,{AUS}",
            "video 'a', frame 1: valence is 0 here and 0.5 in line 2; remove one of the two, or choose with --on-conf",
        ),
        (f'"a/2.jpg,0,0,1,{AUS}', "not a CSV row"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "t.txt", HEADER, GOOD, "", row)
    assert re.search(message, refuses(rf"^{re.escape(str(path))}:4: ", path))


def test_several_bad_rows_are_counted(tmp_path: Path) -> None:
    bad = [f"a/{n}.jpg,0,0,9,{AUS}" for n in range(2, 5)]
    assert "(and 2 more bad rows, the next: 4)" in refuses("t.txt:3: ", write(tmp_path / "t.txt", HEADER, GOOD, *bad))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            HEADER.replace("valence", "valance"),
            r"unknown column 'valance' \(did you mean 'valence'\?\); known: .*valence",
        ),
        (HEADER.replace("arousal", "valence"), "'valence' is named twice"),
        (f"{HEADER},path", "'path' is named twice"),
        (HEADER.replace("image,", ""), "no column names the faces"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, header: str, message: str) -> None:
    row = GOOD.partition(",")[2] if "image" not in header else GOOD
    row += ",1" * (header.count(",") - row.count(","))
    refuses(message, write(tmp_path / "t.txt", header, row))


def test_not_a_text_file(tmp_path: Path) -> None:
    refuses("no such file", tmp_path / "none.txt")
    refuses("is empty", write(tmp_path / "t.txt"))
    refuses("no rows below the header", write(tmp_path / "t.txt", HEADER))
    refuses("t.txt:2: not UTF-8", write(tmp_path / "t.txt", HEADER, "ä/1.jpg", encoding="latin-1"))
    refuses("2 columns and no header; expected 16 or 1", write(tmp_path / "t.txt", "a/00001.jpg,0.5"))


@pytest.mark.parametrize("lines", [["image"], ["image_location"], []])
def test_reads_the_test_list(tmp_path: Path, lines: list[str]) -> None:
    frames = read_annotations(write(tmp_path / "t.txt", *lines, "a/00002.jpg", "b_left/00007.jpg"), "test")
    assert frames.select("video", "frame", "split").rows() == [("a", 2, "test"), ("b_left", 7, "test")]
    assert frames.select(LABEL_COLUMNS).null_count().row(0) == (2,) * len(LABEL_COLUMNS)


def test_a_challenge_prediction_of_classes(tmp_path: Path) -> None:
    """A list of class names in the header stands for one column, numbered in that list's order."""
    header = "image_location,Neutral,Happiness,Anger"
    frames = read_annotations(write(tmp_path / "t.txt", header, "a/1.jpg,1", "a/2.jpg,2"), "test")
    assert frames["expression"].to_list() == [EXPRESSIONS.index("Happiness"), EXPRESSIONS.index("Anger")]
    refuses("t.txt:2: expression is '3'", write(tmp_path / "t.txt", header, "a/1.jpg,3"))


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("00012.jpg", 12),
        ("img_00012.jpg", 12),
        ("12.mp4", 12),
        ("cam2_f12.png", 12),
        ("f12x", 12),
        ("b_12.jpg", 12),
        ("v7_12.jpg", 12),
        ("frame_0012_conf0.98.jpg", 12),
        ("frame_0012_conf98.jpg", 12),
        ("Image-12-of-900.png", 12),
        ("frame_det_00_000012.bmp", 12),
        ("S005_001_00000012.png", 12),
    ],
)
def test_the_frame_is_the_number_that_can_be_no_other(tmp_path: Path, name: str, frame: int) -> None:
    frames = read_annotations(write(tmp_path / "t.txt", "image", f"a/b/{name}"), "test")
    assert frames.select("video", "frame").row(0) == ("a/b", frame)


@pytest.mark.parametrize(
    "name",
    ["00012_98.jpg", "12.v3.jpg", "0.98.jpg", "1_2.jpg", "001_002.jpg", "frame1_frame2.jpg", "00012_conf0.98.jpg"],
)
def test_a_name_that_leaves_the_frame_open_is_refused(tmp_path: Path, name: str) -> None:
    refuses(
        r"t.txt:1: path is .*, it has several numbers \(\d+, \d+.*\) and none", write(tmp_path / "t.txt", f"a/{name}")
    )


@given(st.lists(st.sampled_from(["_", "-", ".", "frame", "f", "conf", "7", "07", "12", "00012", "x"]), max_size=6))
@settings(max_examples=200)
def test_a_frame_number_is_never_part_of_a_decimal(parts: list[str]) -> None:
    """Whatever a name is made of: the number found stands in it whole, and is not the fraction of another."""
    stem = "a" + "".join(parts)
    found = pl.select(frame_in(pl.lit(f"v/{stem}.jpg"))).item()
    wholes = re.findall(r"\d+", stem)
    if found is None:
        assert len(wholes) != 1 or len(wholes[0]) > 15
    else:
        assert found in {int(whole) for whole in wholes}
        assert len(wholes) == 1 or found not in {int(part) for part in re.findall(r"\d\.(\d+)", stem)} - {
            int(part) for part in re.findall(r"(?:^|[^.\d])(\d+)", stem)
        }


# --- the grammar -------------------------------------------------------------------------------------------------

numbers = st.one_of(st.none(), st.floats(-1, 1, width=32))
videos = st.text(st.sampled_from("abAB019_- é漢"), min_size=1, max_size=6).map(lambda text: f"v{text}x")
rows = st.fixed_dictionaries(
    {
        "valence": numbers,
        "arousal": numbers,
        "expression": st.one_of(st.none(), st.integers(0, 7)),
        **{name: st.sampled_from([None, 0, 1]) for name in ACTION_UNITS},
    }
)
keys = st.tuples(videos, st.integers(0, 99999))
tables = st.dictionaries(keys, rows, min_size=1, max_size=8)
# Texts that no column takes; a comma, quote or line end would make another row instead.
words = st.text(st.characters(codec="utf-8", exclude_characters=',"\r\n/\\'), min_size=1, max_size=5).map(
    lambda t: f"x{t}"
)


def official_row(video: str, frame: int, row: dict[str, float | None]) -> list[str]:
    def cell(name: str) -> str:
        missing = "-5" if name in ("valence", "arousal") else "-1"
        return missing if row[name] is None else repr(row[name])

    return [f"{video}/{frame:05d}.jpg", *map(cell, LABEL_COLUMNS)]


@given(tables, st.permutations(range(16)), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=30)
def test_a_table_comes_back_from_the_official_format(
    tmp_path_factory: pytest.TempPathFactory,
    table: dict[tuple[str, int], dict[str, float | None]],
    order: list[int],
    end: str,
    has_header: bool,
) -> None:
    cells = [official_row(*key, row) for key, row in table.items()]
    if has_header:
        cells = [[line[index] for index in order] for line in (HEADER.split(","), *cells)]
    path = write(tmp_path_factory.mktemp("g") / "t.txt", *map(",".join, cells), end=end)
    found = {(row["video"], row["frame"]): row for row in read_annotations(path, "train").iter_rows(named=True)}
    assert found.keys() == table.keys()
    for key, row in table.items():
        assert {name: found[key][name] for name in LABEL_COLUMNS} == row


@given(tables, st.data(), words)
@settings(max_examples=30)
def test_a_spoilt_cell_is_reported_with_its_line(
    tmp_path_factory: pytest.TempPathFactory,
    table: dict[tuple[str, int], dict[str, float | None]],
    data: st.DataObject,
    word: str,
) -> None:
    cells = [official_row(*key, row) for key, row in table.items()]
    row, column = data.draw(st.integers(0, len(cells) - 1)), data.draw(st.integers(0, 15))
    cells[row][column] = word
    path = write(tmp_path_factory.mktemp("g") / "t.txt", HEADER, *map(",".join, cells))
    name = "path" if column == 0 else LABEL_COLUMNS[column - 1]
    refuses(rf"t\.txt:{row + 2}: {name} is ", path)


# --- tables ------------------------------------------------------------------------------------------------------


def test_a_csv_with_our_columns(tmp_path: Path) -> None:
    lines = [
        "video,frame,split,expression,AU12,subject",
        "a,3,val,Happiness,1,anna",
        "b,7,,,,",
        '"c, d",1,,,,',
    ]
    frames = read_table(write(tmp_path / "t.csv", *lines))
    assert frames.select("path", "split", "expression", "AU12", "subject").rows() == [
        ("a/00003.jpg", "val", 4, 1, "anna"),
        ("b/00007.jpg", "none", None, None, None),
        ("c, d/00001.jpg", "none", None, None, None),
    ]


@pytest.mark.parametrize("name", ["fps", "FPS"])
def test_frame_rates_are_refused_because_nothing_goes_by_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"t\.csv:1: unknown column '{name}' \(time is counted in frame numbers"):
        read_table(write(tmp_path / "t.csv", f"video,frame,{name}", "a,1,25"))


@pytest.mark.parametrize("row", ["a,-1,val", "a,1.5,val", "a,1,validation", "../a,1,val", ",1,val", "a,,val"])
def test_a_bad_csv_row_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(ValueError, match=r"t\.csv:3: (video|frame|split) is "):
        read_table(write(tmp_path / "t.csv", "video,frame,split", "z,1,val", row))


def test_a_parquet_table(tmp_path: Path) -> None:
    source = pl.DataFrame(
        {
            "image": ["a/1.jpg", "a/2.jpg"],
            "valence": [0.1, float("nan")],
            "expression": ["Fear", None],
            "AU1": [True, False],
            "AU2": [-1, 1],
            "split": ["train", "test"],
        }
    )
    source.write_parquet(tmp_path / "t.parquet")
    frames = read_table(tmp_path / "t.parquet")
    assert frames.select("valence", "expression", "AU1", "AU2").rows() == [
        (pytest.approx(0.1), 3, 1, None),
        (None, None, 0, 1),
    ]
    source.with_columns(AU2=pl.Series([0, 3])).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: row 2: AU2 is '3'"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="not a Parquet table"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_labels_for_scoring_leave_out_what_a_run_adds(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame(
        {"video": ["a"], "frame": [3], "part": ["report"], "p_Fear": [0.7], "AU1": [1], "p_AU1": [0.9]}
    )
    path = tmp_path / name
    (table.write_csv if name.endswith("csv") else table.write_parquet)(path)
    assert read_labels(path).select("path", "AU1", "expression").rows() == [("a/00003.jpg", 1, None)]
    with pytest.raises(ValueError, match="unknown column 'part'"):
        read_table(path)


def test_labels_for_scoring_in_the_text_format(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "t.txt", HEADER, GOOD))
    assert labels.drop("split").equals(read_annotations(tmp_path / "t.txt", "val").drop("split"))


def test_an_annotation_has_no_split_of_its_own(tmp_path: Path) -> None:
    refuses("give it with --table", write(tmp_path / "t.csv", "image,split", "a/1.jpg,val"))


# --- faces, context, subjects, merging ---------------------------------------------------------------------------


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def test_scans_a_folder_of_faces(tmp_path: Path) -> None:
    touch(tmp_path, "a/00002.jpg", "a/00001.JPG", "deep/er/7.png", "a/.hidden3.jpg", ".git/4.jpg", "a/notes5.txt")
    frames = scan_faces(tmp_path)
    assert frames["path"].to_list() == ["a/00001.JPG", "a/00002.jpg", "deep/er/7.png"]
    assert set(frames["split"]) == {"none"}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no faces in this folder"),
        (["00001.jpg"], "it has no video folder"),
        (["a/face.jpg"], "it has no frame number"),
        (["a/1.jpg", "a/01.png"], "a/01.png and a/1.jpg are the same frame"),
    ],
)
def test_a_folder_that_is_no_faces_folder(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan_faces(touch(tmp_path, *paths))
    with pytest.raises(ValueError, match="no such faces folder"):
        scan_faces(tmp_path / "none")


def annotated(tmp_path: Path, split: str, *lines: str, header: str = "image,valence,AU1") -> pl.DataFrame:
    return read_annotations(write(tmp_path / f"{split}.csv", header, *lines), split)


def test_context_takes_the_split_of_its_video(tmp_path: Path) -> None:
    train, val = annotated(tmp_path, "train", "a/1.jpg,0,0", "c/1.jpg,0,0"), annotated(tmp_path, "val", "c/3.jpg,0,0")
    faces = scan_faces(touch(tmp_path / "faces", "a/1.jpg", "a/2.jpg", "b/1.jpg", "c/2.jpg"))
    frames = add_context(merge([train, val]), faces)
    assert frames.select("video", "frame", "split", "AU1").rows() == [
        ("a", 1, "train", 0),
        ("a", 2, "train", None),
        ("b", 1, "none", None),
        ("c", 1, "train", 0),
        ("c", 2, "none", None),
        ("c", 3, "val", 0),
    ]


def test_merge_joins_labels_of_one_frame(tmp_path: Path) -> None:
    va = annotated(tmp_path, "train", "a/1.jpg,0.5", "a/2.jpg,-5", header="image,valence")
    au = read_table(write(tmp_path / "t.csv", "image,AU1", "a/1.jpg,1", "a/3.jpg,0"))
    assert merge([va, au]).select("frame", "split", "valence", "AU1").rows() == [
        (1, "train", 0.5, 1),
        (2, "train", None, None),
        (3, "none", None, 0),
    ]


def test_merge_refuses_what_disagrees(tmp_path: Path) -> None:
    first, second = annotated(tmp_path, "train", "a/1.jpg,0.5,1"), annotated(tmp_path, "val", "a/1.jpg,0.5,1")
    with pytest.raises(ValueError, match=r"video 'a', frame 1: split is 'train' in x\.txt and 'val' in y\.txt"):
        merge([first, second], names=["x.txt", "y.txt"])
    third = annotated(tmp_path, "train", "a/1.jpg,0.25,1")
    with pytest.raises(ValueError, match=r"frame 1: valence is 0\.5 in table 1 and 0\.25 in table 2; correct"):
        merge([first, third])


def test_ids_are_compared_whole(tmp_path: Path) -> None:
    train, val = annotated(tmp_path, "train", "10/1.jpg,0,0"), annotated(tmp_path, "val", "100/1.jpg,1,0")
    assert merge([train, val]).select("video", "split", "valence").rows() == [("10", "train", 0.0), ("100", "val", 1.0)]


def test_subjects(tmp_path: Path) -> None:
    frames = annotated(tmp_path, "train", "10/1.jpg,0,0", "100/1.jpg,0,0")
    subjects = read_subjects(write(tmp_path / "s.csv", "subject,video", "anna,10", "ben,7"))
    assert merge([frames], subjects)["subject"].to_list() == ["anna", None]
    with pytest.raises(ValueError, match="names subject 'carl', --subjects names 'anna'"):
        merge([frames.with_columns(subject=pl.lit("carl"))], subjects)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["video,person", "a,b"], "s.csv: has no column subject; expected the header video,subject"),
        (["subject,split", "a,val"], "has no column video"),
        (["video,subject", "a,b", "a,c"], "s.csv:3: video 'a' is named a second time"),
        (["video,subject", "a,"], "s.csv:2: subject is empty"),
    ],
)
def test_bad_subjects(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_subjects(write(tmp_path / "s.csv", *lines))


@pytest.mark.real
def test_real_annotations(real_data: Path) -> None:
    folder = real_data / "talking"
    tables = [read_annotations(folder / f"{split}_set.txt", split) for split in ("train", "val", "test")]
    frames = merge(tables, read_subjects(folder / "subjects.csv"))
    assert frames.height == 5166
    assert scan_faces(folder / "cropped_aligned").select("path").equals(frames.select("path"))
    shared = frames.group_by("subject").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    assert shared["subject"].to_list() == ["webcam_a"]


# --- duplicate rows, dummy values, names of files -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_conflict", "expected"), [("first", (0.5, 0)), ("last", (0.25, 0)), ("missing", (None, 0)), ("error", None)]
)
def test_rows_that_disagree(tmp_path: Path, on_conflict: str, expected: tuple[float | None, int] | None) -> None:
    lines = ["image,valence,AU1", "a/1.jpg,0.5,0", "b/1.jpg,0,1", "a/00001.jpg,0.25,0"]
    path = write(tmp_path / "t.txt", *lines)
    if expected is None:
        with pytest.raises(ValueError, match=r"t.txt:4: video 'a', frame 1: valence is 0.25 here and 0.5 in line 2"):
            readers.read_annotations(path, "train", on_conflict)
        return
    frames, found = readers.read_annotations(path, "train", on_conflict)
    assert frames.select("valence", "AU1").row(0) == expected
    assert [(finding.code, finding.count) for finding in found] == [("conflicting_rows", 1)]


@given(tables, st.lists(st.integers(0, 7), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
@settings(max_examples=30)
def test_rows_that_are_alike_are_one(
    tmp_path_factory: pytest.TempPathFactory,
    table: dict[tuple[str, int], dict[str, float | None]],
    again: list[int],
    end: str,
) -> None:
    """Duplicates, blank lines, empty cells at the end and line ends of any system leave the table as it was."""
    cells = [",".join(official_row(*key, row)) for key, row in table.items()]
    repeated = [cells[index % len(cells)] for index in again]
    folder = tmp_path_factory.mktemp("g")
    plain = read_annotations(write(folder / "plain.txt", HEADER, *cells), "train")
    odd = write(folder / "odd.txt", HEADER + ",", *cells, "", *[f"{line},," for line in repeated], end=end)
    frames, found = readers.read_annotations(odd, "train")
    assert frames.equals(plain)
    assert [(finding.code, finding.count) for finding in found] == [("duplicate_rows", len(repeated))]


def faces(*paths: str) -> readers.Faces:
    return readers.faces_of(Listing(list(paths), ()))


def test_videos_are_one_in_every_spelling_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    frames = read_annotations(write(tmp_path / "t.txt", f"{composed}/1.jpg", f"{decomposed}/2.jpg"), "test")
    assert frames["video"].unique().to_list() == [composed]
    matched = match_faces(frames, tmp_path, faces(f"{decomposed}/00001.JPG", f"{decomposed}/0002.png"))
    assert matched.frames["path"].to_list() == [f"{decomposed}/00001.JPG", f"{decomposed}/0002.png"]
    assert matched.has_face.all()


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.integers(0, 300)),
        st.tuples(
            st.integers(0, 6), st.sampled_from([".jpg", ".JPG", ".png", ".jpeg"]), st.sampled_from(["", "frame_"])
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40)
def test_faces_are_found_by_video_and_number(files: dict[tuple[str, int], tuple[int, str, str]]) -> None:
    paths = {key: f"{key[0]}/{word}{key[1]:0{width}d}{end}" for key, (width, end, word) in files.items()}
    keys = sorted(files)
    schema = {"video": pl.String, "frame": pl.Int64}
    frames = pl.DataFrame(keys, schema=schema, orient="row")
    frames = frames.with_columns(path=readers.face_path(pl.col("video"), pl.col("frame")))
    matched = match_faces(frames, Path("faces"), faces(*sorted(paths.values())))
    assert matched.frames["path"].to_list() == [paths[key] for key in keys]


def test_two_files_of_one_frame_are_named() -> None:
    frames = pl.DataFrame({"video": ["a"], "frame": [2], "path": ["a/00002.jpg"]})
    with pytest.raises(ValueError, match=r"a/00001\.jpg and a/1\.jpg are the same frame: video 'a', number 1"):
        match_faces(frames, Path("faces"), faces("a/00001.jpg", "a/00002.jpg", "a/1.jpg"))


@pytest.mark.parametrize("quoted", [False, True])
def test_a_file_is_read_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quoted: bool) -> None:
    """With the same table and the same messages, line numbers included."""
    rows = [f"{video}/{frame:05d}.jpg,0.{frame},-5,{frame % 8},{AUS}" for video in "ba" for frame in range(9, 0, -1)]
    head = HEADER.replace("image", '"image"') if quoted else HEADER
    good = write(tmp_path / "good.txt", head, "", *rows[:5], " ", *rows[5:])
    table = write(tmp_path / "table.csv", "image,split,AU1", *[f"a/{frame}.jpg,val,1" for frame in range(1, 10)])
    wrong = [*rows[:7], rows[7].replace("0.2", "2"), *rows[8:], rows[0].replace("9", "x")]
    spoilt = write(tmp_path / "bad.txt", head, *wrong)
    short = write(tmp_path / "short.txt", head, *rows, "a/00001.jpg", "", "a/00002.jpg,1")

    def found() -> list[object]:
        return [read_annotations(good, "val").rows(), *(refuses(".", path) for path in (spoilt, short))]

    whole = found()
    for block in (1, 4):
        monkeypatch.setattr(sheets, "BLOCK_ROWS", block)
        monkeypatch.setattr(sheets, "BLOCK_CHARS", 10 * block)
        assert found() == whole
        assert set(readers.read_table(table)[0].n_chunks("all")) == {1}  # a large Parquet file depends on it
