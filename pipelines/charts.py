"""Figures, drawn once with matplotlib, which is loaded then: inline SVG for a page, and SVG and PNG files.

A chart is panels, most of them no wider than a phone, so a page sets as many beside each other as there is room for.
Text stays text. In a page colours are the variables of `pipelines.colours`, in files those of its light page.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from pipelines.colours import LIGHT

PHONE_PX = 350
GAP_PX = 12
SCALE = 2  # pixels of a PNG per px
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
CHARACTER_PX = 6.9  # of matplotlib's own font, which is wider than those of pages, at TEXT_PX
TEXT_PX = 11.5
NAMES = {colour: name for name, colour in LIGHT.items()}
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.hinting": "none",
    "font.family": "DejaVu Sans",
    "font.size": TEXT_PX,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.titlecolor": LIGHT["text"],
    "axes.labelcolor": LIGHT["text"],
    "axes.labelpad": 3,
    "axes.edgecolor": LIGHT["other"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.7,
    "xtick.color": LIGHT["other"],
    "ytick.color": LIGHT["other"],
    "xtick.labelcolor": LIGHT["text"],
    "ytick.labelcolor": LIGHT["text"],
    "text.color": LIGHT["text"],
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 1.4,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.1,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One set of axes: `draw` is called with matplotlib's `Axes`. The four margins around them are in px."""

    draw: Callable[[Any], None]
    title: str = ""
    width_px: int = 340
    height_px: int = 260
    left_px: int = 52
    right_px: int = 12
    top_px: int = 30
    bottom_px: int = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Panels under one name, which is that of its files; `columns` beside each other in a file."""

    name: str
    panels: tuple[Panel, ...]
    columns: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A chart as drawn: of each panel its size in px (width, height), the inside of its SVG, and its pixels."""

    name: str
    sizes: tuple[tuple[int, int], ...]
    insides: tuple[str, ...]
    pixels: tuple[np.ndarray, ...]
    titles: tuple[str, ...]
    columns: int

    def inline(self) -> str:
        """The panels as HTML, with colours of the page; one wider than a phone scrolls."""
        panels = []
        for (width, height), inside, title in zip(self.sizes, self.insides, self.titles, strict=True):
            box = f'class="panel" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            drawn = f'<svg {box} role="img" aria-label="{escape(title or self.name)}">{themed(inside)}</svg>'
            panels.append(f'<div class="scroll" tabindex="0">{drawn}</div>' if width > PHONE_PX else drawn)
        return f'<div class="panels">{"".join(panels)}</div>'

    def svg(self) -> bytes:
        """An SVG file of all panels on white."""
        places, (width, height) = self._places()
        parts = [
            f'<svg x="{x}" y="{y}" width="{w}" height="{h}" viewBox="0 0 {w} {h}">{inside}</svg>'
            for (x, y), (w, h), inside in zip(places, self.sizes, self.insides, strict=True)
        ]
        head = (
            '<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">\n<style>{PANEL_STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>\n'
        )
        return (head + "\n".join(parts) + "\n</svg>\n").encode()

    def picture(self) -> np.ndarray:
        """[H, W, 3] uint8: all panels on white, `SCALE` pixels per px."""
        places, (width, height) = self._places()
        whole = np.full((height * SCALE, width * SCALE, 3), 255, dtype=np.uint8)
        for (x, y), (w, h), pixels in zip(places, self.sizes, self.pixels, strict=True):
            whole[y * SCALE : (y + h) * SCALE, x * SCALE : (x + w) * SCALE] = pixels
        return whole

    def _places(self) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """Where each panel lies in a file, and the file's size."""
        places, y, widest = [], GAP_PX, 0
        for start in range(0, len(self.sizes), self.columns):
            x, line = GAP_PX, self.sizes[start : start + self.columns]
            for width, _ in line:
                places.append((x, y))
                x += width + GAP_PX
            y += max(height for _, height in line) + GAP_PX
            widest = max(widest, x)
        return places, (widest, y)


PANEL_STYLE = f"text {{ font-family: {FONT}; }} path {{ stroke-linejoin: round; }}"


def draw(charts: Iterable[Chart]) -> list[Drawn]:
    """All `charts`; the same ones give the same bytes."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # an SVG has the letter all the same
        return [_drawn(chart) for chart in charts]


def themed(svg: str) -> str:
    """`svg` with the variables of a page in place of its colours."""

    def variable(found: re.Match[str]) -> str:
        return f"var(--{NAMES[found[0]]})" if found[0] in NAMES else found[0]

    return _in_tags(svg, lambda tag: re.sub(r"#[0-9a-f]{6}", variable, tag))


def text_px(lines: Iterable[str]) -> int:
    """The width of the longest of `lines`, for the margin beside an axis."""
    return round(CHARACTER_PX * max((len(part) for line in lines for part in line.split("\n")), default=0))


def shortened(name: str, most: int = 22) -> str:
    """`name` on one line of at most `most` characters; what cannot be drawn is a question mark."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def wrapped(values: Sequence[str], most: int = 26) -> str:
    """The `values` in lines a figure has room for beside it, on a phone too."""
    lines = [""]
    for value in values:
        if lines[-1] and len(lines[-1]) + len(value) > most:
            lines.append("")
        lines[-1] += (" · " if lines[-1] else "") + value
    return "\n".join(lines)


