"""Annotations of other schemas than the challenge's: what is read, what is refused, and in which words."""

import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.frames import conform, read_frames, stored_schema, write_frames
from cache.labels import ABAW, AFFECTNET8, BP4D, DISFA, FER7, SCHEMAS, Schema, schema_of
from extract.annotations.gather import Sources, gather
from extract.annotations.label_rules import has_challenge_columns
from extract.annotations.readers import read_annotations, read_labels, read_table

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAIN = schema_of(tomllib.loads((FIXTURES / "labels" / "pain.toml").read_text()), "pain.toml")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def refused(path: Path, schema: Schema) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_table(path, schema=schema)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_any_of_the_columns_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "AU43,image,state,pain", "5,a/1.jpg,Tense,10", ",a/2.jpg,2,", "0.5,a/3.jpg,,0")
    frames, found = read_table(path, schema=PAIN)
    assert frames.columns == ["video", "frame", "path", "split", *PAIN.columns]
    assert frames.select("frame", "pain", "AU43", "state").rows() == [
        (1, 10, 5, 1),
        (2, None, None, 2),
        (3, 0, 0.5, None),
    ]
    assert frames.select("AU4", "AU9").null_count().row(0) == (3, 3)
    assert [each.code for each in found] == ["labels_in_no_split"]


@pytest.mark.parametrize("name", ["t.csv", "t.txt"])
def test_a_file_of_one_split_with_video_and_frame(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "video,frame,AU25,AU1", "a,7,4,", "a,3,0.5,5")
    frames, _ = read_annotations(path, "train", schema=DISFA)
    assert frames.select("path", "split", "AU1", "AU25").rows() == [
        ("a/00003.jpg", "train", 5, 0.5),
        ("a/00007.jpg", "train", None, 4),
    ]


def test_a_parquet_table(tmp_path: Path) -> None:
    table = pl.DataFrame({"image": ["a/1.jpg", "a/2.jpg"], "state": ["Calm", "Distressed"], "AU9": [True, None]})
    table.write_parquet(tmp_path / "t.parquet")
    frames, _ = read_table(tmp_path / "t.parquet", schema=PAIN)
    assert frames.select("state", "AU9").rows() == [(0, 1), (2, None)]
    table.with_columns(state=pl.lit("calm")).write_parquet(tmp_path / "t.parquet")
    assert refused(tmp_path / "t.parquet", PAIN).startswith(
        ": row 1: state is 'calm' (did you mean 'Calm'?); expected 0"
    )


@pytest.mark.parametrize("schema", [AFFECTNET8, FER7, ABAW], ids=lambda schema: schema.name)
def test_classes_by_number_and_by_name(tmp_path: Path, schema: Schema) -> None:
    classes = schema.group("expr").classes
    by_number = write(tmp_path / "n.csv", "image,expression", *(f"a/{i}.jpg,{i}" for i in range(len(classes))))
    by_name = write(tmp_path / "w.csv", "image,expression", *(f"a/{i}.jpg,{name}" for i, name in enumerate(classes)))
    frames, _ = read_table(by_number, schema=schema)
    assert frames["expression"].to_list() == list(range(len(classes)))
    assert read_table(by_name, schema=schema)[0].equals(frames)


