"""Names go through one rule, in every command and file that takes one; a path is taken as it is, never as a pattern."""

import ast
import contextlib
import inspect
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from helpers.cli import refused, typed
from helpers.made_project import make
from pipelines.json_files import read_json

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cache", "extract", "heads", "pipelines")
# Absolute, above, beside, hidden, options, patterns, control signs, empty parts, devices, too long.
NAMES = ["../x", "../../x", "/tmp/x", "a/b", "..", ".x", "-x", "r[1]", "*", "a b", "a\nb", "x.", "con", "x" * 101]
FINETUNE = ["finetune", "--task", "expr", "--model", "test_vit2", "--init", "random"]
COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "train-head": lambda name: ["train-head", f"--name={name}"],
    "train-head --force": lambda name: ["train-head", "--force", f"--name={name}"],
    "ensemble": lambda name: ["ensemble", "runs/r1", "runs/r2", f"--name={name}"],
    "ensemble --force": lambda name: ["ensemble", "runs/r1", "runs/r2", "--force", f"--name={name}"],
    "finetune": lambda name: [*FINETUNE, f"--name={name}"],
    "finetune --restart": lambda name: [*FINETUNE, "--restart", f"--name={name}"],
    "finetune --dry-run": lambda name: [*FINETUNE, "--dry-run", f"--name={name}"],
    "pretrain": lambda name: ["pretrain", "--model", "test_vit2", f"--name={name}"],
    "pretrain --restart": lambda name: ["pretrain", "--model", "test_vit2", "--restart", f"--name={name}"],
    "pretrain --dry-run": lambda name: ["pretrain", "--model", "test_vit2", "--dry-run", f"--name={name}"],
    "refit": lambda name: ["refit", "runs/r1", f"--name={name}"],
    "refit --force": lambda name: ["refit", "runs/r1", "--force", f"--name={name}"],
    "backbones add": lambda name: ["backbones", "add", "dinov2-b", f"--name={name}"],
    "backbones add --force": lambda name: ["backbones", "add", "dinov2-b", "--force", f"--name={name}"],
    "backbones show": lambda name: ["backbones", "show", "--", name],
    "init --recipe": lambda name: ["init", "--force", f"--recipe={name}"],
    "cache import": lambda name: ["cache", "import", "--", name, "e.npy"],
    "cache import --view": lambda name: ["cache", "import", "x", "e.npy", f"--view={name}"],
    "cache rm": lambda name: ["cache", "rm", "--yes", "--", name],
    "cache info": lambda name: ["cache", "info", "--", name],
    "cache verify": lambda name: ["cache", "verify", "--", name],
    "cache export": lambda name: ["cache", "export", "--to", "e.h5", "--", name],
    "extract": lambda name: ["extract", f"--backbone={name}"],
    "extract --views": lambda name: ["extract", f"--views={name}"],
    "streams": lambda name: ["train-head", f"--streams={name}"],
    "set": lambda name: ["train-head", "--set", f"backbones.{name}.model=test_vit"],
}
TOML = """
[head]
width = 8
depth = 1
[train]
window = 16
batch_windows = 4
steps = 2
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two runs and an embedding file to import."""
    folder = tmp_path_factory.mktemp("kept") / "work"
    folder.mkdir()
    made = make(num_frames=20)
    made.write(folder)
    made.frames.select("video", "frame").write_parquet(folder / "e.parquet")
    np.save(folder / "e.npy", made.streams["va"])
    text = (folder / "mtl.toml").read_text()
    (folder / "mtl.toml").write_text(TOML + text[text.index("[backbones") :])
    with contextlib.chdir(folder):
        for name in ("r1", "r2"):
            assert typed("train-head", "--name", name, "--seed", name[-1]).code == 0
    return folder


@pytest.fixture
def work(kept: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, typed in, with a folder beside and above."""
    folder = tmp_path / "above" / "work"
    shutil.copytree(kept, folder)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "precious").write_text("mine")
    (tmp_path / "above" / "x").mkdir()
    with contextlib.chdir(folder):
        yield folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, but for locks."""
    paths = [path for path in sorted(folder.rglob("*")) if not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_hostile_names(command: str, work: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    for name in NAMES:
        if command == "set" and any(sign in name for sign in ".\n"):  # other keys than the one meant
            continue
        code, _, err = typed(*COMMANDS[command](name))
        assert code == 2, name
        assert err.startswith("mtl: error: ") or "Invalid value" in err, (name, err)
        assert contents(tmp_path) == before, name


def test_every_option_that_takes_a_name_is_among_them() -> None:
    """A new command with --name, or an argument NAME, has to be tried above."""
    from typer.main import get_command

    from pipelines.cli import app

    group = get_command(app)
    found = set()
    for name, command in [(n, c) for n, c in group.commands.items()] + [  # type: ignore[attr-defined]
        (f"{outer} {n}", c)
        for outer in ("backbones", "cache")
        for n, c in group.commands[outer].commands.items()  # type: ignore[attr-defined]
    ]:
        if {parameter.name for parameter in getattr(command, "params", ())} & {"name", "names"}:
            found.add(name)
    reading = {"compare", "predict", "submit"}  # their names are ranks, or folders that are there
    assert found - reading <= set(COMMANDS)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("..",)])
def test_a_study_is_named_by_its_grid(name: str, work: Path, tmp_path: Path) -> None:
    escaped = name.replace("\n", "\\n")
    (work / "g.toml").write_text(f'[study]\nname = "{escaped}"\n[product]\nseed = [0]\n')
    before = contents(tmp_path)
    code, _, err = typed("search", "--grid", "g.toml")
    assert code == 2
    assert "name" in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["g[1]", "a b", "x" * 101])
