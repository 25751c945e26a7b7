"""Colours that can be read on both pages."""

import pytest

from pipelines.colours import DARK, LIGHT, variables

MARKS = ("text", "muted", "held-out", "selection", "other", "third", "fourth", "fifth")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_and_text_have_a_contrast_of_4_5(colours: dict[str, str]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ground in ("surface", "soft"):
        assert {mark for mark in MARKS if contrast(colours[mark], colours[ground]) < 4.5} == set()
    assert contrast(colours["text"], colours["heat"]) >= 4.5


def test_both_pages_name_the_same_colours_and_no_two_are_one() -> None:
    assert list(LIGHT) == list(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert variables({"text": "#222222", "line": "#d9d9d9"}) == "--text: #222222; --line: #d9d9d9;"
