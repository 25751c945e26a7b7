"""The frames table: what is refused and how it is said, lossless storage, digests that tell tables apart."""

import tomllib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.frames import conform, dtypes_of, frames_digest, labels_digest, read_frames, stored_schema, write_frames
from cache.labels import ABAW, schema_of
from cache.names import ACTION_UNITS, LABEL_COLUMNS, SPLITS

DTYPES = dtypes_of(ABAW)
FIXTURES = Path(__file__).parents[1] / "fixtures"


def table(**columns: list) -> pl.DataFrame:
    base = {"video": ["b", "a", "a"], "frame": [1, 10, 2], "path": ["b/1.jpg", "a/10.jpg", "a/2.jpg"]}
    return pl.DataFrame(base | columns)


def test_conform_sorts_and_completes() -> None:
    frames = conform(table(), "t")
    assert frames["path"].to_list() == ["a/2.jpg", "a/10.jpg", "b/1.jpg"]
    assert frames["split"].to_list() == ["none"] * 3
    assert frames.columns == [name for name in DTYPES if name != "subject"]
    assert all(frames[name].dtype == DTYPES[name] and frames[name].null_count() == 3 for name in LABEL_COLUMNS)


def test_conform_twice_is_conform_once() -> None:
    frames = conform(table(valence=[0.5, None, -1.0], expression=[7, 0, None], subject=["s", None, "t"]), "t")
    assert conform(frames, "t").equals(frames)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"frame": [1, 2, 2]}, "video 'a' frame 2: path"),
        ({"frame": [1, -2, 2]}, "video 'a' frame -2: frame -2 is negative"),
        ({"frame": [1.0, 2.5, 2.0]}, "frame 2.5 is not a whole number"),
        ({"frame": [1, None, 2]}, "frame None is missing"),
        ({"video": ["b", None, "a"]}, "video None is missing"),
        ({"video": ["b", "", "a"]}, "video '' is empty"),
        ({"valence": [0.0, 1.01, 0.0]}, "video 'a' frame 10: valence 1.0099"),
        ({"valence": [0.0, float("nan"), 0.0]}, "valence nan is outside [-1, 1]"),
        ({"arousal": [-5.0, 0.0, 0.0]}, "arousal -5.0 is outside [-1, 1]; leave a missing label empty"),
        ({"expression": [8, 0, 0]}, "expression 8 is outside 0..7"),
        ({"expression": [300, 0, 0]}, "expression 300 is not a whole number"),
        ({"expression": ["happy", "0", "1"]}, "expression 'happy' is not a whole number"),
        ({"AU12": [0, 2, 1]}, "AU12 2 is neither 0 nor 1"),
        ({"AU1": [0, -1, -1]}, "AU1 -1 is neither 0 nor 1; leave a missing label empty (2 rows in all)"),
        ({"split": ["train", "training", None]}, "split 'training' is none of train, val, test, none"),
        ({"path": ["b/1.jpg", "../10.jpg", "a/2.jpg"]}, "path '../10.jpg' is not a plain path"),
        ({"path": ["b/1.jpg", "a/../../x.jpg", "a/2.jpg"]}, "path 'a/../../x.jpg'"),
        ({"path": ["/b/1.jpg", "a/10.jpg", "a/2.jpg"]}, "path '/b/1.jpg' is not a plain path"),
        ({"path": ["C:/1.jpg", "a/10.jpg", "a/2.jpg"]}, "path 'C:/1.jpg'"),
        ({"path": ["b\\..\\1.jpg", "a/10.jpg", "a/2.jpg"]}, "is not a plain path"),
        ({"path": ["", "a/10.jpg", "a/2.jpg"]}, "path '' is not a plain path"),
        ({"AU3": [0, 1, 1], "x": [1, 1, 1]}, "unknown column 'AU3' (did you mean 'AU23'?), 'x'; known: video, frame"),
        ({"Valence": [0.0, 0.0, 0.0]}, "unknown column 'Valence' (did you mean 'valence'?); known: "),
        ({"fps": [25.0, 25.0, 25.0]}, "unknown column 'fps'; known: "),
    ],
)
def test_conform_refuses_in_one_line(columns: dict[str, list], said: str) -> None:
    with pytest.raises(ValueError, match=r"^table\.csv: ") as caught:
        conform(table(**columns), "table.csv")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_conform_wants_the_key_columns() -> None:
    with pytest.raises(ValueError, match="column 'path' is missing"):
        conform(table().drop("path"), "t")


