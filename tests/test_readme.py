"""The README keeps its word: its tree is the repository's, its commands exist, and its walk runs."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROOMS = ("cache", "extract", "heads", "pipelines")


def blocks(language: str = "") -> list[str]:
    """The code blocks of one language; "" means those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def tree() -> Iterator[tuple[str, str]]:
    """(path, purpose) of every line of the tree: two spaces a level."""
    text = next(block for block in blocks() if block.startswith("cache/"))
    above: list[str] = []
    for line in text.splitlines():
        indent, name, purpose = re.fullmatch(r"( *)(\S+) +(.*)", line).groups()  # type: ignore[union-attr]
        above = [*above[: len(indent) // 2], name]
        yield "".join(above), purpose


def commands() -> list[list[str]]:
    """Every `mtl ...` line of the code blocks."""
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("mtl ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_tree_is_the_repository() -> None:
    """A line per folder, and one per file where the files themselves are the subject."""
    listed = [path for path, _ in tree()]
    folders = {f"{path.parent.relative_to(ROOT)}/" for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    files = {f"{room}/{path.name}" for room in ("cache", "heads") for path in (ROOT / room).glob("[!_]*.py")}
    assert len(listed) == len(set(listed))
    assert {path for path in listed if path.startswith(ROOMS)} == folders | files
    assert all((ROOT / path).exists() for path in listed)


def test_every_command_is_in_the_readme_and_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) >= 10
    for name in names:
        assert f"mtl {name}" in README, name
        assert app([name, "--help"], standalone_mode=False) in (0, None)
        assert f"mtl {name}" in capsys.readouterr().out.split("Examples")[1]


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


@pytest.mark.slow
def test_the_walk_from_faces_to_a_leaderboard_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the README, in its order, on made faces; a small backbone in the place of the ViT."""
    monkeypatch.chdir(tmp_path)
    assert app(["demo-data", "data", "--videos", "16", "--frames", "12"], standalone_mode=False) in (0, None)
    assert len(commands()) >= 10
    aff_wild2 = ("--faces /data", "training_set_annotations.txt")
    walk = [line for line in commands() if not any(words in " ".join(line) for words in aff_wild2)]
    for line in sorted(walk, key=lambda line: line[:2] == ["cache", "rm"]):  # last: `mtl evaluate` reads the stream
        for variant in adapted(line):
            assert app(variant, standalone_mode=False) in (0, None), variant
    assert Path("studies/joint/report.html").is_file()
    rows = Path("submission.txt").read_text().splitlines()
    assert len(rows) == len(Path("data/test_list.txt").read_text().splitlines())
    assert not Path("cache.zarr/expr").exists()  # the walk ends with `mtl cache rm expr`


def adapted(line: list[str]) -> list[list[str]]:
    """The README's command on the made data: its files, a small model, four trials (of two strategies), no question."""
    names = {
        "FOLDER": "data/cropped_aligned",
        "vit_base_patch16_224": "test_vit2",
        "vit_small_patch16_224": "test_vit2",
        "cuda:0,cuda:1": "cpu,cpu",
    }
    line = [names.get(word, f"data/{word}" if word.endswith(("_set.txt", "_list.txt")) else word) for word in line]
    if line[0] == "pretrain":
        return [
            [*line, "--set", "pretrain.size_px=32", "--set", "pretrain.epochs=1", "--set", "pretrain.decoder_width=32"]
        ]
    if line[0] == "finetune" and "--init" in line:
        return [[*line, "--set", "finetune.size_px=32", "--set", "finetune.epochs=1"]]
    if line[0] == "finetune":
        small = ["--init", "random", "--set", "finetune.size_px=32", "--set", "finetune.epochs=1"]
        return [[task if word == "expr" else word for word in line] + small for task in ("expr", "va", "au")]
    if line[0] in ("train-head", "search"):
        line += ["--set", "train.steps=4", "--set", "head.width=16"] + (["--limit", "4"] if line[0] == "search" else [])
    return [[*line, "--yes"] if line[:2] == ["cache", "rm"] else line]


def test_the_python_of_the_readme_is_valid() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_make_knows_the_readmes_commands() -> None:
    for target in ("demo", "test"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"make {target}" in README
