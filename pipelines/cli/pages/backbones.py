"""What `mtl backbones` prints: the catalogue as a table, one entry in full."""

from collections.abc import Iterable

from rich.table import Table

from extract.backbones.catalogue import PublicBackbone
from pipelines.cli.pages.consoles import wide_console
from pipelines.terminal import say


def print_catalogue(entries: Iterable[PublicBackbone]) -> None:
    """A row per entry; sources and steps are those of `mtl backbones show`."""
    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("weights")
    table.add_column("width", justify="right")
    table.add_column("licence")
    table.add_column("tried")
    for each in entries:
        width = "" if each.width is None else str(each.width)
        table.add_row(each.name, each.what, width, each.licence, "yes" if each.tried else "no")
    wide_console().print(table)
    say("`mtl backbones show NAME` says where one comes from, `mtl backbones add NAME` enters it in mtl.toml.")


def print_backbone(entry: PublicBackbone) -> None:
    say(f"{entry.name}: {entry.what}")
    say(f"model    {entry.model}")
    if entry.width is not None:
        say(f"width    {entry.width}")
    say(f"licence  {entry.licence}")
    say(f"source   {entry.source}")
    say(f"tried    {entry.tried or 'no: the file could not be had'}")
    say("\n".join(entry.steps()))
    say(f"then     mtl backbones add {entry.name}")
