"""Every example of every command's help can be copied from a terminal of 80 columns and typed."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from helpers.processes import python
from pipelines.cli import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def examples(command: Any) -> list[str]:
    """The example lines as the code has them."""
    return [line.strip() for line in command.help.partition("Examples:")[2].splitlines() if line.strip()]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_stand_whole_on_a_line_of_80_columns(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).stdout
    lines = shown.partition("Examples:")[2].splitlines()
    wanted = examples(COMMANDS[path])
    assert wanted
    assert [line.strip() for line in lines if line.strip()][: len(wanted)] == wanted
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_prose_of_help_wraps_and_shows_sections_of_mtl_toml(path: tuple[str, ...]) -> None:
    """In 80 columns no line of a paragraph ends early, and no `[section]` is lost as markup."""
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).stdout
    help_text = COMMANDS[path].help.partition("\b")[0].replace("\\[", "[")
    for paragraph in help_text.strip().split("\n\n"):
        assert paragraph.replace("\n", " ") in " ".join(shown.split()), paragraph
    for param in COMMANDS[path].params:
        assert not re.search(r"(?<!\\)\[[a-z]", getattr(param, "help", None) or ""), param.name
    lines = [line.strip() for line in shown.partition("Examples:")[0].splitlines()]
    for line, following in itertools.pairwise(lines[3:]):
        assert not line or not following or len(line) + 1 + len(following.split()[0]) > 78, line


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_are_commands_that_exist(path: tuple[str, ...]) -> None:
    for line in examples(COMMANDS[path]):
        name, *words = shlex.split(line, comments=True)
        assert (name, *words[: len(path)]) == ("mtl", *path)
        COMMANDS[path].make_context(path[-1], words[len(path) :])


HELP = """
import contextlib, io, json, sys
import typer
from pipelines.cli import app, main

imported = [each for each in sys.modules if each.partition(".")[0] not in sys.stdlib_module_names]

def names(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from names(child, (*path, name))

found = {}
for path in names(typer.main.get_command(app)):
    sys.argv = ["mtl", *path, "--help"]
    shown = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        main()
    heavy = [name for name in ("torch", "timm", "polars", "zarr", "optuna", "matplotlib") if name in sys.modules]
    found[" ".join(path)] = ["Usage" in shown.getvalue(), heavy]
print(json.dumps([found, len(imported)]))
"""


def test_help_is_quick() -> None:
    """No command's help loads what takes seconds to load; the modules of all of them are few."""
    found, num_modules = json.loads(python("-c", HELP).stdout)
    assert num_modules < 150  # outside the library of Python itself; 113 with typer 0.29
    assert {"", "demo", "init", "prepare", "finetune", "extract", "train-head", "evaluate", "cache verify"} <= set(
        found
    )
    assert {name: value for name, value in found.items() if value != [True, []]} == {}