def test_dots_inside_a_name_are_no_parent_folder() -> None:
    assert conform(table(path=["b..c/1..jpg", "a/...10.jpg", "a/2.jpg"]), "t").height == 3


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\\/.:"), min_size=1)
NUMBERS = st.floats(-1, 1, width=32, allow_nan=False)
ROWS = st.fixed_dictionaries(
    {
        "video": NAMES,
        "frame": st.integers(0, 2**53),
        "path": st.builds("{}/{}.jpg".format, NAMES, NAMES),
        "split": st.sampled_from(SPLITS),
        "valence": st.none() | NUMBERS,
        "arousal": st.none() | NUMBERS,
        "expression": st.none() | st.integers(0, 7),
        **dict.fromkeys(ACTION_UNITS, st.none() | st.integers(0, 1)),
        "subject": st.none() | NAMES,
    }
)
TABLES = st.lists(ROWS, max_size=8, unique_by=lambda row: (row["video"], row["frame"])).map(
    lambda rows: conform(pl.DataFrame(rows, schema=DTYPES), "made")
)


@settings(max_examples=30)
@given(frames=TABLES)
def test_storage_is_lossless_and_keeps_the_order(
    frames: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.parquet"
    write_frames(frames, path)
    again = read_frames(path)
    assert again.equals(frames)
    assert again.schema == frames.schema
    assert frames_digest(again) == frames_digest(frames)
    assert labels_digest(again) == labels_digest(frames)


@settings(max_examples=50)
@given(first=TABLES, second=TABLES)
def test_digests_are_equal_exactly_for_equal_columns(first: pl.DataFrame, second: pl.DataFrame) -> None:
    keys, labels = ["video", "frame", "path"], [*LABEL_COLUMNS, "split", "subject"]
    assert (frames_digest(first) == frames_digest(second)) == first.select(keys).equals(second.select(keys))
    # -0.0 and 0.0 are equal in value and not in bytes: digests may tell them apart.
    if labels_digest(first) == labels_digest(second):
        assert first.select(labels).equals(second.select(labels))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((["ab", "c"], ["x", "y"]), (["a", "bc"], ["x", "y"])),
        ((["a", "b"], ["xy", "z"]), (["a", "b"], ["x", "yz"])),
        ((["a", "a,1"], ["x", "y"]), (["a,1", "a"], ["x", "y"])),
        ((["a\x1f", "b"], ["x", "y"]), (["a", "\x1fb"], ["x", "y"])),
    ],
)
def test_names_with_separators_do_not_collide(first: tuple, second: tuple) -> None:
    tables = [
        pl.DataFrame({"video": video, "frame": [1, 2], "path": path}, schema_overrides={"frame": pl.Int64})
        for video, path in (first, second)
    ]
    assert frames_digest(tables[0]) != frames_digest(tables[1])


def test_labels_are_not_in_the_frames_digest() -> None:
    plain, labelled = conform(table(), "t"), conform(table(valence=[0.5, 0.0, 0.0], split=["val"] * 3), "t")
    assert frames_digest(plain) == frames_digest(labelled)
    assert labels_digest(plain) != labels_digest(labelled)


def test_missing_is_not_zero_in_the_labels_digest() -> None:
    digests = {labels_digest(conform(table(AU1=values), "t")) for values in ([0, 1, 0], [None, 1, 0], [0, 1, None])}
    assert len(digests) == 3


def test_digest_does_not_depend_on_how_the_table_lies_in_memory() -> None:
    frames = conform(table(), "t")
    pieces = pl.concat([frames[:1], frames[1:]], rechunk=False)
    assert frames_digest(pieces) == frames_digest(frames)


def test_digests_stay_what_they_are() -> None:
    """A new digest would cost every user an extraction."""
    frames = conform(table(valence=[0.5, None, -1.0]), "t")
    assert frames_digest(frames) == "13f842ec1cffbada31078ef1bf10c99d"
    assert labels_digest(frames) == "f84d336cac537c808829f8345f998ca8"


