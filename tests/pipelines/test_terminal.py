"""What reaches a terminal, a pipe or a log: text as it is, nothing a terminal obeys, in every encoding."""

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from helpers.processes import environment, python
from pipelines import cli, terminal
from pipelines.config import Config
from pipelines.progress import Bar, Lines, progress, total_of
from pipelines.terminal import CONTROLS, make_console, say, say_progress, set_quiet, visible

PACKAGE = Path(cli.__file__).parents[1]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(terminal._State, "last_s", float("-inf"))
    monkeypatch.setattr(terminal._State, "held", "")
    yield
    set_quiet(False)


def shown(*objects: object, width: int = 200) -> str:
    console = make_console(width=width)
    console.file = io.StringIO()
    console.print(*objects)
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["[/]", "tcn[lr=0.01]", "[bold]x[/bold]", "a[red]", ":smile:", "\\[x]"])
def test_names_are_no_markup_wherever_they_are_printed(name: str) -> None:
    table = Table(title=f"title {name}")
    table.add_column(f"head {name}")
    table.add_row(f"cell {name}")
    table.add_row(Text(f"text {name}"))
    found = shown(f"line {name}", table)
    assert all(f"{place} {name}" in found for place in ("line", "title", "head", "cell", "text"))


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(name: str) -> None:
    for found in (visible(name), shown(name), shown(Text(name))):
        assert not CONTROLS.search(found)


def test_escape_sequences_and_broken_names_are_shown_written_out() -> None:
    assert visible("\x1b[31mred\x9b \u202e \udc80 é") == "\\x1b[31mred\\x9b \\u202e \\udc80 é"


def test_all_printing_goes_through_one_place() -> None:
    """A new command that prints by itself would bring markup, escapes and encodings back."""
    pattern = re.compile(r"typer\.(echo|secho)\(|(?<![\w.])(print|Console)\(|from_markup|markup=True")
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name not in ("terminal.py",):
            found = [line for line in file.read_text().splitlines() if pattern.search(line)]
            assert not found, f"{file.relative_to(PACKAGE)}: use pipelines.terminal: {found}"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_says_something(encoding: str) -> None:
    code = (
        "from pipelines.terminal import *; soften_encodings(); say('0.5 – ≥ ± → γ é \\u4e2d');"
        "say('≥', err=True); make_console().print('–')"
    )
    done = python("-c", code, env=environment(PYTHONIOENCODING=encoding), encoding=encoding)
    assert done.stdout.startswith("0.5 - >= +" if encoding == "ascii" else "0.5 ")
    assert ("\\u4e2d" in done.stdout) == (encoding != "utf-8")
    assert done.stderr.strip() in (">=", "≥")


def test_short_work_shows_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("extract va", 10, "faces") as advance:
        advance(10)
    say("done")
    assert capsys.readouterr().err == ""


def test_off_a_terminal_a_line_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.SHORT_S", 0.0)
    with progress("extract va", 10, "faces") as advance:
        for _ in range(10):
            advance(1)
    say("done")
    captured = capsys.readouterr()
    first, last = captured.err.splitlines()  # a fast loop: one line at once, the last before the next thing printed
    assert first.startswith("extract va: 1 of 10 faces (10 %), ")
    assert last.startswith("extract va: 10 of 10 faces (100 %), ")
    assert captured.out == "done\n"


def test_the_last_line_is_shown_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipelines.progress.SHORT_S", 0.0)
    monkeypatch.setattr("pipelines.terminal.LINE_SECONDS", 0.0)
    with progress("search", 2, "trials") as advance:
        advance(1)
        advance(1)
    say("done")
    assert [line[:14] for line in capsys.readouterr().err.splitlines()] == ["search: 1 of 2", "search: 2 of 2"]


def test_a_line_has_rate_and_time_left() -> None:
    lines = Lines("x", 100, "rows", done=20)
    lines._began_s, lines._done = 0.0, 40
    lines.note("best P 1.234")
    assert lines.line(10.0) == "x: 40 of 100 rows (40 %), 2.0 rows/s, 30 s left, best P 1.234"
    lines._done = 100
    assert lines.line(40.0) == "x: 100 of 100 rows (100 %), 2.0 rows/s, 40 s, best P 1.234"
    assert lines.line(400.0) == "x: 100 of 100 rows (100 %), 12.0 rows/min, 6 min 40 s, best P 1.234"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 80 columns, on which bars are drawn."""
    console = Console(width=80, height=24, force_terminal=True, color_system=None, file=io.StringIO(), _environ={})
    monkeypatch.setattr("pipelines.progress.make_console", lambda **options: console)
    return console


@pytest.mark.parametrize("title", ["extract 12 streams", "Verifying hsemotion-b0-scores/crop0.9"])
def test_a_bar_in_80_columns_has_rate_and_time_left(screen: Console, title: str) -> None:
    with progress(title, 1_000_000, "faces") as advance:
        for _ in range(3):
            advance(10_000)
            time.sleep(0.01)
        assert isinstance(advance, Bar)
        screen.file = io.StringIO()
        advance._bar.refresh()
        drawn = screen.file.getvalue()
    assert re.search(rf"{re.escape(title)} .*30000/1000000 [\d,.]+ faces/s \d:\d\d:\d\d", drawn), drawn


@pytest.mark.parametrize("total", [None, 30])
def test_a_total_that_is_unknown_or_too_low_is_left_out(total: int | None) -> None:
    lines = Lines("x", total, "frames")
    lines._began_s, lines._done = 0.0, 40
    assert lines.line(10.0) == "x: 40 frames, 4.0 frames/s, 10 s"
    assert (total_of([3, None]), total_of([3, 4])) == (None, 7)


def test_quiet_silences_progress_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(True)
    with progress("extract va", 10, "faces") as advance:
        advance(10)
    say_progress("x", last=True)
    say("result")
    say("warning", err=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "warning\n")


def commands() -> dict[str, object]:
    root = get_command(cli.app)
    found = dict(root.commands)  # type: ignore[attr-defined]
    for group in ("cache", "backbones"):
        nested = found.pop(group)
        found |= {f"{group} {name}": each for name, each in nested.commands.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_takes_quiet_and_loses_no_word_of_its_help(name: str) -> None:
    command = commands()[name]
    result = CliRunner().invoke(cli.app, [*name.split(), "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert "--quiet" in result.output
    flat = re.sub(r"[\s│]+", "", result.output)
    texts = [str(command.help).replace("\\[", "["), *(getattr(param, "help", None) for param in command.params)]  # type: ignore[attr-defined]
    for bracketed in re.findall(r"\[{1,2}[a-z.]+\]{1,2}", " ".join(filter(None, texts))):
        assert bracketed in flat, f"mtl {name} --help loses {bracketed}"


def test_version_names_all_that_a_report_needs() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"mtl-affect \S+, Python 3\.\d+\.\d+, torch \S+\n", result.output)


def test_the_home_folder_in_mtl_toml_and_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Config(folder=Path("p")).at("~/faces") == tmp_path / "faces"
    (tmp_path / "mtl.toml").write_text('[cache]\npath = "~/c.zarr"\n')
    result = CliRunner().invoke(cli.app, ["cache", "ls", "--config", "~/mtl.toml"])
    assert str(tmp_path / "c.zarr") in str(result.exception or result.output)


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli._say_warning(UserWarning("no worker: waiting"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "mtl: warning: no worker: waiting\n"
