"""Scores from sums over rows are those of the metrics, for every score a schema may ask for."""

import numpy as np
import pytest

from cache.labels import SCORES, Schema, Task, schema_of
from heads.labels import Labels
from pipelines.metrics.challenge import main_key, pearson, score
from pipelines.metrics.predictions import Decisions
from pipelines.metrics.sums import row_sums, scores

GROUPS = {
    "continuous": {"columns": ["a", "b", "c"], "range": [0, 5]},
    "classes": {"columns": ["state"], "classes": ["x", "y", "z"]},
    "binary": {"columns": ["u", "v"]},
}
ALL = [(kind, name) for kind, names in SCORES.items() for name in names]


def schema_with(kind: str, name: str) -> Schema:
    group = {"name": "one", "kind": kind, "score": name, "weight": 3, **GROUPS[kind]}
    return schema_of({"name": "made", "groups": [group]}, "here")


def made(task: Task, num: int, seed: int) -> tuple[np.ndarray, Labels]:
    """Decisions that are right half of the time, and labels of three quarters of the rows."""
    rng, group = np.random.default_rng(seed), task.group
    shape = num, len(group.columns)
    labels, said = {
        "continuous": lambda: (rng.uniform(0, 5, shape), rng.uniform(0, 5, shape)),
        "classes": lambda: (rng.integers(0, 3, shape), rng.integers(0, 3, shape)),
        "binary": lambda: (rng.integers(0, 2, shape), rng.integers(0, 2, shape)),
    }[group.kind]()
    said = np.where(rng.random(shape) < 0.5, labels, said)[:, list(task.indices)]
    mask = rng.random(shape) < 0.75
    return said[:, 0] if group.kind == "classes" else said, Labels({group.name: labels}, {group.name: mask})


@pytest.mark.parametrize(("kind", "name"), ALL)
@pytest.mark.parametrize("seed", range(3))
def test_of_all_rows_and_of_some(kind: str, name: str, seed: int) -> None:
    schema = schema_with(kind, name)
    for wanted in (("one",), ("a", "c")) if kind == "continuous" else (("one",),):
        (task,) = schema.scored(wanted)
        said, labels = made(task, 200, seed)
        for rows in (np.arange(200), np.arange(20, 90)):
            sums = row_sums(task, said[rows], labels.take(rows)).sum(axis=0)
            if not task.is_whole:  # as a run that lacks a column has it
                whole = np.zeros((3, sums.shape[1]))
                whole[list(task.indices)], sums = sums, whole
            found = scores({"one": sums}, wanted, schema)
            metrics = score(Decisions(parts={task.name: said[rows]}, schema=schema), labels.take(rows))
            assert found[task.name] == pytest.approx(metrics[main_key(task.group)], abs=1e-9)
            assert found["P"] == pytest.approx(metrics["P"], abs=1e-9)
            assert metrics["P"] == pytest.approx(3 * metrics[main_key(task.group)])


def test_pearson_is_numpys_and_0_where_a_trace_is_constant() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(x, np.ones(50)) == 0


def test_accuracy_is_the_share_of_right_classes() -> None:
    schema = schema_with("classes", "accuracy")
    labels = Labels({"one": np.array([[0], [1], [2], [2]])}, {"one": np.array([[True], [True], [True], [False]])})
    metrics = score(Decisions(parts={"one": np.array([0, 2, 2, 0])}, schema=schema), labels)
    assert metrics["one.accuracy"] == pytest.approx(2 / 3)
    assert metrics["P"] == pytest.approx(2)
