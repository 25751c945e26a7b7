"""`mtl backbones`: public weights by name, and their sections of mtl.toml."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.group import MtlGroup
from pipelines.cli.options import CONFIG, ConfigOption, JsonOption
from pipelines.terminal import say, say_json

app = typer.Typer(cls=MtlGroup, rich_markup_mode="rich")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name of `mtl backbones`.")]


@app.callback(invoke_without_command=True)
def backbones(context: typer.Context, json_output: JsonOption = False) -> None:
    """List public affect and face weights by name: model, width, licence, where they come from.

    `mtl backbones show NAME` says how to get one, `mtl backbones add NAME` enters it in mtl.toml.
    """
    if context.invoked_subcommand is not None:
        return
    from extract.backbones.catalogue import catalogue
    from pipelines.cli.pages.backbones import print_catalogue

    entries = [*catalogue().values()]
    say_json([each.to_json() for each in entries]) if json_output else print_catalogue(entries)


@app.command()
def show(name: NameArgument, json_output: JsonOption = False) -> None:
    """Show where public weights come from, what input they take, their licence, and how to get and enter them.

    \b
    Examples:
      mtl backbones show mae-face-b
      mtl backbones show hsemotion-b0-mtl --json
    """
    from extract.backbones.catalogue import public_backbone
    from extract.backbones.timm_models import known_preprocessing
    from pipelines.cli.pages.backbones import print_backbone

    entry = public_backbone(name)
    known = known_preprocessing(entry)
    if json_output:
        say_json({**entry.to_json(), "preprocessing": known, "steps": entry.steps(), "section": entry.section()})
    else:
        print_backbone(entry, known)


@app.command()
def add(
    name: NameArgument,
    section: Annotated[str, typer.Option("--name", help="The section of mtl.toml; default: NAME.")] = "",
    config: ConfigOption = CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace a section of that name.")] = False,
) -> None:
    """Enter public weights in mtl.toml, as \\[backbones.NAME], and say how to get the file they are in.

    Nothing is downloaded: files are yours to get, under their licence. timm fetches the weights of its own models when
    they are first used.

    \b
    Examples:
      mtl backbones add dinov2-b
      mtl backbones add hsemotion-b0-mtl --name hsemotion
    """
    from extract.backbones.catalogue import public_backbone
    from pipelines.backbones.register import check_section_name, register_backbone
    from pipelines.config import read_config

    entry = public_backbone(name)
    key = section or name
    check_section_name(key)
    settings = read_config(config)
    if key in settings.backbones and not force:
        raise ValueError(f"{config}: [backbones.{key}] is there already; --force replaces it, --name is for another")
    register_backbone(config, key, entry.section())
    say(f"[backbones.{key}] of {config}: {entry.what}")
    target = Path(settings.at(entry.target)) if entry.target else None
    if target is None or not target.is_file():
        say("\n".join(entry.steps()))
    if not entry.tried:
        say("not tried: the file could not be had when this entry was written")
    say(f"next: mtl extract --backbone {key}")
