"""`mtl recipes`: published methods that `mtl init --recipe` writes as a working folder."""

import typer

from pipelines.cli.options import JsonOption
from pipelines.terminal import say, say_json


def register(app: typer.Typer) -> None:
    app.command(name="recipes")(recipes)


def recipes(json_output: JsonOption = False) -> None:
    """List published methods as recipes: what they are, and the public weights they need.

    A recipe is a folder of configuration: mtl.toml, grids and a page with what the source did, what is different here,
    what is to be downloaded under which licence, and the commands. `mtl init --recipe NAME` writes it.

    \b
    Examples:
      mtl recipes
      mtl recipes --json
    """
    from pipelines.cli.pages.recipes import print_recipes
    from pipelines.recipes import packaged_recipes

    found = packaged_recipes().values()
    if json_output:
        say_json([each.to_json() for each in found])
        return
    print_recipes(found)
    say("`mtl init --recipe NAME` writes one into the working folder")
