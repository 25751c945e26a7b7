"""`mtl demo`: the main job on the made data set, command by command, as a user would type it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pipelines.terminal import is_quiet, make_console, say

# A model of 190,000 parameters at 64 px; epochs of each task, on measured validation scores.
MODEL, SIZE_PX, LR = "test_mambaout", 64, 0.002
EPOCHS = {"va": 4, "expr": 6, "au": 4}
INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    app.command(name="demo")(demo)


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The working folder of the demonstration.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the made data set.")] = 0,
) -> None:
    """Make faces, train three small backbones, cache their embeddings, search strategies, write a report.

    Takes four to five minutes on two cores. Run again after an interruption, it resumes.

    \b
    Examples:
      mtl demo
      mtl demo /tmp/demo --seed 1
    """
    import contextlib

    from pipelines.config import read_config

    folder.mkdir(parents=True, exist_ok=True)
    quiet = ["--quiet"] if is_quiet() else []  # each command sets it anew
    with contextlib.chdir(folder):
        for command in commands(seed):
            if command[0] == "init" and Path("mtl.toml").exists():
                continue
            if command[0] == "finetune" and command[2] in read_config(Path("mtl.toml")).backbones:
                continue
            make_console().print(Text(f"\n$ mtl {shlex.join(command)}", "cyan"), soft_wrap=True)
            code = run_command(context, [*command, *quiet])
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code:
                raise typer.Exit(code)
    say(f"\neverything is in {folder}; open {folder / 'studies' / 'demo' / 'report.html'} in a browser")


def run_command(context: typer.Context, words: list[str]) -> int | None:
    """Runs another command of the program that `context` is of; its exit code."""
    code: int | None = context.find_root().command.main(words, standalone_mode=False)
    return code


def commands(seed: int) -> list[list[str]]:
    """The commands of the demonstration, in order."""
    return [
        ["demo-data", "data", "--seed", str(seed)],
        ["init", "--faces", "data/cropped_aligned"],
        [
            *["prepare", "--train", "data/train_set.txt", "--val", "data/val_set.txt"],
            *["--test", "data/test_set.txt", "--subjects", "data/subjects.csv"],
        ],
        *(finetune(task, epochs) for task, epochs in EPOCHS.items()),
        ["extract", "--backbone", ",".join(EPOCHS)],
        ["search", "--grid", "grids/demo.toml"],
    ]


def finetune(task: str, epochs: int) -> list[str]:
    """The command that trains the backbone of `task`."""
    settings = {"size_px": SIZE_PX, "lr": LR, "epochs": epochs}
    values = [part for key, value in settings.items() for part in ("--set", f"finetune.{key}={value}")]
    return ["finetune", "--task", task, "--model", MODEL, "--init", "random", *values]
