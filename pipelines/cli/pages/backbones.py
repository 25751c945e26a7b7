"""What `mtl backbones` prints: the catalogue as a table, one entry in full."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from extract.backbones.catalogue import PublicBackbone
from pipelines.cli.pages.consoles import wide_console
from pipelines.terminal import say

LABELS = {"size_px": "input", "mean": "mean", "std": "std", "interpolation": "resize"}


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


def print_backbone(entry: PublicBackbone, preprocessing: Mapping[str, Any]) -> None:
    """One entry in full; `preprocessing` is what is known of its input."""
    say(f"{entry.name}: {entry.what}")
    say(f"model    {entry.model}")
    if entry.width is not None:
        say(f"width    {entry.width}")
    for key, value in preprocessing.items():
        words = " ".join(f"{each:.4g}" for each in value) if isinstance(value, list | tuple) else f"{value}"
        say(f"{LABELS[key]:<8} {words}" + (" px" if key == "size_px" else ""))
    say(f"licence  {entry.licence}")
    say(f"source   {entry.source}")
    say(f"tried    {entry.tried or 'no: the file could not be had'}")
    say("\n".join(entry.steps()))
    say(f"then     mtl backbones add {entry.name}")
