"""`mtl demo-data`: draws the made data set, in the layout of the official one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import LabelsOption
from pipelines.terminal import say
from pipelines.words import counted


def register(app: typer.Typer) -> None:
    app.command(name="demo-data")(demo_data)


def demo_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder, or one made before.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    videos: Annotated[int, typer.Option(help="Number of videos, 3 or more.")] = 120,
    frames: Annotated[int, typer.Option(help="Faces of a video on average, 4 or more.")] = 80,
    peculiar: Annotated[
        bool, typer.Option("--peculiar", help="Names, annotations and lists with all that is odd in official ones.")
    ] = False,
    labels: LabelsOption = "abaw",
) -> None:
    """Draw face videos with labels, in the layout of s-Aff-Wild2.

    Faces, movements and labels are made by the program, so that everything
    can be tried without the official data. What an earlier call has finished
    is kept. --peculiar writes the same faces and labels the way the
    challenge's files are: repeated rows, lists with dummy values, names in
    several spellings; NOTES.md in the folder says what each file holds.
    --labels gives the same faces labels of another schema, as labels.csv;
    README.md in the folder has the schema and what comes next.

    \b
    Examples:
      mtl demo-data data
      mtl demo-data small --videos 8 --frames 20 --seed 1
      mtl demo-data odd --videos 12 --frames 20 --peculiar
      mtl demo-data units --videos 12 --frames 20 --labels disfa
      mtl demo-data own --videos 12 --frames 20 --labels pain.toml
    """
    from cache.labels import ABAW
    from extract.made.dataset import MadeParameters, make_data, make_plan
    from pipelines.config import read_schema
    from pipelines.progress import progress

    schema = read_schema(labels, "--labels")
    total = sum(plan.num_frames for plan in make_plan(MadeParameters(seed, videos, frames)))
    with progress("Drawing faces", total, "faces") as advance:
        made = make_data(
            folder,
            seed=seed,
            num_videos=videos,
            frames_per_video=frames,
            peculiar=peculiar,
            schema=schema,
            advance=advance,
        )
    splits = ", ".join(f"{split} {count:,}" for split, count in made.num_faces.items())
    say(
        f"{folder}: {sum(made.num_faces.values()):,} faces ({splits}), {counted(made.num_videos, 'video')}, "
        f"{counted(made.num_subjects, 'subject')}{'; made before, nothing to do' if made.reused else ''}"
    )
    where = shlex.quote(str(folder))
    if schema.digest != ABAW.digest:
        say(f"next: mtl init --faces {where}/cropped_aligned --labels {where}/labels.toml")
        say(f"      mtl prepare --table {where}/labels.csv --subjects {where}/subjects.csv")
        return
    given = {f"--{split}": f"{split}_set.txt" for split in made.num_faces}
    if peculiar:
        given = {**given, "--test-list": "test_list.txt"}
        del given["--test"]
    files = " ".join(f"{option} {where}/{name}" for option, name in given.items())
    if peculiar:
        say(f"what is in which file: {folder / 'NOTES.md'}")
    say(f"next: mtl init --faces {where}/cropped_aligned")
    say(f"      mtl prepare {files} --subjects {where}/subjects.csv")
