"""What reports measure besides scores: curves, calibration, errors by video, correlations, intervals of columns."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from cache.labels import ABAW, schema_of
from helpers import stub_study as stub
from pipelines.folds import NO_FOLD
from pipelines.labels import labels_of
from pipelines.metrics.calibration import calibration
from pipelines.metrics.correlation import mean_correlation
from pipelines.metrics.curves import precision_recall
from pipelines.metrics.errors import errors_by, frame_errors
from pipelines.metrics.intervals import column_intervals, group_sums, interval, intervals
from pipelines.metrics.stability import stability


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_precision_over_recall_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    label = rng.random(400) < 0.2
    probability = np.round(np.clip(0.3 * label + rng.random(400) * 0.7, 0, 1), 2)  # with ties
    found = precision_recall(probability, label, 0.5)
    assert found is not None
    precision, recall, _ = precision_recall_curve(label, probability)
    np.testing.assert_allclose(found.precision, precision[:-1][::-1])
    np.testing.assert_allclose(found.recall, recall[:-1][::-1])
    assert found.average_precision == pytest.approx(average_precision_score(label, probability))
    above, right = found.at_threshold
    assert 2 * above * right / (above + right) == pytest.approx(f1_score(label, probability >= 0.5))
    assert precision_recall(probability, np.ones(400, dtype=bool), 0.5) is None
    assert precision_recall(probability, np.zeros(400, dtype=bool), 0.5) is None


def test_calibration_by_hand_and_of_right_probabilities(rng: np.random.Generator) -> None:
    by_hand = calibration(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0, 1, 1, 1]) > 0, np.array(list("abab")))
    assert by_hand.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (by_hand.observed[0], by_hand.observed[9]) == (0.5, 1.0)
    assert np.isnan(by_hand.observed[1:9]).all()
    assert by_hand.ece == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
    probability = rng.random(20_000)
    groups = rng.integers(0, 40, 20_000)
    right = calibration(probability, rng.random(20_000) < probability, groups)
    assert right.ece < 0.02
    assert ((right.low <= right.observed) & (right.observed <= right.high)).all()
    wrong = calibration(probability, rng.random(20_000) < 0.5 * probability, groups)
    assert wrong.ece == pytest.approx(0.25, abs=0.02)
    alone = calibration(probability, probability > 0.5, np.zeros(20_000))
    assert np.isnan(alone.low).all()  # one video: nothing is known of others


def test_errors_by_video_are_over_labelled_frames() -> None:
    schema = schema_of(
        {
            "name": "two",
            "groups": [
                {"name": "pains", "kind": "continuous", "columns": ["pain", "effort"], "range": [0, 1]},
                {"name": "state", "kind": "classes", "columns": ["state"], "classes": ["calm", "tense"]},
            ],
        },
        "test",
    )
    frames = pl.DataFrame(
        {
            "pain": [0.0, 0.5, None], "effort": [1.0, None, None], "state": [0, 1, None],
        },
        schema={"pain": pl.Float32, "effort": pl.Float32, "state": pl.Int8},
    )  # fmt: skip
    labels = labels_of(frames, schema)
    pain = frame_errors(schema.tasks["pains"], np.array([[0.2, 0.6], [0.5, 9.0], [1.0, 1.0]]), labels)
    np.testing.assert_allclose(pain, [0.3, 0.0, np.nan], atol=1e-6)
    effort = frame_errors(schema.tasks["effort"], np.array([[0.6], [9.0], [1.0]]), labels)
    np.testing.assert_allclose(effort, [0.4, np.nan, np.nan], atol=1e-6)
    state = frame_errors(schema.tasks["state"], np.array([1, 1, 1]), labels)
    np.testing.assert_allclose(state, [1.0, 0.0, np.nan])
    found = errors_by(["b", "a", "a"], {"pain": pain, "state": state})
    assert found["state"].rows() == [("b", 1.0, 1), ("a", 0.0, 1)]
    assert found["pain"]["num_frames"].to_list() == [1, 1]


def test_correlations_of_members(rng: np.random.Generator) -> None:
    first, noise = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    values = np.stack([first, 2 * first + 1, -first, noise, np.zeros((200, 3))])
    mask = rng.random((200, 3)) < 0.7
    found = mean_correlation(values, mask)
    np.testing.assert_allclose(found[:3, :3], [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-12)
    expected = np.mean([np.corrcoef(first[mask[:, k], k], noise[mask[:, k], k])[0, 1] for k in range(3)])
    assert found[0, 3] == pytest.approx(expected)
    assert np.isnan(found[4]).all()  # constant: nothing is known
    assert np.isnan(mean_correlation(values, np.zeros_like(mask))).all()


def test_columns_have_their_scores_and_intervals_that_hold_them() -> None:
    frames = stub.make_frames(9, 60)
    decided = stub.pretend(frames, 0.4, np.random.default_rng(0))
    table = stub.as_table(frames, decided, "report", ("va", "expr", "au"))
    labels = labels_of(frames)
    sums = group_sums(table, labels)
    units = column_intervals(sums, ABAW.tasks["au"])
    place = ABAW.group("au").columns.index("AU12")
    label, mask = labels.values["au"][:, place] > 0.5, labels.masks["au"][:, place]
    value, between = units["AU12"]
    assert value == pytest.approx(f1_score(label[mask], decided.parts["au"][mask, place]))
    assert between is not None
    assert between.low < value < between.high
    assert between.sample.words == "9 videos"
    assert set(column_intervals(sums, ABAW.tasks["va"])) == {"valence", "arousal"}
    by_task = intervals({NO_FOLD: {0: sums}}, ("va", "expr", "au"))
    assert set(by_task) == {"P", "va", "expr", "au"}
    assert by_task["P"] == interval({NO_FOLD: {0: sums}}, ("va", "expr", "au"))


def test_one_video_has_no_interval_and_no_rank_interval() -> None:
    frames = stub.make_frames(1, 60)
    runs = []
    for noise in (0.2, 0.9):
        decided = stub.pretend(frames, noise, np.random.default_rng(0))
        table = stub.as_table(frames, decided, "select", ("va", "expr", "au"))
        runs.append({NO_FOLD: {0: group_sums(table, labels_of(frames))}})
    assert stability(runs, ("va", "expr", "au")) == []
    assert intervals(runs[0], ("va",)) == {}
    (value, between) = column_intervals(runs[0][NO_FOLD][0], ABAW.tasks["va"])["valence"]
    assert value > 0.5
    assert between is None
