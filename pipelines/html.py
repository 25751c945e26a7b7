"""The page around a report: one HTML file that needs no network. Everything that is not markup passes `safe`.

Only the scripts that a page is made with run in it, and nothing is loaded from elsewhere: its Content-Security-Policy
says so to the browser.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

from pipelines.colours import DARK, LIGHT, variables


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One table cell; `css` are its classes, "n" for numbers. `span` columns wide.

    `sort` is what a sortable table sorts it by, its text where None.
    """

    text: str
    css: str = ""
    span: int = 1
    sort: float | str | None = None


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
    return _table("", heads, rows, first)


def sortable_table(
    heads: Sequence[Sequence[Cell]], rows: Sequence[Sequence[Cell]], name: str, *, first: str = ""
) -> Markup:
    """A `table` with the id `name` that readers sort by the last row of `heads` and filter by words."""
    return _table(f' id="{escape(name)}" class="sortable"', heads, rows, first)


def tiles(values: Sequence[tuple[str, str]]) -> Markup:
    """Large numbers with what they are: (number, words)."""
    return tag(
        "div", *(tag("div", tag("b", big), tag("span", small), css="tile") for big, small in values), css="tiles"
    )


def details(summary: str, content: str) -> Markup:
    """Folded away until asked for."""
    return tag("details", tag("summary", summary), content)


def figure_html(drawn: Markup, name: str, caption: str) -> Markup:
    """A figure with the caption below it; `name` is its id in the page."""
    return Markup(f'<figure id="{escape(name)}">{drawn}{tag("figcaption", caption)}</figure>')


def page(title: str, content: str, *, style: str = "", script: str = "") -> str:
    """The whole file; `style` and `script` are CSS and JavaScript that `content` needs."""
    scripts = [_asset("table.js"), *([script] if script else [])]
    return join(
        [
            Markup("<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"),
            Markup("<meta name='viewport' content='width=device-width, initial-scale=1'>"),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}">'),
            tag("title", title),
            Markup(f"<style>{_colours()}{_asset('page.css')}{style}</style></head><body>"),
            tag("main", content),
            Markup("".join(f"<script>{each}</script>" for each in scripts) + "</body></html>\n"),
        ]
    )


def policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which `scripts` run, data files beside the page, and no other script; pictures
    come from where the page lies."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' file: {allowed}; style-src 'unsafe-inline'; "
        "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    return (files("pipelines") / "assets" / name).read_text(encoding="utf-8")


def _colours() -> str:
    """The variables of a light page and, where the reader's system is dark, of a dark one; paper is light."""
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {variables(DARK)} }} }}"
    return f"\n:root {{ color-scheme: light; {variables(LIGHT)} }}\n{dark}\n"


def _table(attributes: str, heads: Sequence[Sequence[Cell]], rows: Sequence[Sequence[Cell]], first: str) -> Markup:
    head = join(tag("tr", *(_cell("th" if cell.text else "td", cell) for cell in cells)) for cells in heads)
    body = join(
        tag("tr", *(_cell("td", cell) for cell in cells), css=first if index == 0 else "")
        for index, cells in enumerate(rows)
    )
    inside = join([tag("thead", head), tag("tbody", body)])
    return tag("div", Markup(f"<table{attributes}>{inside}</table>"), css="scroll")


def _cell(name: str, cell: Cell) -> Markup:
    span = f' colspan="{cell.span}"' if cell.span > 1 else ""
    sort = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
    return Markup(f'<{name} class="{escape(cell.css)}"{span}{sort}>{safe(cell.text)}</{name}>')
