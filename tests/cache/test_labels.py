"""Label schemas: what ships, what a file may say, tasks, and what tells two apart."""

import copy
from typing import Any

import pytest

from cache.labels import ABAW, SCHEMAS, Schema, schema_of, shipped
from cache.names import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, TASKS, VA_COLUMNS

PAIN: dict[str, Any] = {
    "name": "pain",
    "groups": [
        {"name": "pain", "kind": "continuous", "columns": ["pain"], "range": [0, 10], "weight": 2},
        {"name": "intensity", "kind": "continuous", "columns": ["AU4", "AU43"], "range": [0, 5]},
        {"name": "state", "kind": "classes", "columns": ["state"], "classes": ["calm", "tense"], "score": "accuracy"},
        {"name": "seen", "kind": "binary", "columns": ["AU9", "tongue"]},
    ],
}


def test_the_challenges_schema() -> None:
    assert ABAW.names == TASKS
    assert ABAW.columns == LABEL_COLUMNS
    assert [group.num_outputs for group in ABAW] == [2, 8, 12]
    assert ABAW.group("va").output_columns == VA_COLUMNS
    assert ABAW.group("expr").names == EXPRESSIONS
    assert ABAW.group("au").output_columns == tuple(f"p_{name}" for name in ACTION_UNITS)
    assert [group.score for group in ABAW] == ["ccc", "f1_macro", "f1"]
    assert tuple(ABAW.tasks) == ("va", "valence", "arousal", "expr", "au")
    assert ABAW.tasks["arousal"].indices == (1,)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
def test_what_ships_is_written_and_read_again(schema: Schema) -> None:
    again = schema_of(schema.to_mapping(), "here")
    assert again == schema
    assert again.digest == schema.digest
    assert not schema.differences(again)
    assert len({other.digest for other in SCHEMAS.values()}) == len(SCHEMAS)


def test_a_group_of_one_column_is_one_task() -> None:
    schema = schema_of(PAIN, "here")
    assert tuple(schema.tasks) == ("pain", "intensity", "AU4", "AU43", "state", "seen")
    assert [task.num_outputs for task in schema.tasks.values()] == [1, 2, 1, 1, 2, 2]
    assert schema.group("pain").weight == 2


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["au", "va"], ("va", "au")),
        (["arousal", "valence"], ("valence", "arousal")),
        (["au", "arousal"], ("arousal", "au")),
        (["expr"], ("expr",)),
    ],
)
def test_tasks_in_the_order_of_the_schema(names: list[str], wanted: tuple[str, ...]) -> None:
    assert ABAW.ordered(names, "here") == wanted


@pytest.mark.parametrize(
    ("tasks", "wanted"),
    [
        (["arousal", "valence"], ["va"]),
        (["au", "arousal"], ["arousal", "au"]),
        (["valence", "va"], ["va"]),
        (["valence+arousal", "expr"], ["va", "expr"]),
    ],
)
def test_what_tasks_predict_together(tasks: list[str], wanted: list[str]) -> None:
    assert [task.name for task in ABAW.scored(tasks)] == wanted
    assert not ABAW.is_complete(tasks)
    assert ABAW.is_complete([*tasks, "va", "expr", "au"])


def test_some_of_many_columns_are_one_task() -> None:
    (task,) = SCHEMAS["disfa"].scored(["AU4", "AU1"])
    assert (task.name, task.indices, task.columns, task.num_outputs) == ("AU1+AU4", (0, 2), ("AU1", "AU4"), 2)
    assert SCHEMAS["disfa"].scored([task.name]) == (task,)


@pytest.mark.parametrize("names", [[], ["va", "valence"], ["au", "au"]])
def test_a_column_is_predicted_once(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^here: at least one task, and each column once; found"):
        ABAW.ordered(names, "here")


@pytest.mark.parametrize(("name", "hint"), [("Valence", "'valence'"), ("exp", "'expr'"), ("AU", "'au'")])
def test_an_unknown_task_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"^here: unknown task '{name}' \(did you mean {hint}\?\); the schema abaw"):
        ABAW.ordered([name], "here")


