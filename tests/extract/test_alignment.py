"""The similarity transform, crops, templates and what differs between alignments."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from extract.video.alignment import ARCFACE, Alignment, Template, align, similarity

POINTS = np.array(ARCFACE)
ALIGNMENT = Alignment(template=Template(), detector="yunet", detector_digest="a", long_side_px=640)


def transform(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(st.floats(-3, 3), st.floats(0.1, 9), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_found_again(angle: float, scale: float, x: float, y: float) -> None:
    matrix = transform(angle, scale, x, y)
    np.testing.assert_allclose(similarity(POINTS, moved(POINTS, matrix)), matrix, atol=1e-6)


@given(st.integers(0, 1000))
def test_no_other_similarity_is_nearer(seed: int) -> None:
    """Least squares, as Umeyama's: small changes of the four numbers make it worse."""
    generator = np.random.default_rng(seed)
    points = POINTS + generator.normal(0, 6, POINTS.shape)
    found = similarity(points, POINTS)
    best = np.square(moved(points, found) - POINTS).sum()
    angle, scale = np.arctan2(found[1, 0], found[0, 0]), np.hypot(found[0, 0], found[1, 0])
    for change in np.vstack([np.eye(4), -np.eye(4)]) * [0.01, 0.01, 0.5, 0.5]:
        other = transform(angle + change[0], scale + change[1], found[0, 2] + change[2], found[1, 2] + change[3])
        assert np.square(moved(points, other) - POINTS).sum() > best


def test_mirrored_points_are_not_turned_inside_out() -> None:
    found = similarity(POINTS * [-1, 1], POINTS)
    assert np.linalg.det(found[:, :2]) > 0


def test_points_in_one_place_have_no_alignment() -> None:
    with pytest.raises(ValueError, match="one place"):
        similarity(np.ones((5, 2)), POINTS)


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose red is its x and whose green is its y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)


def test_a_crop_shows_the_pixels_that_the_transform_says() -> None:
    """Pixel centres are whole numbers: (x, y) of the crop shows the picture at the inverse of (x, y)."""
    picture = ramp(250, 250)
    matrix = transform(0.2, 1.7, 30.0, 8.0)  # crop -> picture
    crop = align(picture, moved(POINTS, matrix), Template())
    assert crop.shape == (112, 112, 3)
    y, x = np.mgrid[:112, :112]
    wanted = moved(np.stack([x, y], -1).reshape(-1, 2), matrix).reshape(112, 112, 2)
    inside = ((wanted > 1) & (wanted < 248)).all(-1)
    assert inside.sum() > 5000
    wrong = (crop[..., :2].astype(float) - wanted)[inside]
    assert np.abs(wrong).max() <= 1.0
    # Pillow cuts values off, which is half a grey level; pixels half a pixel off would be 0.35 more here.
    assert np.abs(wrong.mean(0) + 0.5).max() < 0.1


def test_points_where_the_template_has_them_leave_the_picture_as_it_is() -> None:
    picture = np.asarray(Image.effect_noise((112, 112), 50).convert("RGB"))
    np.testing.assert_array_equal(align(picture, POINTS, Template()), picture)


def test_what_lies_outside_the_picture_is_black() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    crop = align(white, POINTS - [56, 0], Template())
    assert crop[:, :54].max() == 0
    assert crop[1:-1, 58:-1].min() == 255
    assert align(white, POINTS - [500, 0], Template()).max() == 0


def test_the_side_of_a_named_template_scales_its_points() -> None:
    twice = Template.named("arcface", 224)
    np.testing.assert_allclose(np.array(twice.points), 2 * POINTS)
    assert (twice.name, Template().name) == ("arcface", "arcface")
    assert Template(112, tuple((x + 1, y) for x, y in ARCFACE)).name is None


@pytest.mark.parametrize(
    ("size_px", "points", "words"),
    [(8, ARCFACE, "16 to 1024"), (112, ARCFACE[:4], "5 points"), (112, ((1.0, 1.0),) * 5, "one place")],
)
def test_what_is_no_template_is_refused(size_px: int, points: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Template(size_px, points)
    with pytest.raises(ValueError, match="unknown; known: arcface"):
        Template.named("arcfaec")


def test_an_alignment_survives_json() -> None:
    assert Alignment.from_json(json.loads(json.dumps(ALIGNMENT.to_json()))) == ALIGNMENT
    with pytest.raises(ValueError, match="not an alignment"):
        Alignment.from_json({"template": {}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector": "retinaface"}, "detector yunet, not retinaface"),
        ({"detector_digest": "b"}, "other weights"),
        ({"long_side_px": 480}, "640 px, not 480"),
        ({"template": Template(112, tuple((x, y + 3) for x, y in ARCFACE))}, r"differ by up to 3\.0 px"),
        ({"template": Template.named("arcface", 224)}, "112 px, not 224"),
    ],
)
def test_differences_of_alignments(change: dict, words: str) -> None:
    (found,) = ALIGNMENT.differences(replace(ALIGNMENT, **change))
    assert words.replace("\\", "") in found


def test_what_is_not_known_does_not_differ() -> None:
    assert not ALIGNMENT.differences(ALIGNMENT)
    assert not ALIGNMENT.differences(replace(ALIGNMENT, detector_digest=""))
