"""Compound expressions: hand-worked sums, the box, label schemas with and without the basic expressions."""

import numpy as np
import pytest

from cache.labels import ABAW, AFFECTNET8, DISFA, FER7, Schema
from pipelines.predict.compound import PAIRS, basic_group, compounds_of

ONE_VIDEO = np.zeros(3, np.int64)


def of_abaw(**named: float) -> np.ndarray:
    """[8] probabilities by the names of classes, the others 0."""
    return np.array([named.get(name, 0.0) for name in ABAW.group("expr").classes])


def test_a_compound_is_the_sum_of_its_two() -> None:
    rows = np.stack([
        of_abaw(Neutral=0.5, Fear=0.1, Surprise=0.3, Sadness=0.1),
        of_abaw(Sadness=0.5, Anger=0.4, Fear=0.1),
        of_abaw(Neutral=1.0),
    ])  # fmt: skip
    found = compounds_of(ABAW.group("expr"), rows, ONE_VIDEO, np.arange(3), 0)
    first = np.array([0.4, 0.3, 0.4, 0.3, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(found.parts["ce"][0], first / first.sum())
    assert [list(PAIRS)[place] for place in found.decide().parts["ce"][:2]] == ["Fearfully_Surprised", "Sadly_Angry"]
    assert np.isfinite(found.parts["ce"]).all()


@pytest.mark.parametrize("schema", [ABAW, AFFECTNET8, FER7])
def test_classes_are_found_by_name_in_every_order(schema: Schema) -> None:
    group = basic_group(schema, ["expr"], "runs/x")
    rows = np.zeros((1, group.num_outputs))
    rows[0, [group.classes.index("Disgust"), group.classes.index("Surprise")]] = 0.6, 0.4
    found = compounds_of(group, rows, ONE_VIDEO[:1], np.zeros(1, np.int64), 0)
    assert list(PAIRS)[found.decide().parts["ce"][0]] == "Disgustedly_Surprised"


def test_the_box_stays_within_its_frames_and_its_video() -> None:
    """Frames 1, 3 and 9 of one video, 4 of another; a box of 2 reaches from 1 to 3."""
    rows = np.stack([of_abaw(Happiness=1.0), of_abaw(Anger=1.0), of_abaw(Fear=1.0), of_abaw(Disgust=1.0)])
    found = compounds_of(ABAW.group("expr"), rows, np.array([0, 0, 0, 1]), np.array([1, 3, 9, 4]), 2).parts["ce"]
    happy, angry = list(PAIRS).index("Happily_Surprised"), list(PAIRS).index("Angrily_Surprised")
    np.testing.assert_allclose(found[0], found[1])
    assert (found[:2, happy] > 0).all()
    assert (found[:2, angry] > 0).all()
    np.testing.assert_allclose(found[2], np.array([1, 0, 0, 0, 0, 1, 0]) / 2)
    assert found[3].argmax() == list(PAIRS).index("Disgustedly_Surprised")
    assert found[3].max() == 1


@pytest.mark.parametrize(
    ("schema", "tasks", "error"),
    [
        (DISFA, ["intensity"], "runs/x: compound expressions need .* Anger, Disgust, .* it has labels of disfa"),
        (ABAW, ["va", "au"], "runs/x: compound expressions need .* but it predicts va, au; take a model"),
    ],
)
def test_a_model_without_expressions_is_refused(schema: Schema, tasks: list[str], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        basic_group(schema, tasks, "runs/x")
