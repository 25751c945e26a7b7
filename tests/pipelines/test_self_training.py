"""Self-training: who is labelled by the teachers, with what, and that it helps where few rows have labels."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from helpers.made_project import Made, make
from pipelines.folds import NO_FOLD
from pipelines.labels import labels_of
from pipelines.strategy import SELF_TRAINING, Strategy, strategy_of
from pipelines.training import teaching
from pipelines.training.dataset import Dataset
from pipelines.training.packing import stack_key
from pipelines.training.setup import Setup
from pipelines.training.train import Trained, TrainRequest, train_strategies, train_strategy

SPLITS = ("train",) * 6 + ("val", "test")


def self_training(config, **values) -> Strategy:
    return strategy_of(config).replace({"method": SELF_TRAINING, "temporal": "none", "teachers": 2, **values}, "test")


def with_labels_of(made: Made, videos: list[str]) -> Made:
    """`made` with labels of `videos` alone among those that train."""
    hidden = (pl.col("split") == "train") & ~pl.col("video").is_in(videos)
    names = [name for name in made.frames.columns if name not in ("video", "frame", "path", "split")]
    return dataclasses.replace(
        made,
        frames=made.frames.with_columns(
            pl.when(hidden).then(None).otherwise(pl.col(name)).alias(name) for name in names
        ),
    )


@pytest.fixture(scope="module")
def sparse() -> Made:
    return with_labels_of(make(8, 60, splits=SPLITS), ["1"])


def taught(monkeypatch: pytest.MonkeyPatch, config, dataset: Dataset, strategy: Strategy) -> tuple[Setup, list]:
    """The setup of the last model, and its teachers."""
    seen = []
    own = teaching.taught_labels
    monkeypatch.setattr(teaching, "taught_labels", lambda *given: seen.append(given) or own(*given))
    train_strategy(config, dataset, strategy)
    setup, teachers = seen[0]
    return dataclasses.replace(setup, taught=own(setup, teachers)), list(teachers)


def test_only_rows_that_train_and_have_no_label_are_labelled(small, sparse, monkeypatch) -> None:
    dataset = sparse.dataset(failed=(70, 71))
    setup, teachers = taught(monkeypatch, small, dataset, self_training(small, class_confidence=0.0))
    assert len(teachers) == 2
    assert len({id(teacher.module) for teacher in teachers}) == 2
    train = dataset.split(small.split, NO_FOLD).train
    before, given = dataset.labels.take(slice(None)), setup.labels.take(slice(None))
    for name, mask in before.masks.items():
        new = given.masks[name] & ~mask
        np.testing.assert_array_equal(given.values[name][mask], before.values[name][mask])
        assert (given.masks[name] >= mask).all(), "no label is lost"
        assert new[train].any()
        assert not new[~train].any()
        assert not new[[70, 71]].any(), "rows without an embedding"
    assert (given.masks["expr"] | ~train[:, None])[dataset.resident.valid["va", "base"]].all(), "all, from 0"
    assert np.array_equal(before.masks["va"], labels_of(sparse.frames).masks["va"]), "the data set stays as it was"


def test_confidence_and_agreement_decide(small, sparse, monkeypatch) -> None:
    dataset, train = sparse.dataset(), sparse.dataset().split(small.split, NO_FOLD).train
    strategy = self_training(small, class_confidence=0.3, binary_confidence=0.6, agreed_share=0.25)
    setup, teachers = taught(monkeypatch, small, dataset, strategy)
    said = [teaching._predict(setup, teacher).probabilities.parts for teacher in teachers]
    mean = {name: np.mean([each[name] for each in said], axis=0) for name in said[0]}
    before, given = dataset.labels.take(train), setup.labels.take(train)
    new = {name: given.masks[name] & ~before.masks[name] for name in mean}
    free = {name: ~before.masks[name] for name in mean}
    np.testing.assert_array_equal(new["expr"][:, 0], free["expr"][:, 0] & (mean["expr"].max(1) >= 0.3))
    np.testing.assert_array_equal(new["au"], free["au"] & (np.abs(mean["au"] - 0.5) >= 0.1))
    assert new["va"].sum(axis=0) / free["va"].sum(axis=0) == pytest.approx(0.25, abs=0.01)
    classes = given.values["expr"][:, 0][new["expr"][:, 0]]
    np.testing.assert_array_equal(classes, mean["expr"].argmax(1)[new["expr"][:, 0]])
    units = given.values["au"][new["au"]]
    np.testing.assert_array_equal(units, (mean["au"] >= 0.5)[new["au"]])
    np.testing.assert_allclose(given.values["va"][new["va"]], mean["va"][new["va"]])


def test_it_learns_from_what_it_was_taught(small, sparse) -> None:
    """With labels of one video in six; a joint head of the same seed is the first thing it is measured by."""
    values = {"steps": 96, "eval_steps": 24, "patience": 96, "lr": 1e-2, "dropout": 0.0, "class_confidence": 0.5}
    scores = {
        method: np.mean(
            [
                train_strategy(
                    small, sparse.dataset(), self_training(small, **values, seed=seed, method=method)
                ).metrics["report"]["P"]
                for seed in range(2)
            ]
        )
        for method in ("joint", SELF_TRAINING)
    }
    assert scores[SELF_TRAINING] > scores["joint"], scores


def test_a_teacher_that_fails_costs_its_own_head_alone(small, sparse) -> None:
    good = self_training(small)
    bad = good.replace({"lr": 50.0, "grad_clip": 0.0, "seed": 3}, "test")
    assert stack_key(good, small) == stack_key(bad, small)
    first, second = train_strategies(small, sparse.dataset(), [TrainRequest(strategy=one) for one in (bad, good)])
    assert isinstance(second, Trained)
    assert isinstance(first, Trained | ValueError)
    alone = train_strategy(small, sparse.dataset(), good)
    assert second.metrics["report"]["P"] == pytest.approx(alone.metrics["report"]["P"], abs=5e-3)


def test_nothing_to_teach_is_refused(small, made) -> None:
    with pytest.raises(ValueError, match=r"every frame of train is labelled for va, au, so there is nothing to teach"):
        train_strategy(small, made.dataset(), self_training(small, tasks=["va", "au"]))


def test_the_history_names_its_teachers(small, sparse) -> None:
    found = train_strategy(small, sparse.dataset(), self_training(small))
    assert list(dict.fromkeys(note.model for note in found.history)) == ["teacher1", "teacher2", "joint"]
    assert [model.spec.name for model in found.models] == ["joint"]


def test_the_number_of_teachers_is_one_of_a_stack(small) -> None:
    keys = {stack_key(self_training(small, teachers=number), small) for number in (1, 2)}
    assert len(keys) == 2
