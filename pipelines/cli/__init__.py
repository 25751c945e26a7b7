"""The command `mtl`: one file per command; a command parses, calls one function, prints.

Nothing here imports torch or timm: commands import what they call when they are called.
"""

import contextlib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Annotated, Any

import typer

from pipelines.cli.group import MtlGroup, print_version
from pipelines.terminal import flush_progress, say, soften_encodings

# In the order of the help; each is in the module of its name.
COMMANDS = (
    "demo",
    "demo-data",
    "recipes",
    "init",
    "align",
    "prepare",
    "pretrain",
    "finetune",
    "extract",
    "train-head",
    "evaluate",
    "score",
    "search",
    "compare",
    "postprocess",
    "ensemble",
    "refit",
    "predict",
    "live",
    "report",
    "submit",
    "export",
)
GROUPS = ("backbones", "cache")
RUNS_OTHERS = ("demo",)


@lru_cache
def make_app(only: str | None = None) -> typer.Typer:
    """The program, with all its commands or with `only` one: to import and build all takes 0.1 s of CPU time."""
    made = typer.Typer(
        name="mtl",
        cls=MtlGroup,
        help="Multi-task affect analysis of video: valence, arousal, expressions, action units or other labels per "
        "frame.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        callback=mtl,
    )
    for name in (*COMMANDS, *GROUPS) if only is None else (only,):
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
        if name in GROUPS:
            made.add_typer(module.app, name=name)
        else:
            module.register(made)
    return made


def __getattr__(name: str) -> Any:
    """`app` is the program with all its commands, made when it is asked for."""
    if name == "app":
        return make_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def mtl(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Versions of mtl, Python and torch."),
    ] = False,
) -> None:
    pass


STOPPED = "mtl: stopped; finished work is kept, the same command resumes from here\n"
OUT_OF_MEMORY = (
    "out of memory; end other programs, or take less at once, of heads a smaller batch_windows, window, width or depth"
)


def program() -> None:
    """`main` as all that a process does: Ctrl-C or SIGTERM while Python takes it down ends it at once, with their code.

    Everything is written by then; without this, callbacks at exit show a traceback each and the exit code is 0.
    """
    warnings.showwarning = _say_warning
    try:
        main()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # whoever read them is gone; Python says so itself
                stream.flush()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os._exit(128 + number))


def _say_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning as one line, without the place in the code that Python shows."""
    say(f"mtl: warning: {message}", err=True)


def main() -> None:
    """Runs a command. A `ValueError` or `OSError` becomes one line on standard error and exit code 2.

    Ctrl-C and SIGTERM become one line, and exit code 130 or 143.
    """
    # Where other programs keep the cores busy, torch's waiting threads would burn what the working ones need: two
    # threads on two busy cores did 10 to 27 faces/s so, and 184 to 435 with threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    soften_encodings()
    with _sigterm_as_ctrl_c() as received:
        try:
            first = sys.argv[1] if len(sys.argv) > 1 else None
            make_app(first if first in {*COMMANDS, *GROUPS} - {*RUNS_OTHERS} else None)()
        except SystemExit as end:
            if not isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
                if received and end.code == 128 + signal.SIGINT:  # the command has printed its own line
                    sys.exit(128 + received[0])
                raise
        except KeyboardInterrupt:  # a second one, while the first was being seen to
            pass
        except (ValueError, OSError) as error:
            if os.environ.get("MTL_DEBUG"):
                raise
            say(f"mtl: error: {one_line(error)}", err=True)
            sys.exit(2)
        except BaseException as error:
            if os.environ.get("MTL_DEBUG"):
                raise
            if _of_memory(error):
                say(f"mtl: error: {OUT_OF_MEMORY}: {_first_words(error)}; MTL_DEBUG=1 says where", err=True)
                sys.exit(2)
            if not (_of_polars(error) or _of_rust(error)):
                raise
            what = "a table cannot be read or written" if _of_polars(error) else "a library broke off"
            say(f"mtl: error: {what}: {_first_words(error)}; MTL_DEBUG=1 says where", err=True)
            sys.exit(2)
        flush_progress()
        sys.stderr.write(STOPPED)
        sys.exit(128 + (received or [signal.SIGINT])[0])


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """SIGTERM, with which schedulers end jobs, raises `KeyboardInterrupt` too; yields the list it is noted in."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: whoever owns that sees to signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _of_polars(error: BaseException) -> bool:
    """Whether Polars raised it: its errors, and its panics, which are no `Exception`. Polars need not be loaded."""
    errors = sys.modules.get("polars.exceptions")
    return errors is not None and isinstance(error, (errors.PolarsError, errors.PanicException))


def _of_rust(error: BaseException) -> bool:
    """Whether it is the panic of a library in Rust: each has a class of its own."""
    return type(error).__name__ == "PanicException"


def _of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, NumPy's and torch's errors; of the CPU torch says so in words only."""
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_torch)


def _first_words(error: BaseException) -> str:
    return " ".join((str(error).splitlines() or [type(error).__name__])[0].split())


def one_line(error: Exception) -> str:
    """The error's text on one line; an `OSError` keeps the file it concerns, a full disk says what helps."""
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; free some space and run the same command again, finished work is kept" if full else ""
        return f"{where}{error.strerror}{hint}"
    return " ".join(str(error).split())
