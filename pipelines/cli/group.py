"""What all commands have in common: `--quiet`, `~` in paths, the last line of progress; and `mtl --version`."""

import inspect
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.terminal import flush_progress, say, set_quiet

# Commands whose options name data: elsewhere the last of an option counts, as in other programs.
ONCE = ("prepare",)
PYDANTICS_WORDS = "Value error, "  # Typer checks what an option is given by pydantic


class MtlGroup(TyperGroup):
    """A group whose commands all take `--quiet`, expand `~` in paths, and have help that wraps."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for command in self.commands.values():
            if not isinstance(command, TyperGroup):
                command.params.append(_quiet_option())
                command.callback = _at_home(command.callback)
                command.help = _unwrapped(command.help or "")
                if command.name in ONCE:
                    command.parse_args = _given_once(command, command.parse_args)  # type: ignore[method-assign]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix(PYDANTICS_WORDS)
            raise
        finally:
            flush_progress()


def print_version(wanted: bool) -> None:
    """Prints versions and ends the command; torch is not loaded for it."""
    if wanted:
        say(f"mtl-affect {_version('mtl-affect')}, Python {platform.python_version()}, torch {_version('torch')}")
        raise typer.Exit


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _quiet_option() -> Any:
    """The option as Typer itself makes it, whichever release that is."""
    help_text = "No progress on standard error; results, warnings and errors stay."
    made = typer.Typer(add_completion=False)

    @made.command()
    def _(quiet: Annotated[bool, typer.Option("--quiet", "-q", callback=set_quiet, help=help_text)] = False) -> None:
        pass

    (option,) = [param for param in typer.main.get_command(made).params if param.name == "quiet"]
    option.expose_value = False
    return option


def _unwrapped(text: str) -> str:
    """Help with one line per paragraph, which the terminal wraps; one that begins with backspace keeps its lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(each if each.startswith("\b") else each.replace("\n", " ") for each in paragraphs)


def _given_once(command: Any, parse_args: Any) -> Any:
    """`parse_args` of a `command`, which refuses an option that is given twice and counts once: click takes the last,
    and what was given before would be lost without a word."""

    def parsed(ctx: Any, args: list[str]) -> Any:
        words = args[: args.index("--")] if "--" in args else args
        for param in command.params:
            if param.param_type_name != "option" or param.multiple or param.is_flag:
                continue
            names = [word for word in words if word.partition("=")[0] in param.opts and word.startswith("--")]
            if len(names) > 1:
                name = names[0].partition("=")[0]
                raise ValueError(f"{name} is given {len(names)} times, but only the last would count; give it once")
        return parse_args(ctx, args)

    return parsed


def _at_home(callback: Any) -> Any:
    """`callback` with `~` at the start of every path expanded, as shells do it in some places only."""

    def called(**values: Any) -> Any:
        return callback(**{name: _expanded(value) for name, value in values.items()})

    return called


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value
