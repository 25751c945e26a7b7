"""Colours of pages and figures, by what they mean: of a light and of a dark page.

Text and marks have a contrast of at least 4.5 with `surface` and with `soft`; `heat` fills cells, more opaque the
larger their number, and `text` on it has that contrast too. Blue, orange, green and purple are Okabe and Ito's, which
colour-blind readers tell apart, made darker or lighter.
"""

LIGHT = {
    "surface": "#ffffff",
    "soft": "#f4f6f8",
    "line": "#d9d9d9",
    "text": "#222222",
    "muted": "#595959",
    "held-out": "#0072b2",
    "selection": "#a85a00",
    "other": "#707070",
    "third": "#007a5a",
    "fourth": "#a0407a",
    "fifth": "#7a5c00",
    "heat": "#8ec9ee",
}
DARK = {
    "surface": "#15181b",
    "soft": "#1f2429",
    "line": "#3a4046",
    "text": "#e6e6e6",
    "muted": "#a8adb2",
    "held-out": "#56b4e9",
    "selection": "#f0a830",
    "other": "#979da3",
    "third": "#2fc49a",
    "fourth": "#e08cbc",
    "fifth": "#d9c84f",
    "heat": "#155a86",
}


def variables(colours: dict[str, str]) -> str:
    """CSS declarations `--NAME: COLOUR;` of all `colours`."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
