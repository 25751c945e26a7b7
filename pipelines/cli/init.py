"""`mtl init`: writes mtl.toml and the grids into the working folder."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import LabelsOption
from pipelines.terminal import say


def register(app: typer.Typer) -> None:
    app.command(name="init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="The working folder.")] = Path(),
    faces: Annotated[str, typer.Option(help="The folder of face crops, seen from the working folder.")] = (
        "cropped_aligned"
    ),
    labels: LabelsOption = "abaw",
    force: Annotated[bool, typer.Option(help="Write over an mtl.toml that is there.")] = False,
) -> None:
    """Write mtl.toml and the grids of strategies into the working folder.

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
    """
    from cache.labels import ABAW
    from pipelines.config import read_schema
    from pipelines.project import write_project

    schema = read_schema(labels, "--labels")
    write_project(folder, faces, schema, force=force)
    say(f"wrote {folder / 'mtl.toml'} and {folder / 'grids'}")
    given = "--train train_set.txt --val val_set.txt" if schema.digest == ABAW.digest else "--table labels.csv"
    say(f"next: mtl prepare {given}   (mtl prepare --help for other annotations)")
