"""Colours of classes: the same in the page and in figures. Okabe and Ito's, which colour-blind readers tell apart."""

import colorsys

from cache.labels import Group

KNOWN = {
    "neutral": "#9a9a9a",
    "anger": "#d55e00",
    "disgust": "#009e73",
    "fear": "#cc79a7",
    "happiness": "#f0e442",
    "sadness": "#0072b2",
    "surprise": "#56b4e9",
    "other": "#e69f00",
    "contempt": "#8c5e3c",
}
GOLDEN_ANGLE = 0.381966  # of a turn: hues of successive classes lie far apart


def class_colours(group: Group) -> tuple[str, ...]:
    """A colour per class: its own where the class is known by name, else one that no other has."""
    left = [colour for name, colour in KNOWN.items() if name not in {each.lower() for each in group.classes}]
    return tuple(
        KNOWN.get(name.lower()) or (left.pop() if left else _hue(index)) for index, name in enumerate(group.classes)
    )


def _hue(index: int) -> str:
    red, green, blue = colorsys.hls_to_rgb(index * GOLDEN_ANGLE % 1, 0.6, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