@pytest.mark.parametrize(
    ("schema", "cells", "says"),
    [
        (
            FER7,
            "expression,happiness",
            ":3: expression is 'happiness' (did you mean 'Happiness'?); expected 0 to 6, or a",
        ),
        (FER7, "expression,Happy", ":3: expression is 'Happy' (did you mean 'Happiness'?)"),
        (FER7, "expression,Surprised", "(did you mean 'Surprise'?)"),
        (FER7, "expression,angry", "(did you mean 'Anger'?)"),
        (ABAW, "expression,Sad", "(did you mean 'Sadness'?)"),
        (ABAW, "expression,Fearful", "(did you mean 'Fear'?)"),
        (ABAW, "expression,Disgusted", "(did you mean 'Disgust'?)"),
        (
            ABAW,
            "expression,NEUTRAL",
            "(did you mean 'Neutral'?); expected 0 to 7, or a name of Neutral, Anger, Disgust,",
        ),
        (AFFECTNET8, "expression,Contemt", "(did you mean 'Contempt'?)"),
        (
            AFFECTNET8,
            "expression,Other",
            ":3: expression is 'Other'; expected 0 to 7, or a name of Neutral, Happiness,",
        ),
        (FER7, "expression,7", ":3: expression is '7'; expected 0 to 6"),
        (FER7, "expression,-1", ":3: expression is '-1'; expected 0 to 6"),
        (PAIN, "state,tens", ":3: state is 'tens' (did you mean 'Tense'?); expected 0 to 2, or a name of Calm, Tense,"),
        (
            PAIN,
            "pain,10.5",
            ":3: pain is '10.5'; expected a number in [0, 10], or an empty cell where there is no label",
        ),
        (PAIN, "AU6,-1", ":3: AU6 is '-1'; expected a number in [0, 5]"),
        (PAIN, "AU20,2", ":3: AU20 is '2'; expected 0, 1, or an empty cell where there is no label"),
        (BP4D, "AU14,-1", ":3: AU14 is '-1'; expected 0, 1, or an empty cell"),
        (AFFECTNET8, "valence,-5", ":3: valence is '-5'; expected a number in [-1, 1], or an empty cell"),
        (
            PAIN,
            "paim,1",
            ":1: unknown column 'paim' (did you mean 'pain'?); known: image, path, video, frame, split, s",
        ),
        (DISFA, "AU7,1", ":1: unknown column 'AU7' (did you mean 'AU17'?); known: "),
        (DISFA, "valence,1", ":1: unknown column 'valence'; known: "),
        (DISFA, "aus,1", ":1: unknown column 'aus'"),
        (FER7, "Neutral,1", ":1: unknown column 'Neutral'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, schema: Schema, cells: str, says: str) -> None:
    column, _, value = cells.partition(",")
    path = write(tmp_path / "t.csv", f"image,{column}", "a/1.jpg,", f"a/2.jpg,{value}")
    assert says in refused(path, schema)


def test_names_that_other_data_sets_use_become_those_of_the_schema(tmp_path: Path) -> None:
    """Whatever the schema calls it: the word of the same expression is meant."""
    group = {"name": "mood", "kind": "classes", "columns": ["mood"], "classes": ["Happy", "Surprised", "Sad"]}
    schema = schema_of({"name": "x", "groups": [group]}, "x")
    for word, meant in (("Happiness", "Happy"), ("Surprise", "Surprised"), ("sadness", "Sad")):
        path = write(tmp_path / "t.csv", "image,mood", f"a/1.jpg,{word}")
        assert f":2: mood is {word!r} (did you mean {meant!r}?)" in refused(path, schema)


def test_the_challenges_formats_are_refused_for_others(tmp_path: Path) -> None:
    official = write(tmp_path / "t.txt", f"a/1.jpg,0,0,1{',0' * 12}")
    assert refused(official, BP4D) == (
        ":1: no header; files without one are the challenge's own (schema abaw), and [labels] is bp4d; write a first "
        "line that names the columns (image,AU1,AU2,AU4,...)"
    )
    (tmp_path / "faces").mkdir()
    with pytest.raises(
        ValueError, match=r"tracks: per-track folders are the challenge's own \(schema abaw\), and \[lab"
    ):
        gather(Sources(faces=tmp_path / "faces", tracks=tmp_path / "tracks", schema=DISFA))


def test_which_schemas_have_the_challenges_columns() -> None:
    document: dict[str, Any] = ABAW.to_mapping()
    document["groups"][1] |= {"name": "emotion", "score": "accuracy", "weight": 2}
    assert has_challenge_columns(schema_of(document, "x"))
    document["groups"][1]["classes"].reverse()
    assert not has_challenge_columns(schema_of(document, "x"))
    assert [schema.name for schema in SCHEMAS.values() if has_challenge_columns(schema)] == ["abaw"]


def test_a_frames_table_of_another_meaning_is_refused(tmp_path: Path) -> None:
    """The same numbers of classes in another order would pass for labels."""
    rows = pl.DataFrame({"video": ["a"], "frame": [1], "path": ["a/1.jpg"], "expression": [1], "split": ["val"]})
    path = tmp_path / "frames.parquet"
    write_frames(conform(rows, "t", AFFECTNET8), path, AFFECTNET8)
    said = refused(path, ABAW)
    assert said.startswith(
        ": column 'expression' has another meaning in its schema, affectnet8, than in abaw of [labels]"
    )
    assert read_table(path, schema=AFFECTNET8)[0]["expression"].to_list() == [1]
    only = schema_of({"name": "only", "groups": [AFFECTNET8.group("expr").to_mapping()]}, "x")
    write_frames(conform(rows, "t", only), path, only)
    assert read_table(path, schema=AFFECTNET8)[0]["expression"].to_list() == [1]


def test_predictions_of_a_schema_are_read_for_scoring(tmp_path: Path) -> None:
    group = {"name": "mood", "kind": "classes", "columns": ["mood"], "classes": ["Very sad", "Glad"]}
    schema = schema_of({"name": "x", "groups": [group]}, "x")
    path = write(tmp_path / "p.csv", "video,frame,part,valid,mood,p_Very sad,p_Glad", "a,1,report,1,Glad,0.2,0.8")
    assert read_labels(path, schema=schema)["mood"].to_list() == [1]


def test_labels_that_are_all_the_same_are_a_finding(tmp_path: Path) -> None:
    """The challenge's own are refused as dummies; elsewhere nobody may be in pain throughout a test set."""
    (tmp_path / "faces").mkdir()
    path = write(tmp_path / "t.csv", "image,pain,state", "a/1.jpg,3,Calm", "a/2.jpg,3,Calm")
    _, found = gather(Sources(faces=tmp_path / "faces", annotations={"test": path}, schema=PAIN))
    assert [finding.code for finding in found] == ["labels_all_the_same"]
    path = write(tmp_path / "t.csv", "image,valence,arousal", "a/1.jpg,0.5,-0.5", "a/2.jpg,0.5,-0.5")
    with pytest.raises(ValueError, match=r"every one of 2 rows has the same labels \(valence 0.5, arousal -0.5\)"):
        gather(Sources(faces=tmp_path / "faces", annotations={"test": path}))


def test_gather_goes_by_the_schema(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(b"")
    path = write(tmp_path / "t.csv", "image,pain,split", "a/1.jpg,3,train")
    subjects = write(tmp_path / "s.csv", "video,subject", "a,ann", "b,ben")
    listed = write(tmp_path / "list.txt", "b/1.jpg")
    sources = Sources(
        faces=tmp_path / "faces", table=path, test_list=listed, subjects=subjects, context=True, schema=PAIN
    )
    frames, _ = gather(sources)
    assert frames.select("path", "split", "pain", "subject").rows() == [
        ("a/1.jpg", "train", 3, "ann"),
        ("a/2.jpg", "train", None, "ann"),
        ("b/1.jpg", "test", None, "ben"),
    ]
    assert (
        gather(Sources(faces=tmp_path / "faces", schema=PAIN))[0].columns == conform(frames[:0], "x", PAIN).columns[:-1]
    )


WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "Zs")), min_size=1, max_size=6).map(
    lambda text: f"w{text}w"
)
KINDS = st.sampled_from(["continuous", "classes", "binary"])


@st.composite
def schemas_and_rows(draw: st.DrawFn) -> tuple[Schema, list[dict[str, Any]]]:
    groups = []
    for number, kind in enumerate(draw(st.lists(KINDS, min_size=1, max_size=4))):
        group: dict[str, Any] = {"name": f"g{number}", "kind": kind}
        columns = 1 if kind == "classes" else draw(st.integers(1, 3))
        group["columns"] = [f"c{number}_{index}" for index in range(columns)]
        if kind == "classes":
            group["classes"] = draw(st.lists(WORDS.map(lambda word, n=number: f"{n}{word}"), min_size=2, unique=True))
        if kind == "continuous":
            group["range"] = sorted(draw(st.lists(st.integers(-50, 50), min_size=2, max_size=2, unique=True)))
        groups.append(group)
    schema = schema_of({"name": "drawn", "groups": groups}, "drawn")
    values = {
        group.name: st.floats(group.low, group.high, width=32)
        if group.kind == "continuous"
        else st.sampled_from(group.classes or (0, 1))
        for group in schema
    }
    cells = {column: st.none() | values[group.name] for group in schema for column in group.columns}
    return schema, draw(st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=6))


@given(schemas_and_rows(), st.sampled_from(["names", "numbers"]))
@settings(max_examples=40)
def test_a_table_of_any_schema_comes_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Schema, list[dict[str, Any]]], form: str
) -> None:
    schema, rows = drawn
    numbers = {column: group.classes for group in schema if group.classes for column in group.columns}
    wanted = [
        {key: numbers[key].index(cell) if key in numbers and cell is not None else cell for key, cell in row.items()}
        for row in rows
    ]
    folder = tmp_path_factory.mktemp("s")
    table = pl.DataFrame(rows if form == "names" else wanted, infer_schema_length=None)
    table.with_columns(image=pl.format("a/{}.jpg", pl.int_range(pl.len()))).write_csv(folder / "t.csv")
    frames = read_table(folder / "t.csv", schema=schema)[0]
    assert frames.select(schema.columns).to_dicts() == wanted
    write_frames(frames, folder / "t.parquet", schema)
    assert read_frames(folder / "t.parquet", schema).equals(frames)
    assert stored_schema(folder / "t.parquet") == schema