def test_a_grids_file_that_can_name_no_study(name: str, work: Path) -> None:
    (work / f"{name}.toml").write_text("[product]\nseed = [0]\n")
    code, _, err = typed("search", "--grid", f"{name}.toml")
    assert code == 2
    assert "--study" in err
    assert typed("search", "--grid", f"{name}.toml", "--study", "s").code == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_of_the_configuration(name: str, work: Path) -> None:
    escaped = name.replace("\n", "\\n")
    with (work / "mtl.toml").open("a") as file:
        file.write(f'\n[backbones."{escaped}"]\nmodel = "test_vit"\n')
    before = contents(work.parents[1])
    assert refused("extract").startswith("mtl: error: mtl.toml: ")
    assert contents(work.parents[1]) == before


@pytest.mark.parametrize("folder", ["exp[1]", "exp*", "exp?", "e{a,b}[!x]*?"])
def test_a_whole_project_in_a_folder_whose_name_is_a_pattern(folder: str, kept: Path, tmp_path: Path) -> None:
    """Beside it lies what the pattern would find: another project, with other labels and runs."""
    odd, decoy = tmp_path / folder, tmp_path / "exp1"
    shutil.copytree(kept, odd)
    shutil.copytree(kept, decoy)
    for path in decoy.rglob("*.parquet"):
        pl.DataFrame({"wrong": [1]}).write_parquet(path)
    before = contents(decoy)
    (odd / "grid.toml").write_text("[product]\nseed = [0, 1]\n")
    with contextlib.chdir(tmp_path):
        config = ["--config", str(odd / "mtl.toml")]
        for arguments in (
            ["train-head", "--name", "r3"],
            ["evaluate", str(odd / "runs" / "r3"), "--split", "val"],
            ["postprocess", str(odd / "runs" / "r3")],
            ["evaluate", "r3", "--split", "val", "--post"],
            ["search", "--grid", str(odd / "grid.toml")],
            ["compare", "r1", "r2"],
            ["ensemble", "r1", "r2"],
            ["ensemble", "grid", "--force"],
            ["cache", "export", "va", "--to", str(odd / "va.parquet")],
            ["cache", "export", "va", "--to", str(odd / "va.npy"), "--force"],
            ["cache", "import", "again", str(odd / "va.npy")],
            ["cache", "export", "au", "--to", str(odd / "au.parquet")],
            ["cache", "import", "more", str(odd / "au.parquet")],
            ["cache", "export", "au", "--to", str(odd / "per"), "--per-video"],
            ["cache", "import", "third", str(odd / "per")],
            ["cache", "verify"],
            ["cache", "rm", "more", "--yes"],
        ):
            code, _, err = typed(*arguments, *config)
            assert code == 0, (arguments, err)
    assert read_json(odd / "runs" / "r3" / "postprocess.json")["name"] == "r3"
    assert contents(decoy) == before


def test_a_run_whose_name_is_a_pattern_is_read_as_itself(work: Path) -> None:
    """Copied there by hand, beside the run that the pattern would find."""
    shutil.copytree("runs/r2", "runs/r[1]")
    before = contents(work / "runs" / "r1")
    assert typed("postprocess", "r[1]").code == 0
    assert contents(work / "runs" / "r1") == before
    assert Path("runs/r[1]/postprocess.json").is_file()


@cache
def _calls() -> list[tuple[str, int, str, ast.Call]]:
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return [
        (str(path.relative_to(ROOT)), node.lineno, node.func.attr, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def test_no_reader_takes_a_path_for_a_pattern() -> None:
    """Every reader of Polars that knows patterns is told that there are none."""
    readers = {name for name in dir(pl) if name.startswith(("read_", "scan_"))}
    globbing = {name for name in readers if "glob" in inspect.signature(getattr(pl, name)).parameters}
    assert {"read_parquet", "scan_parquet", "read_csv", "scan_csv"} <= globbing
    wrong = [
        f"{path}:{line} {name}"
        for path, line, name, call in _calls()
        if name in globbing | {"read_parquet_schema"}  # which has no way to say so
        and isinstance(call.func.value, ast.Name)  # type: ignore[attr-defined]
        and call.func.value.id in ("pl", "polars")  # type: ignore[attr-defined]
        and not any(
            word.arg == "glob" and isinstance(word.value, ast.Constant) and word.value.value is False
            for word in call.keywords
        )
    ]
    assert not wrong


def test_no_glob_is_made_of_a_users_name() -> None:
    """`Path.glob` and `rglob` see constants and our own constants' names, never a name or path that was given."""
    known = {"f'{TEMPORARY}*'", "f'*/*/{EMBEDDING}/zarr.json'", "f'{path.name}.*.partial'", "f'*{suffix}'"}
    wrong = [
        f"{path}:{line} {ast.unparse(call.args[0])}"
        for path, line, name, call in _calls()
        if name in ("glob", "rglob", "iglob")
        and not isinstance(call.args[0], ast.Constant)
        and ast.unparse(call.args[0]) not in known
    ]
    assert not wrong