def test_an_unknown_schema_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^--labels: unknown schema 'DISFA' \(did you mean 'disfa'\?\); known: abaw,"):
        shipped("DISFA", "--labels")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "ordinal"}, "group 1 (pain): kind = 'ordinal' must be one of continuous, classes, binary"),
    ({"range": [5, 0]}, "group 1 (pain): range: expected two numbers, the lower first, found [5, 0]"),
    ({"range": [0, float("nan")]}, "group 1 (pain): range: expected two numbers"),
    ({"range": [0, True]}, "group 1 (pain): range: expected two numbers"),
    ({"columns": []}, "group 1 (pain): columns: expected a list of different texts, found []"),
    ({"columns": ["a", " b"]}, "group 1 (pain): columns: expected a list of different texts, found"),
    (
        {"kind": "classes", "range": [0, 1], "classes": ["0", "2"]},
        "group 1 (pain): classes: '2' would be read as a number, which counts classes from 0; write a word",
    ),
    ({"columns": ["a", "a"]}, "group 1 (pain): columns: expected a list of different texts"),
    ({"columns": ["frame"]}, "group 1 (pain): columns 'frame': a name has letters, digits and _"),
    ({"columns": ["p_x"]}, "group 1 (pain): columns 'p_x': a name has letters"),
    ({"columns": ["AU4"]}, "'AU4' is the name of two columns, classes or groups"),
    ({"classes": ["a", "b"]}, "group 1 (pain): classes belongs to groups of kind 'classes'"),
    ({"weight": 0}, "group 1 (pain): weight = 0 must be a number above 0"),
    ({"score": "mse"}, "group 1 (pain): score = 'mse' must be one of ccc, pearson"),
    ({"colums": ["x"]}, "group 1: unknown key 'colums' (did you mean 'columns'?); known: name,"),
    ({"name": "video"}, "group 1: name 'video': a name has letters"),
    ({"name": 3}, "group 1: name 3: a name has letters"),
    ({"kind": "classes", "range": [0, 1]}, "group 1 (pain): a group of classes has one column, and 2 to 100 names"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_a_wrong_schema_is_one_line(change: dict[str, Any], says: str) -> None:
    document = copy.deepcopy(PAIN)
    document["groups"][0] |= change
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        schema_of(document, "here")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "expected a table with name and groups"),
        ({"name": "", "groups": []}, "name = '' must be a text"),
        ({"name": "x"}, "no group; write [[groups]] with name, kind, columns"),
        ({"name": "x", "groups": ["va"]}, "group 1: expected a table"),
        ({"nam": "x"}, "unknown key 'nam' (did you mean 'name'?)"),
    ],
)
def test_what_is_no_schema(document: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        schema_of(document, "here")
    assert says in str(caught.value)


def test_differences_in_words() -> None:
    document = copy.deepcopy(PAIN)
    document["groups"][0]["range"] = [0, 16]
    document["groups"][2]["classes"] = ["tense", "calm"]
    del document["groups"][3]
    assert schema_of(PAIN, "a").differences(schema_of(document, "b")) == [
        "group seen here alone",
        "pain: range 0, 10 here, but 0, 16 there",
        "state: classes calm, tense here, but tense, calm there",
    ]
    document = copy.deepcopy(PAIN)
    document["groups"][0]["score"], document["groups"][1]["weight"] = "pearson", 3
    one, other = schema_of(PAIN, "a"), schema_of(document, "b")
    assert one.digest == other.digest, "what is scored is no label"
    assert one.differences(other) == []
    assert one.differences(other, "in a", "in b", scores=True) == [
        "pain: score ccc in a, but pearson in b",
        "intensity: weight 1 in a, but 3 in b",
    ]
    document = copy.deepcopy(PAIN)
    document["groups"].reverse()
    (words,) = schema_of(PAIN, "a").differences(schema_of(document, "b"))
    assert words.startswith("groups in the order pain, intensity")
