"""What `mtl recipes` prints, and what `mtl init --recipe` says of downloads: names beside text that wraps."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from pipelines.cli.pages.consoles import page_console
from pipelines.recipes import Recipe


def print_recipes(recipes: Iterable[Recipe]) -> None:
    """Of each its title, its source, and the public weights that it needs."""
    table = _grid()
    for each in recipes:
        weights = ", ".join(entry.name for entry in each.weights()) or "none"
        table.add_row(each.name, Text(f"{each.title}\n{each.source}\nweights: {weights}"))
    page_console().print(table)


def print_downloads(recipe: Recipe) -> None:
    """A row per thing to get: what, from where, under which licence."""
    table = _grid()
    for what, source, licence in recipe.downloads():
        table.add_row("-", Text(f"{what}\nfrom {source}; licence: {licence}"))
    page_console().print(table)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