def learning_panel(
    epochs: Sequence[int], losses: Mapping[str, Sequence[float | None]], axis: str, level: float | None
) -> Panel:
    """Losses over epochs; `level` is what guessing nothing costs."""

    def draw_losses(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for (name, values), colour in zip(losses.items(), ("selection", "held-out"), strict=False):
            known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
            axes.plot(*zip(*known, strict=True), color=LIGHT[colour], label=name, marker="o" * (len(known) < 3))
        if level is not None:
            axes.axhline(level, color=LIGHT["other"], linestyle="--", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(axis)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)

    return Panel(draw=draw_losses, height_px=300)


def _drawn(chart: Chart) -> Drawn:
    insides, pixels = zip(
        *(_panel(panel, f"{chart.name}-{number}") for number, panel in enumerate(chart.panels)), strict=True
    )
    return Drawn(
        name=chart.name,
        sizes=tuple((panel.width_px, panel.height_px) for panel in chart.panels),
        insides=insides,
        pixels=pixels,
        titles=tuple(panel.title for panel in chart.panels),
        columns=chart.columns,
    )


def _panel(panel: Panel, salt: str) -> tuple[str, np.ndarray]:
    """The inside of the panel's SVG, and its pixels."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    width, height = panel.width_px, panel.height_px
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    inner = width - panel.left_px - panel.right_px, height - panel.top_px - panel.bottom_px
    axes = figure.add_axes((panel.left_px / width, panel.bottom_px / height, inner[0] / width, inner[1] / height))
    axes.tick_params(length=0)
    # Fixed, for matplotlib would measure every tick to find the place: a fifth of the time of a figure.
    axes.xaxis.set_label_coords(0.5, -(panel.bottom_px - 18) / inner[1])
    axes.yaxis.set_label_coords(-(panel.left_px - 17) / inner[0], 0.5)
    panel.draw(axes)
    if panel.title:
        axes.set_title(panel.title, x=-panel.left_px / inner[0] + 4 / inner[0], pad=panel.top_px - 19)
    file = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = salt
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.set_dpi(72 * SCALE)
    figure.set_facecolor("#ffffff")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _inside(file.getvalue(), salt), np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _inside(svg: str, salt: str) -> str:
    """What stands between <svg> and </svg> without matplotlib's style sheet, which would be the whole page's, without
    groups that group nothing, and without names that nothing refers to; the others begin with `salt`."""
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", inside, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', "".join(re.findall(r"<[^>]*>", inside))))

    def cleaned(tag: str) -> str:
        tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{salt}-{found[1]}"' if found[1] in used else "", tag)
        tag = re.sub(r'(url\(#|href="#)', rf"\g<1>{salt}-", tag)
        tag = re.sub(r'style="([^"]*font[^"]*)"', _text_style, tag)
        tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
        return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", tag))

    return re.sub(r">\s*\n\s*<", ">\n<", _without_bare_groups(_in_tags(inside, cleaned))).strip()


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """`svg` with every tag changed; texts, which have what users named, are left alone."""
    return re.sub(r"<[^>]*>", lambda found: change(found[0]), svg)


def _text_style(found: re.Match[str]) -> str:
    """The style of a text without the family of its font, which is that of the page or of the file."""
    size = re.search(r"([\d.]+)px", found[1])
    bold = "; font-weight: 600" if re.search(r"\b(bold|700)\b", found[1]) else ""
    rest = [part.strip() for part in found[1].split(";") if not part.strip().startswith("font")]
    return f'style="font-size: {size[1] if size else TEXT_PX}px{bold}; {"; ".join(rest)}"'


def _without_bare_groups(svg: str) -> str:
    """`svg` without groups that have no attribute."""
    svg = re.sub(r"<g(?: [^>]*)?/>|<defs>\s*</defs>", "", svg)
    kept: list[bool] = []
    parts: list[str] = []
    for part in re.split(r"(<g(?: [^>]*)?>|</g>)", svg):
        if part == "</g>":
            parts.append(part if kept.pop() else "")
        elif part.startswith("<g"):
            kept.append(part != "<g>")
            parts.append(part if kept[-1] else "")
        else:
            parts.append(part)
    return "".join(parts)
