"""`mtl init`: writes mtl.toml and the grids into the working folder."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import LabelsOption
from pipelines.terminal import say


def register(app: typer.Typer) -> None:
    app.command(name="init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="The working folder.")] = Path(),
    faces: Annotated[str, typer.Option(help="The folder of face crops.")] = "cropped_aligned",
    labels: LabelsOption = "abaw",
    recipe: Annotated[str, typer.Option(metavar="NAME", help="A published method of `mtl recipes`.")] = "",
    force: Annotated[bool, typer.Option(help="Write over an mtl.toml that is there.")] = False,
) -> None:
    """Write mtl.toml and the grids of strategies into the working folder.

    With --recipe they are those of a published method, with its page as
    RECIPE.md; printed is what has to be downloaded, from where, under which
    licence.

    Labels go by a schema: abaw (valence and arousal, 8 expressions, 12 action
    units), affectnet8, fer7, disfa, bp4d, or a TOML file with a name and a
    \\[\\[groups]] for each group: name, kind (continuous, classes, binary) and
    columns; for classes their names, for continuous ones a range.

    \b
    Examples:
      mtl init
      mtl init work --faces /data/abaw/cropped_aligned
      mtl init work --faces faces --labels disfa
      mtl init work --faces faces --labels pain.toml
      mtl init --recipe cprl-2026 --faces /data/abaw/cropped_aligned
    """
    from cache.labels import ABAW
    from pipelines.config import read_schema
    from pipelines.project import write_project

    schema = read_schema(labels, "--labels")
    faces = _seen_from(folder, faces)
    if recipe:
        if schema.digest != ABAW.digest:
            raise ValueError(f"--labels {labels}: recipes are for the labels of abaw; leave --labels or --recipe out")
        _write_recipe(folder, recipe, faces, force=force)
        return
    write_project(folder, faces, schema, force=force)
    say(f"wrote {folder / 'mtl.toml'} and {folder / 'grids'}")
    given = "--train TRAIN.txt --val VAL.txt" if schema.digest == ABAW.digest else "--table LABELS.csv"
    into = "" if folder == Path() else f"cd {folder} && "
    say(f"next: {into}mtl prepare {given}   (mtl prepare --help for other annotations)")


def _seen_from(folder: Path, faces: str) -> str:
    """`faces` as mtl.toml in `folder` names it: a folder that is only there as seen from here is named from there."""
    path = Path(faces).expanduser()
    if path.is_absolute() or (folder / path).exists() or not path.exists():
        return faces
    return os.path.relpath(path, folder)


def _write_recipe(folder: Path, name: str, faces: str, *, force: bool) -> None:
    from pipelines.cli.pages.recipes import print_downloads
    from pipelines.recipes import PAGE, find_recipe, write_recipe

    recipe = find_recipe(name)
    write_recipe(folder, recipe, faces, force=force)
    files = ["mtl.toml", *(path.name for path in recipe.further), "grids", PAGE]
    say(f"wrote {', '.join(files)} in {folder}: {recipe.title}")
    say("to download, as files are yours to get:")
    print_downloads(recipe)
    for entry in recipe.weights():
        if entry.target and (folder / entry.target).is_file():
            say(f"  {entry.target} is there already")
    say(f"next: {folder / PAGE} has the commands in order, and what differs from the source")
