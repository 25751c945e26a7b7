"""The page around a report: one HTML file that needs no network. Everything that is not markup passes `safe`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

STYLE = """
:root { color-scheme: light; --line: #d9d9d9; --soft: #f4f6f8; --text: #222; --muted: #595959; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; background: white; color: var(--text); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1600px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 27px; margin: 0 0 4px; line-height: 1.25; }
h2 { font-size: 20px; margin: 44px 0 6px; padding-top: 10px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 26px 0 4px; }
p { margin: 6px 0 10px; max-width: 78ch; }
.muted, figcaption { color: var(--muted); font-size: 14px; }
figure { margin: 14px 0 0; break-inside: avoid; }
figcaption { max-width: 88ch; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0 8px; }
.tile { background: var(--soft); border-radius: 8px; padding: 10px 16px; min-width: 130px; flex: 1 1 130px; }
.tile b { display: block; font-size: 23px; line-height: 1.3; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { color: var(--muted); font-size: 13px; }
.scroll { overflow-x: auto; margin: 10px 0 6px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 6px; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
td.n, th.n { text-align: right; }
th.group { text-align: center; border-bottom: 2px solid; }
.chose { background: #fdf3e0; } th.chose.group { border-color: #E69F00; }
.scored { background: #e8f2f9; } th.scored.group { border-color: #0072B2; }
.verdict { background: var(--soft); border-left: 4px solid var(--accent); padding: 6px 16px; margin: 12px 0; }
.verdict p { max-width: 100ch; }
tr.first td { font-weight: 600; }
pre { background: var(--soft); padding: 12px; border-radius: 8px; overflow-x: auto; font-size: 13px; }
summary { cursor: pointer; color: var(--accent); margin: 8px 0; }
@media (max-width: 600px) { main { padding: 18px 12px 40px; } h1 { font-size: 22px; } th, td { padding: 4px 7px; } }
@page { size: A4; margin: 13mm; }
@media print {
  body { font-size: 11.5px; } main { max-width: none; padding: 0; }
  table { font-size: 9px; } th, td { padding: 3px 5px; }
  .scroll { overflow: visible; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
# Figures are as wide as the window; on paper they must be as wide as the page.
SCRIPT = """
const figures = () => document.querySelectorAll('.js-plotly-plot');
window.addEventListener('beforeprint', () => figures().forEach(f => Plotly.relayout(f, {width: 680, autosize: false})));
window.addEventListener('afterprint', () => figures().forEach(f => Plotly.relayout(f, {width: null, autosize: true})));
"""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One table cell; `css` are its classes, "n" for numbers. `span` columns wide."""

    text: str
    css: str = ""
    span: int = 1


def safe(text: str) -> Markup:
    """`text` as HTML: markup stays, anything else is escaped."""
    return text if isinstance(text, Markup) else Markup(escape(text))


def tag(name: str, *children: str, css: str = "") -> Markup:
    """An element around `children`."""
    attribute = f' class="{escape(css)}"' if css else ""
    return Markup(f"<{name}{attribute}>{''.join(map(safe, children))}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    return Markup("\n".join(map(safe, parts)))


def table(heads: Sequence[Sequence[Cell]], rows: Sequence[Sequence[Cell]], first: str = "") -> Markup:
    """A table that scrolls sideways on a phone; the first row has the class `first`."""
    head = join(tag("tr", *(_cell("th", cell) for cell in cells)) for cells in heads)
    body = join(
        tag("tr", *(_cell("td", cell) for cell in cells), css=first if index == 0 else "")
        for index, cells in enumerate(rows)
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), css="scroll")


def tiles(values: Sequence[tuple[str, str]]) -> Markup:
    """Large numbers with what they are: (number, words)."""
    return tag(
        "div", *(tag("div", tag("b", big), tag("span", small), css="tile") for big, small in values), css="tiles"
    )


def details(summary: str, content: str) -> Markup:
    """Folded away until asked for."""
    return tag("details", tag("summary", summary), content)


def figure_html(figure: go.Figure, name: str, caption: str) -> Markup:
    """A figure with the caption below it; `name` is its id in the page."""
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{figure.layout.height}px",
        config={"responsive": True, "displayModeBar": False},
    )
    return tag("figure", Markup(drawn), tag("figcaption", caption))


def page(title: str, content: str) -> str:
    """The whole file; the plotting library is in it once."""
    return join(
        [
            Markup("<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"),
            Markup("<meta name='viewport' content='width=device-width, initial-scale=1'>"),
            tag("title", title),
            Markup(f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>"),
            tag("main", content),
            Markup(f"<script>{SCRIPT}</script></body></html>\n"),
        ]
    )


def _cell(name: str, cell: Cell) -> Markup:
    span = f' colspan="{cell.span}"' if cell.span > 1 else ""
    return Markup(f'<{name} class="{escape(cell.css)}"{span}>{safe(cell.text)}</{name}>')