def test_reading_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames table; `mtl prepare` writes one"):
        read_frames(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("video,frame\n")
    with pytest.raises(ValueError, match=r"text\.parquet: not a Parquet file") as caught:
        read_frames(tmp_path / "text.parquet")
    assert "\n" not in str(caught.value)


def test_a_refused_table_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "frames.parquet"
    write_frames(conform(table(), "t"), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="outside"):
        write_frames(table(valence=[9.0, 0.0, 0.0]), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["frames.parquet"]


PAIN = schema_of(tomllib.loads((FIXTURES / "labels" / "pain.toml").read_text()), "pain.toml")


def test_types_of_a_schema() -> None:
    frames = conform(table(pain=[0, 10, None], state=[2, 0, None], AU43=[5.0, 0.5, None]), "t", PAIN)
    assert frames.columns == ["video", "frame", "path", "split", *PAIN.columns]
    wanted = {"pain": pl.Float32, "AU4": pl.Float32, "AU43": pl.Float32, "state": pl.Int8, "AU9": pl.Int8}
    assert {name: frames.schema[name] for name in wanted} == wanted
    assert frames["pain"].to_list() == [None, 10, 0]
    assert frames["AU9"].null_count() == 3


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"pain": [10.5, 0.0, 0.0]}, "video 'b' frame 1: pain 10.5 is outside [0, 10]; leave a missing label empty"),
        ({"AU43": [0.0, -0.5, 0.0]}, "video 'a' frame 10: AU43 -0.5 is outside [0, 5]"),
        ({"state": [0, 3, 0]}, "state 3 is outside 0..2"),
        ({"AU9": [0, 2, 0]}, "AU9 2 is neither 0 nor 1"),
        (
            {"State": [0, 0, 0]},
            "unknown column 'State' (did you mean 'state'?); known: video, frame, path, split, pain",
        ),
        ({"valence": [0.0, 0.0, 0.0]}, "unknown column 'valence'; known: "),
    ],
)
def test_a_schema_decides_what_is_refused(columns: dict[str, list], said: str) -> None:
    with pytest.raises(ValueError, match=r"^table\.csv: ") as caught:
        conform(table(**columns), "table.csv", PAIN)
    assert said in str(caught.value)


def test_an_end_of_a_range_is_inside_in_float32() -> None:
    document = {"name": "x", "groups": [{"name": "x", "kind": "continuous", "columns": ["x"], "range": [-0.1, 0.1]}]}
    assert conform(table(x=[0.1, -0.1, 0.0]), "t", schema_of(document, "x")).height == 3


def test_a_table_says_which_schema_it_is_of(tmp_path: Path) -> None:
    path, own = tmp_path / "frames.parquet", tmp_path / "own.parquet"
    frames = conform(table(pain=[7.5, 0.0, None]), "t", PAIN)
    write_frames(frames, path, PAIN)
    assert stored_schema(path) == PAIN
    assert read_frames(path).equals(frames)
    assert read_frames(path, PAIN).equals(frames)
    frames.write_parquet(own)
    assert stored_schema(own) is None
    assert read_frames(own, PAIN).equals(frames)
    with pytest.raises(ValueError, match=r"own\.parquet: unknown column 'pain'"):
        read_frames(own)


def test_a_table_of_another_schema_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "frames.parquet"
    write_frames(conform(table(), "t", PAIN), path, PAIN)
    document = PAIN.to_mapping()
    document["groups"][0] |= {"range": [0, 16]}
    with pytest.raises(ValueError, match=r"frames\.parquet: labels of another schema") as caught:
        read_frames(path, schema_of(document, "x"))
    assert "pain: range 0, 16 in [labels], but 0, 10 in the table; type `mtl prepare` again, or set [labels]" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"group va in \[labels\] alone; .*group au in \[labels\] alone; group pain in the table alone"
    ):
        read_frames(path, ABAW)
    renamed = schema_of(PAIN.to_mapping() | {"name": "other"}, "x")
    assert read_frames(path, renamed).height == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [("{", "'labels' in its metadata: not JSON"), ('{"name": "x"}', "'labels' in its metadata: no group")],
)
def test_metadata_that_are_no_schema(words: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "frames.parquet"
    conform(table(), "t").write_parquet(path, metadata={"labels": words})
    with pytest.raises(ValueError, match=said) as caught:
        read_frames(path)
    assert "\n" not in str(caught.value)


def test_the_schema_is_in_the_digest_of_labels() -> None:
    """Classes in another order give the same numbers another meaning."""
    document = PAIN.to_mapping()
    document["groups"][2]["classes"].reverse()
    frames = conform(table(state=[0, 1, 2]), "t", PAIN)
    assert labels_digest(frames, PAIN) != labels_digest(frames, schema_of(document, "x"))
    assert labels_digest(frames, PAIN) == labels_digest(frames, schema_of(PAIN.to_mapping() | {"name": "y"}, "x"))
    assert labels_digest(frames, PAIN) != labels_digest(conform(table(state=[0, 1, 1]), "t", PAIN), PAIN)
    abaw = conform(table(), "t")
    assert labels_digest(abaw, schema_of(ABAW.to_mapping() | {"name": "mine"}, "x")) == labels_digest(abaw)
