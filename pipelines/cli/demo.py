"""`mtl demo`: the main job on the made data set, command by command, as a user would type it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

BACKBONE = "test_vit2"
SETTINGS = ("--set", "finetune.size_px=80")


def register(app: typer.Typer) -> None:
    app.command(name="demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="The working folder of the demonstration.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the made data set.")] = 0,
) -> None:
    """Make faces, train three small backbones, cache their embeddings, search strategies, write a report.

    Takes about five minutes on two cores. Run again after an interruption it goes on where it was.

    Examples:

        mtl demo

        mtl demo /tmp/demo --seed 1
    """
    import contextlib

    from pipelines.cli import app

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        for command in commands(seed):
            if command[0] == "init" and Path("mtl.toml").exists():
                continue
            if command[0] == "finetune" and Path("backbones", f"{command[2]}.safetensors").exists():
                continue
            typer.secho(f"\n$ mtl {shlex.join(command)}", fg="cyan")
            code = app(command, standalone_mode=False)
            if code:
                raise typer.Exit(code)
    typer.echo(f"\neverything is in {folder}; open {folder / 'studies' / 'demo' / 'report.html'} in a browser")


def commands(seed: int) -> list[list[str]]:
    """The commands of the demonstration, in order."""
    finetune = [["finetune", "--task", task, "--model", BACKBONE, "--init", "random", *SETTINGS] for task in TASKS]
    return [
        ["demo-data", "data", "--seed", str(seed)],
        ["init", "--faces", "data/cropped_aligned"],
        [
            *["prepare", "--train", "data/train_set.txt", "--val", "data/val_set.txt"],
            *["--test", "data/test_set.txt", "--subjects", "data/subjects.csv"],
        ],
        *finetune,
        ["extract", "--backbone", "va,expr,au"],
        ["search", "--grid", "grids/demo.toml"],
    ]


TASKS = ("va", "expr", "au")
