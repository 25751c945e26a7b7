"""Cuts and tracks: who is the same face from frame to frame."""

import itertools
import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.video.cuts import HEIGHT, WIDTH, is_cut, thumbnail
from extract.video.finder import FaceFinder
from extract.video.found import Detections, checked, overlaps, without_overlap
from extract.video.tracking import MAX_MISSED, Tracker

LEFT, RIGHT = (0, 0, 10, 10), (100, 0, 110, 10)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def shifted(box: tuple[float, ...], x: float) -> tuple[float, ...]:
    return box[0] + x, box[1], box[2] + x, box[3]


def test_faces_keep_their_ids_in_whatever_order_they_are_found() -> None:
    tracker = Tracker()
    assert tracker.update(boxes(LEFT, RIGHT), False) == [1, 2]
    assert tracker.update(boxes(shifted(RIGHT, 2), shifted(LEFT, 2)), False) == [2, 1]


def test_the_sum_of_overlaps_counts_and_not_the_best_pair_first() -> None:
    """Both faces moved: the right one now overlaps most with where the left one... was; taken alone it would steal."""
    tracker = Tracker()
    tracker.update(boxes((0, 0, 10, 10), (6, 0, 16, 10)), False)
    assert tracker.update(boxes((4, 0, 14, 10), (9, 0, 19, 10)), False) == [1, 2]


def test_little_overlap_is_another_face() -> None:
    tracker = Tracker()
    tracker.update(boxes(LEFT), False)
    assert tracker.update(boxes(shifted(LEFT, 8)), False) == [2]


def test_a_short_miss_is_bridged_and_a_long_one_is_not() -> None:
    tracker = Tracker()
    tracker.update(boxes(LEFT), False)
    for _ in range(MAX_MISSED):
        assert tracker.update(boxes(), False) == []
    assert tracker.update(boxes(LEFT), False) == [1]
    for _ in range(MAX_MISSED + 1):
        tracker.update(boxes(), False)
    assert tracker.update(boxes(LEFT), False) == [2]


def test_a_cut_ends_all_tracks() -> None:
    tracker = Tracker()
    tracker.update(boxes(LEFT, RIGHT), False)
    assert tracker.update(boxes(LEFT, RIGHT), True) == [3, 4]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=4), max_size=12), st.integers(0, 11)
)
def test_a_tracker_from_its_json_goes_on_as_the_first(frames: list[list[tuple[int, int]]], at: int) -> None:
    tracker, other = Tracker(), Tracker()
    for number, places in enumerate(frames):
        found = boxes(*((x, 20 * row, x + 10, 20 * row + 10) for x, row in places))
        ids = tracker.update(found, number % 5 == 4)
        assert len(set(ids)) == len(ids)
        assert other.update(found, number % 5 == 4) == ids
        if number == at:
            other = Tracker.from_json(json.loads(json.dumps(other.to_json())))


def test_overlap_is_intersection_over_union() -> None:
    found = overlaps(boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 0, 30, 10), (3, 3, 3, 9)))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0, 0]])


def test_of_boxes_that_overlap_the_best_is_kept() -> None:
    found = Detections(
        boxes((0, 0, 10, 10), (1, 0, 11, 10), (50, 0, 60, 10)), np.float32([0.5, 0.9, 0.4]), np.zeros((3, 5, 2), "f4")
    )
    kept = without_overlap(found, 0.3)
    np.testing.assert_array_equal(kept.boxes[:, 0], [1, 50])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.zeros(2)}, "wanted"),
        ({"boxes": np.float32(1)}, "wanted"),
        ({"boxes": np.full((1, 4), np.nan)}, "not finite"),
        ({"boxes": np.full((1, 4), 1e9)}, "no pixels"),
        ({"boxes": np.array([[9.0, 0, 3, 5]])}, "ends before it starts"),
        ({"points": np.ones((1, 5, 2))}, "in one place"),
        ({"boxes": [[1, 2], [3]]}, "numbers"),
        ({"scores": ["high"]}, "numbers"),
        ({"points": {}}, "numbers"),
    ],
)
def test_what_are_no_detections_is_refused(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {
        "boxes": np.zeros((1, 4)),
        "scores": np.zeros(1),
        "points": np.arange(10).reshape(1, 5, 2),
    }
    checked(Detections(**good), "mine")
    with pytest.raises(ValueError, match=f"detector mine: .*{words}"):
        checked(Detections(**(good | change)), "mine")


class Failing:
    """A detector that does what it was made with."""

    name, digest = "mine", ""

    def __init__(self, gives: Any) -> None:
        self._gives = gives

    def detect(self, rgb: np.ndarray) -> Detections:
        if isinstance(self._gives, BaseException):
            raise self._gives
        found: Detections = self._gives
        return found


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (None, "numbers"),
        ((np.zeros((1, 4)), np.zeros(1)), "numbers"),
        (RuntimeError("no\nmemory"), "RuntimeError: no memory"),
    ],
)
def test_a_detector_that_fails_is_named_in_one_line(gives: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^detector mine: .*{words}"):
        FaceFinder(detector=Failing(gives)).find(np.zeros((40, 60, 3), np.uint8))


def scene(seed: int, shift: int = 0, light: int = 0) -> np.ndarray:
    """A picture of some smooth areas, moved and lit."""
    small = np.random.default_rng(seed).integers(0, 200, (5, 8, 3))
    large = np.kron(small, np.ones((40, 40, 1), int))
    return np.clip(np.roll(large, shift, axis=1) + light, 0, 255).astype(np.uint8)


def test_a_cut_is_another_scene_and_neither_motion_nor_light() -> None:
    first = thumbnail(scene(1))
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert not is_cut(None, first)
    assert not is_cut(first, thumbnail(scene(1, shift=8, light=12)))
    for one, two in itertools.combinations(range(1, 6), 2):
        assert is_cut(thumbnail(scene(one)), thumbnail(scene(two)))


def test_without_scipy_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ValueError, match=r'needs scipy: pip install "mtl-affect\[faces\]"'):
        Tracker()
