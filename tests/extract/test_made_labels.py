"""The made data set with labels of other schemas: its files, what is missing, and that faces show what is labelled."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cache.labels import ABAW, AFFECTNET8, FER7, SCHEMAS, Schema, schema_of
from extract.annotations.readers import read_table
from extract.made.dataset import FACES, MadeParameters, make_data, make_labels, make_plan, make_signal
from extract.made.labels import classes_of_expressions

SMALL = {"seed": 3, "num_videos": 4, "frames_per_video": 6}
PAIN = schema_of(tomllib.loads((Path(__file__).parents[1] / "fixtures/labels/pain.toml").read_text()), "pain.toml")
OTHERS = [*(schema for schema in SCHEMAS.values() if schema is not ABAW), PAIN]
each_schema = pytest.mark.parametrize("schema", OTHERS, ids=lambda schema: schema.name)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("official") / "data"
    make_data(folder, **SMALL)
    return contents(folder)


@each_schema
def test_files_carry_the_schema(schema: Schema, official: dict[str, bytes], tmp_path: Path) -> None:
    made = make_data(tmp_path / "data", **SMALL, schema=schema)
    found = contents(tmp_path / "data")
    faces = {name: data for name, data in official.items() if name.startswith(FACES)}
    assert {name: data for name, data in found.items() if name.startswith(FACES)} == faces
    assert found["subjects.csv"] == official["subjects.csv"]
    assert found.keys() - faces == {"labels.csv", "labels.toml", "README.md", "subjects.csv", "made.json"}
    assert schema_of(tomllib.loads(found["labels.toml"].decode()), "x") == schema
    written = found["README.md"].decode().partition("```toml\n")[2].partition("```")[0]
    assert schema_of(tomllib.loads(written)["labels"], "x") == schema
    frames, findings = read_table(tmp_path / "data" / "labels.csv", schema=schema)
    assert not findings
    assert sorted(f"{FACES}/{path}" for path in frames["path"]) == sorted(faces)
    assert frames["split"].value_counts(sort=True)["split"].to_list()[0] == "train"
    assert dict(frames["split"].value_counts().iter_rows()) == made.num_faces


def test_a_folder_of_another_schema_is_refused(tmp_path: Path) -> None:
    make_data(tmp_path / "data", **SMALL, schema=PAIN)
    before = contents(tmp_path / "data")
    assert make_data(tmp_path / "data", **SMALL, schema=PAIN).reused
    for schema in (ABAW, FER7):
        with pytest.raises(ValueError, match="holds a made data set of other parameters"):
            make_data(tmp_path / "data", **SMALL, schema=schema)
    make_data(tmp_path / "again", **SMALL, schema=PAIN)
    assert contents(tmp_path / "again") == contents(tmp_path / "data") == before


def test_what_is_peculiar_is_the_challenges(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--peculiar: the challenge's own files .* not of fer7$"):
        make_data(tmp_path / "data", **SMALL, schema=FER7, peculiar=True)
    assert not (tmp_path / "data").exists()


def labels_and_movements(schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, C] of a middling set and the movements [N, 5 A] that led to them."""
    parameters = MadeParameters(num_videos=100, frames_per_video=40, schema=schema)
    labels, movements = [], []
    for plan in make_plan(parameters):
        frames, values = make_labels(parameters, plan)
        intensity = make_signal(parameters, plan)[1].intensity
        labels.append(values)
        movements.append(np.concatenate([intensity[np.maximum(frames - lag, 0)] for lag in (0, 4, 8, 16, 28)], axis=1))
    return np.concatenate(labels), np.concatenate(movements)


@each_schema
def test_labels_are_partial_in_range_and_shown_by_the_face(schema: Schema) -> None:
    labels, movements = labels_and_movements(schema)
    movements = movements - movements.mean(0)
    for group in schema:
        for column in group.columns:
            values = labels[:, schema.columns.index(column)]
            there = ~np.isnan(values)
            assert 0.04 < np.mean(~there) < 0.6, column
            values = values[there]
            if group.kind == "continuous":
                assert group.low <= values.min()
                assert group.low + 0.5 * (group.high - group.low) < values.max() <= group.high
            else:
                assert set(values) == set(range(len(group.classes) or 2)), column
            targets = [values] if group.kind != "classes" else [values == index for index in range(len(group.classes))]
            for target in targets:
                assert multiple_correlation(movements[there], target.astype(float)) > 0.5, column


def multiple_correlation(inputs: np.ndarray, target: np.ndarray) -> float:
    """Between `target` [N] and its best linear prediction from `inputs` [N, D], on the half that was not fitted."""
    half = len(target) // 2
    fitted, mean = inputs[:half], target[:half].mean()
    weights = np.linalg.solve(fitted.T @ fitted + np.eye(inputs.shape[1]), fitted.T @ (target[:half] - mean))
    return float(np.corrcoef(inputs[half:] @ weights, target[half:])[0, 1])


def test_labels_of_one_group_do_not_go_missing_with_those_of_another() -> None:
    labels, _ = labels_and_movements(PAIN)
    missing = np.isnan(labels)
    pain, intensity, state, unit = (missing[:, PAIN.columns.index(name)] for name in ("pain", "AU4", "state", "AU9"))
    for one, other in ((pain, intensity), (pain, state), (state, unit), (intensity, unit)):
        assert (one & ~other).any()
        assert (other & ~one).any()
    assert np.array_equal(intensity, missing[:, PAIN.columns.index("AU43")])


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        (ABAW.group("expr").classes, [[0], [1], [2], [3], [4], [5], [6], [7]]),
        (AFFECTNET8.group("expr").classes, [[0], [6], [5], [4], [1], [2], [3], [7]]),
        (FER7.group("expr").classes, [[6], [0], [1], [2], [3], [4], [5], []]),
        (("Sad", "Happy"), [[], [], [], [], [1], [0], [], []]),
        (("Other", "Happy", "Bored"), [[], [], [], [], [1], [], [], [0, 2]]),
        (("Calm", "Tense"), [[0], *[[1]] * 7]),
        (("Calm", "Tense", "Distressed"), [[0], [1], [2], [1], [2], [1], [2], [1]]),
        (tuple("abcdefghij"), [[0], [1, 8], [2, 9], [3], [4], [5], [6], [7]]),
    ],
)
def test_which_classes_an_expression_shows(classes: Sequence[str], wanted: list[list[int]]) -> None:
    assert classes_of_expressions(tuple(classes)) == wanted


def test_many_classes_and_odd_ranges_are_all_there(tmp_path: Path) -> None:
    names = [f"kind {index}, more" for index in range(12)]
    groups = [
        {"name": "kind", "kind": "classes", "columns": ["kind"], "classes": names},
        {"name": "tiny", "kind": "continuous", "columns": ["slight", "valence"], "range": [-0.0003, 0.0015]},
        {"name": "wide", "kind": "continuous", "columns": ["wide"], "range": [0, 123456.7]},
    ]
    schema = schema_of({"name": "odd", "groups": groups}, "x")
    numbers = labels_and_movements(schema)[0][:, 0]
    assert set(numbers[~np.isnan(numbers)]) == set(range(12))
    make_data(tmp_path / "data", seed=1, num_videos=4, frames_per_video=40, schema=schema)
    frames, _ = read_table(tmp_path / "data" / "labels.csv", schema=schema)
    assert frames["kind"].n_unique() > 4
    assert frames["slight"].n_unique() > 50
    assert frames["valence"].n_unique() > 50
    assert frames["wide"].max() > 10_000  # type: ignore[operator]
