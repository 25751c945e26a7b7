"""Metrics: hand-worked numbers, properties, agreement with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from cache.names import ACTION_UNITS, EXPRESSIONS
from heads.labels import Labels
from helpers.made_labels import abaw_labels, decided, probable
from pipelines.metrics.challenge import ccc, f1, main_scores, score
from pipelines.metrics.predictions import Decisions

traces = arrays(np.float64, st.integers(2, 30), elements=st.floats(-1, 1, width=32))


def labels(num: int, seed: int = 0, share: float = 0.7) -> Labels:
    random = np.random.default_rng(seed)
    va, va_mask = random.uniform(-1, 1, (num, 2)).astype(np.float32), random.random((num, 2)) < share
    expr, expr_mask = random.integers(0, 8, num), random.random(num) < share
    au, au_mask = (random.random((num, 12)) < 0.3).astype(np.float32), random.random((num, 12)) < share
    return abaw_labels(num, {"va": va_mask, "expr": expr_mask, "au": au_mask}, va=va, expr=expr, au=au)


def decisions(num: int, seed: int = 1) -> Decisions:
    random = np.random.default_rng(seed)
    return decided(
        va=random.uniform(-1, 1, (num, 2)),
        expr=random.integers(0, 8, num),
        au=(random.random((num, 12)) < 0.4).astype(np.int8),
    )


def test_ccc_is_the_hand_worked_number() -> None:
    # means 2 and 3, population variances 2/3 each, covariance 2/3: 2*(2/3) / (2/3 + 2/3 + 1) = 4/7
    assert ccc(np.array([1, 2, 3]), np.array([2, 3, 4])) == pytest.approx(4 / 7, abs=1e-12)


def test_ccc_uses_population_moments() -> None:
    x, y = np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])
    # variances 2/9, covariance 1/9, mean gap 1/3: (2/9) / (4/9 + 1/9) = 0.4; with n-1 it would be 3/7
    assert ccc(x, y) == pytest.approx(0.4, abs=1e-12)


@given(traces)
def test_ccc_properties(x: np.ndarray) -> None:
    y = np.roll(x, 1) * 0.5 + 0.1
    order = np.random.default_rng(0).permutation(len(x))
    assert ccc(x, y) == pytest.approx(ccc(y, x), abs=1e-9)
    assert ccc(x, y) == pytest.approx(ccc(x[order], y[order]), abs=1e-9)
    assert -1 - 1e-9 <= ccc(x, y) <= 1 + 1e-9
    if np.var(x) > 1e-12:
        assert ccc(x, x) == pytest.approx(1)


def test_constant_traces_have_no_concordance() -> None:
    assert ccc(np.ones(5), np.ones(5)) == 0.0
    assert ccc(np.array([]), np.array([])) == 0.0


def test_f1_without_positives_is_zero() -> None:
    nothing = np.zeros(4, dtype=bool)
    assert f1(nothing, nothing) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_f1_agrees_with_scikit_learn(seed: int) -> None:
    truth, said = labels(300, seed), decisions(300, seed + 100)
    metrics = score(said, truth)
    mask = truth.masks["expr"][:, 0]
    true, given = truth.values["expr"][mask, 0], said.parts["expr"][mask]
    expected = f1_score(true, given, labels=range(8), average="macro", zero_division=0)
    assert metrics["expr.f1_macro"] == pytest.approx(expected, abs=1e-12)
    each = f1_score(true, given, labels=range(8), average=None, zero_division=0)
    assert [metrics[f"expr.f1.{name}"] for name in EXPRESSIONS] == pytest.approx(list(each), abs=1e-12)
    for column, name in enumerate(ACTION_UNITS):
        rows = truth.masks["au"][:, column]
        expected = f1_score(truth.values["au"][rows, column], said.parts["au"][rows, column], zero_division=0)
        assert metrics[f"au.f1.{name}"] == pytest.approx(expected, abs=1e-12)
    assert metrics["au.f1_mean"] == pytest.approx(np.mean([metrics[f"au.f1.{au}"] for au in ACTION_UNITS]))


def test_p_is_the_sum_of_its_parts() -> None:
    metrics = score(decisions(100), labels(100))
    parts = main_scores(metrics)
    assert set(parts) == {"va", "expr", "au"}
    assert metrics["P"] == pytest.approx(sum(parts.values()))
    assert metrics["va.ccc_mean"] == pytest.approx((metrics["va.ccc_valence"] + metrics["va.ccc_arousal"]) / 2)


def test_values_under_a_mask_change_nothing() -> None:
    truth, said = labels(200), decisions(200)
    before = score(said, truth)
    for name, junk in {"va": 7.0, "expr": -1, "au": -1}.items():
        truth.values[name][~truth.masks[name]] = junk
    assert score(said, truth) == before


def test_each_action_unit_has_its_own_mask() -> None:
    truth = labels(50, share=1.0)
    truth.masks["au"][:, 3] = False
    truth.masks["au"][:5, 3] = True
    truth.values["au"][:5, 3] = [1, 1, 0, 0, 1]
    said = decisions(50)
    said.parts["au"][:, 3] = 1
    assert score(said, truth)["au.f1.AU6"] == pytest.approx(2 * 3 / (5 + 3))


def test_a_class_without_positives_counts_zero_and_is_named() -> None:
    truth, said = labels(100, share=1.0), decisions(100)
    for classes in (truth.values["expr"], said.parts["expr"]):
        classes[classes == 2] = 0
    metrics = score(said, truth)
    assert metrics["expr.f1.Disgust"] == 0
    assert metrics["undefined"] == ["Disgust"]
    assert metrics["expr.f1_macro"] == pytest.approx(np.mean([metrics[f"expr.f1.{name}"] for name in EXPRESSIONS]))


def test_a_subset_of_tasks_sums_only_those() -> None:
    metrics = score(decided(va=decisions(60).parts["va"]), labels(60))
    assert metrics["P"] == metrics["va.ccc_mean"]
    assert not any(key.startswith(("expr", "au")) for key in metrics)
    assert metrics["num_frames.va"] == int(labels(60).labelled("va").sum())


def test_a_missing_prediction_on_a_labelled_row_is_an_error() -> None:
    said = decisions(60)
    said.parts["va"][labels(60).masks["va"][:, 0].argmax(), 0] = np.nan
    with pytest.raises(ValueError, match="missing or not a finite number"):
        score(said, labels(60))


def test_decisions_follow_probabilities_and_thresholds() -> None:
    probabilities = probable(expr=np.eye(8)[[3, 5]], au=np.full((2, 12), 0.4))
    assert probabilities.decide().parts["expr"].tolist() == [3, 5]
    assert probabilities.decide().parts["au"].sum() == 0
    assert probabilities.decide({"au": [0.3] * 6 + [0.4] + [0.5] * 5}).parts["au"].sum() == 14
    assert [task.name for task in probabilities.decide().tasks] == ["expr", "au"]
