"""Lists of names: every official form, names only, order and duplicates kept, errors that name file and line."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.annotations.lists import NameList, read_list

MTL_HEADER = "image,valence,arousal,expression,aus"
FULL_HEADER = "image,valence,arousal,expression,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
EXPR_HEADER = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
AU_HEADER = "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
CE_HEADER = "image_location,Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised"
NAMES = ["104-17-720x480/00001.jpg", "video45_1/00012.jpg", "46-30-484x360_left/00003.jpg", "video45_1/00012.jpg"]


def write(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def refuses(path: Path, match: str) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        read_list(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def named(names: NameList) -> list[str]:
    return names.rows["path"].to_list()


OFFICIAL = {
    "MTL, ABAW4 and 11": (FULL_HEADER, ""),
    "MTL, ABAW7": (MTL_HEADER, ","),
    "VA, ABAW5": ("image_location,valence,arousal", ","),
    "VA, ABAW6 and 8": ("image_location,valence,arousal", ",.5,-.5"),
    "EXPR, ABAW6 and 8": (EXPR_HEADER, ",0"),
    "AU, ABAW6 and 8": (AU_HEADER, ",1,0,1,1,1,0,0,1,0,0,0,1"),
    "CE, ABAW6": (CE_HEADER, ",0"),
    "16 empty cells": (FULL_HEADER, "," * 15),
    "marks of missing labels": (FULL_HEADER, ",-5,-5,-1" + ",-1" * 12),
    "no header": (None, ""),
    "no header, dummy values": (None, ",.5,-.5"),
    "a header of one cell": ("image", ""),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("form", OFFICIAL)
def test_every_official_form_is_read_as_names(tmp_path: Path, form: str, encoding: str, end: str) -> None:
    header, behind = OFFICIAL[form]
    lines = [*([header] if header else []), *[name + behind for name in NAMES]]
    names = read_list(write(tmp_path / "list.txt", *lines, end=end, encoding=encoding))
    assert (names.header, names.kind, len(names)) == (header, "frames", 4)
    assert named(names) == NAMES
    assert names.rows["video"].to_list() == [name.split("/")[0] for name in NAMES]
    assert names.rows["frame"].to_list() == [1, 12, 3, 12]
    assert set(names.rows.columns) == {"line", "path", "video", "frame"}  # nothing that could pass for a label


@pytest.mark.parametrize("header", [None, "video"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ",\n"])
def test_bare_video_names(tmp_path: Path, header: str | None, end: str) -> None:
    videos = ["140", "140-30-632x360", "video45_1", "2-30-640x360_left", "140"]
    path = tmp_path / "VA_test_set_release.txt"
    path.write_bytes(((f"{header}\n" if header else "") + end.join(videos) + end).encode())
    names = read_list(path)
    assert (names.header, names.kind) == (header, "videos")
    assert names.rows["video"].to_list() == videos
    assert names.rows["frame"].null_count() == names.rows["path"].null_count() == 5


@pytest.mark.parametrize("last", ["", "\n", "\r\n", "\n\n\n"])
def test_the_last_line_needs_no_end(tmp_path: Path, last: str) -> None:
    (tmp_path / "list.txt").write_bytes(b"a/00001.jpg\na/00002.jpg" + last.encode())
    assert len(read_list(tmp_path / "list.txt")) == 2


def test_rows_of_different_widths_and_other_spellings_of_a_name(tmp_path: Path) -> None:
    lines = ["image,valence,arousal,expression,aus", "a/00001.jpg", "a/2.JPG,", " a/000003.png ,.5", '"a/00004.jpeg",1']
    names = read_list(write(tmp_path / "list.txt", *lines))
    assert named(names) == ["a/00001.jpg", "a/2.JPG", "a/000003.png", "a/00004.jpeg"]
    assert names.rows["frame"].to_list() == [1, 2, 3, 4]
    assert names.rows["line"].to_list() == [2, 3, 4, 5]
    assert names.at(3) == f"{tmp_path / 'list.txt'}:5"


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], "the file is empty"),
        (["", " ", "\t"], "the file is empty"),
        (["image,valence"], "no rows below the header"),
        (["image", "a/00001.jpg", "", "a"], r"list.txt:4: 'a' is no name of this list; expected a frame"),
        (["a/00001.jpg", ",0.5"], r"list.txt:2: ',0.5' names nothing in its first cell"),
        (["a/00001.jpg", "../a/00001.jpg"], r"list.txt:2: '../a/00001.jpg'"),
        (["a/00001.jpg", "a\\00002.jpg"], r"list.txt:2"),
        (["a/00001.jpg", "00002.jpg"], r"list.txt:2: '00002.jpg'"),
        (["00002.jpg"], r"list.txt:1: '00002.jpg'"),
        (["a/x.jpg"], r"list.txt:1: 'a/x.jpg'"),
        (["video1", "video2/00001.jpg", "video3/00001.jpg"], r"list.txt:2: .*and 1 more bad rows, the next: 3"),
        (["video1,0.5,0.1"], r"list.txt:1: 'video1,0.5,0.1' is no name of this list; expected one video"),
        (["video,frame", "a,1"], r"list.txt:2: 'a,1'"),
        (["valence,arousal", "0.5,0.1"], r"list.txt:1: the first column is 'valence', so this is a file of labels"),
        (["Neutral,Anger", "0"], "this is a file of labels"),
        (["0.5,0.1"], r"list.txt:1: '0.5,0.1' is no name of this list"),
        (['"a/00001.jpg'], "not a CSV row"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path: Path, lines: list[str], match: str) -> None:
    refuses(write(tmp_path / "list.txt", *lines), match)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    refuses(tmp_path / "none.txt", "no such file")
    refuses(tmp_path, "is no file")
    pl.DataFrame({"path": ["a/00001.jpg"]}).write_parquet(tmp_path / "list.txt")
    refuses(tmp_path / "list.txt", "not UTF-8 text")


CELLS = st.sampled_from(["", "0", ".5", "-5", "-1", "x", " "])
PLACES = st.tuples(st.sampled_from(["a", "video45_1", "46-30-484x360_left", "140", "b/c"]), st.integers(0, 99_999))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(st.tuples(PLACES, st.lists(CELLS, max_size=5), st.integers(0, 2)), min_size=1, max_size=30),
    header=st.sampled_from([None, MTL_HEADER, FULL_HEADER, AU_HEADER, "image"]),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_any_list_keeps_its_rows_in_order(tmp_path: Path, rows: list, header: str | None, end: str, bom: bool) -> None:
    lines, expected = [header] if header else [], []
    for (video, frame), behind, num_blank in rows:
        lines += [",".join([f"{video}/{frame:05d}.jpg", *behind]), *[""] * num_blank]
        expected.append((f"{video}/{frame:05d}.jpg", video, frame))
    names = read_list(write(tmp_path / "list.txt", *lines, end=end, encoding="utf-8-sig" if bom else "utf-8"))
    assert names.header == header
    assert names.rows.select("path", "video", "frame").rows() == expected
