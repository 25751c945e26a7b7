"""`mtl init`: writes mtl.toml and the grids into the working folder."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import say


def register(app: typer.Typer) -> None:
    app.command(name="init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="The working folder.")] = Path(),
    faces: Annotated[str, typer.Option(help="The folder of face crops, seen from the working folder.")] = (
        "cropped_aligned"
    ),
    force: Annotated[bool, typer.Option(help="Write over an mtl.toml that is there.")] = False,
) -> None:
    """Write mtl.toml and the grids of strategies into the working folder.

    \b
    Examples:
      mtl init
      mtl init work --faces /data/abaw/cropped_aligned
    """
    from pipelines.project import write_project

    write_project(folder, faces, force=force)
    say(f"wrote {folder / 'mtl.toml'} and {folder / 'grids'}")
    say("next: mtl prepare --train train_set.txt --val val_set.txt   (mtl prepare --help for other annotations)")
