"""The command `mtl`: one file a command; a command parses, calls one function, prints.

Nothing here imports torch or timm: commands import what they call when they are called.
"""

import errno
import os
import sys

import typer

from pipelines.cli import (
    cache,
    demo,
    demo_data,
    evaluate,
    extract,
    finetune,
    init,
    prepare,
    score,
    search,
    train_head,
)

app = typer.Typer(
    name="mtl",
    help="Multi-task affect from video: valence-arousal, 8 expressions and 12 action units, per frame.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (demo, demo_data, init, prepare, finetune, extract, train_head, evaluate, score, search):
    command.register(app)
app.add_typer(cache.app, name="cache")


def main() -> None:
    """Runs a command. A `ValueError` or `OSError` becomes one line on standard error and exit code 2."""
    # Where other programs keep the cores busy, torch's waiting threads would burn what the working ones need: two
    # threads on two busy cores did 10 to 27 faces/s so, and 184 to 435 with threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            sys.stderr.write("mtl: stopped; nothing finished is lost, the same command goes on from here\n")
        raise
    except (ValueError, OSError) as error:
        if os.environ.get("MTL_DEBUG"):
            raise
        sys.stderr.write(f"mtl: error: {one_line(error)}\n")
        sys.exit(2)


def one_line(error: Exception) -> str:
    """The error's text on one line; an `OSError` keeps the file it concerns, a full disk says what helps."""
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; make room and type the same command again, nothing finished is lost" if full else ""
        return f"{where}{error.strerror}{hint}"
    return " ".join(str(error).split())
