"""README.md and docs/ agree with the program: tree, links, commands, code blocks and tables of keys.

Their commands run in the order in which a reader meets them: README first, then the pages as README links them.
"""

import dataclasses
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from cache.frames import dtypes_of
from cache.labels import ABAW, GROUP_KEYS, KINDS, SCHEMA_KEYS, SCHEMAS, SCORES
from extract.backbones.rename import read_rules
from extract.config import BackboneConfig
from heads.ranges import hints_of
from helpers import drawn_videos
from pipelines.cli import app
from pipelines.config import SECTIONS, FaceSetConfig, parse_config
from pipelines.folds import Fold
from pipelines.search.grid import SECTIONS as GRID_SECTIONS
from pipelines.search.grid import StudyConfig, parse_grid
from pipelines.task_fields import TASK_FIELDS
from pipelines.typed import describe

ROOT = Path(__file__).resolve().parents[1]
README, CHANGELOG = ROOT / "README.md", ROOT / "CHANGELOG.md"
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[[^\]\n]+\]\(([^)\s]+)\)")
PAGES = [README, *dict.fromkeys(ROOT / page for page in LINK.findall(README.read_text("utf-8")) if page[:5] == "docs/")]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
EVERYTHING = "\n".join(TEXTS.values())
PACKAGES = ("cache", "extract", "heads", "pipelines")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
BACKBONE, FACE_SET, STUDY = "[backbones.NAME]", "[[finetune.data]]", "[study]"
KEYS: dict[str, type] = {
    **{f"[{name}]": config for name, config in SECTIONS.items()},
    BACKBONE: BackboneConfig,
    FACE_SET: FaceSetConfig,
    STUDY: StudyConfig,
}


def blocks(text: str, language: str = "") -> list[str]:
    """The code blocks of one language; "" means those that name none."""
    return [block for name, block in FENCED.findall(text) if name == language]


def prose(text: str) -> str:
    """`text` without its code blocks."""
    return FENCED.sub("", text)


def tree() -> Iterator[str]:
    """The path of every line of README's tree: two spaces a level."""
    above: list[str] = []
    for line in next(block for block in blocks(TEXTS["README.md"]) if block.startswith("cache/")).splitlines():
        indent, name = re.fullmatch(r"( *)(\S+) +\S.*", line).groups()  # type: ignore[union-attr]
        above = [*above[: len(indent) // 2], name]
        yield "".join(above)


def commands(text: str) -> list[list[str]]:
    """Every `mtl ...` line of the code blocks."""
    lines = [line for block in blocks(text) for line in block.splitlines() if line.startswith("mtl ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = text.partition(f"# {heading}\n")[2]
    rows = re.search(r"^\|(?:.*\n)+?(?!\|)", below, flags=re.MULTILINE)
    assert rows, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[0].splitlines()[2:]]


def test_the_tree_is_the_repository() -> None:
    """A line per folder, and one per file where the files themselves are the subject."""
    listed = list(tree())
    folders = {f"{path.parent.relative_to(ROOT)}/" for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")}
    files = {f"{name}/{path.name}" for name in ("cache", "heads") for path in (ROOT / name).glob("[!_]*.py")}
    assert len(listed) == len(set(listed))
    assert {path for path in listed if path.startswith(PACKAGES)} == folders | files
    assert all((ROOT / path).exists() for path in listed)


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("name", [*TEXTS, CHANGELOG.name])
def test_lines_have_at_most_120_characters(name: str) -> None:
    """But rows of tables, which cannot be broken."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("| ")]


def test_the_readme_links_every_page() -> None:
    assert set(PAGES) == {README, *(ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_pictures_are_there(name: str) -> None:
    folder = (ROOT / name).parent
    for target in [*LINK.findall(prose(TEXTS[name])), *PICTURE.findall(TEXTS[name])]:
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            page = (folder / path).resolve() if path else ROOT / name
            assert page.is_file(), target
            assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


def test_every_command_is_described_and_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) >= 10
    for name in names:
        assert f"mtl {name}" in EVERYTHING, name
        assert app([name, "--help"], standalone_mode=False) in (0, None)
        assert f"mtl {name}" in capsys.readouterr().out.split("Examples")[1]


def test_commands_in_the_prose_have_the_options_they_are_named_with() -> None:
    program, found = typer.main.get_command(app), re.findall(r"`mtl ([^`]+)`", prose(EVERYTHING))
    assert len(found) > 20
    for line in found:
        command: Any = program
        words = line.replace("|", " ").split()
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= options, line


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and Python block, in order, on synthetic faces; a small backbone in place of the ViT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(drawn_videos.install(tmp_path / "packages"))
    drawn_videos.write_video(Path("clip.mp4"), [drawn_videos.moving(number) for number in range(20)])
    run(["demo-data", "data", "--videos", "16", "--frames", "12"])
    removal = ["cache", "rm", "expr"]
    for name, text in TEXTS.items():
        assert name != "README.md" or len(commands(text)) >= 10
        for line in commands(text):
            if line != removal:
                run(adapted(line))
        for block in blocks(text, "python"):
            exec(compile(block, name, "exec"), inputs_of_a_head())
        if name == "README.md":
            rows = Path("submission.txt").read_text().splitlines()
            assert len(rows) == len(Path("data/test_list.txt").read_text().splitlines())
            assert Path("studies/joint/report.html").is_file()
    assert removal in commands(EVERYTHING)  # last: other commands read the stream
    run([*removal, "--yes"])
    assert not Path("cache.zarr/expr").exists()


def run(line: list[str]) -> None:
    assert app(line, standalone_mode=False) in (0, None), line


def inputs_of_a_head() -> dict[str, Any]:
    """What the block about a head calls it with."""
    return {
        "streams": {name: torch.zeros(1, 2, 3, 768) for name in ("expr", "va")},
        "valid": torch.ones(1, 2, 3, dtype=torch.bool),
        "times": torch.arange(3).expand(1, 2, 3),
    }


def adapted(line: list[str]) -> list[str]:
    """A command on the synthetic data: its files, a small model, four trials (of two strategies)."""
    names = {
        "FOLDER": "data/cropped_aligned",
        "training_set_annotations.txt": "data/train_set.txt",
        "validation_set_annotations.txt": "data/val_set.txt",
        "test_list.txt": "data/test_list.txt",
        "cropped_aligned": "data/cropped_aligned",
        "vit_base_patch16_224": "test_vit2",
        "vit_small_patch16_224": "test_vit2",
        "cuda:0,cuda:1": "cpu,cpu",
    }
    line = [names.get(word, word) for word in line]
    if line[0] in ("predict", "live") and "clip.mp4" in line:
        line += ["--set", "faces.detector=drawn"]
    if line[0] == "align":
        line += ["--set", f"faces.detector=drawn{':whole' if '--like' in line else ''}"]
    if line[0] == "pretrain":
        line += ["--set", "pretrain.size_px=32", "--set", "pretrain.epochs=1", "--set", "pretrain.decoder_width=32"]
    if line[0] == "finetune":
        line += ["--set", "finetune.size_px=32", "--set", "finetune.epochs=1"]
        line += [] if "--init" in line else ["--init", "random"]
    if line[0] in ("train-head", "search"):
        line += ["--set", "train.steps=4", "--set", "head.width=16"]
    return [*line, "--limit", "4"] if line[0] == "search" else line


@pytest.mark.parametrize("name", TEXTS)
def test_blocks_of_toml_are_read(name: str) -> None:
    for block in blocks(TEXTS[name], "toml"):
        document = tomllib.loads(block)
        if "rename" in document:
            read_rules(block)
        elif set(document) <= set(GRID_SECTIONS):
            parse_grid(document, Path(name))
        else:
            parse_config(document, Path(), name)


@pytest.mark.parametrize("heading", KEYS)
def test_tables_of_keys_are_those_of_the_configuration(heading: str) -> None:
    hints = hints_of(KEYS[heading])
    expected = [
        [f"`{field.name}`", default_words(field), values_words(hints[field.name])]
        for field in dataclasses.fields(KEYS[heading])
    ]
    rows = table(TEXTS["docs/configuration.md"], heading)
    assert [row[:3] for row in rows] == expected
    assert all(len(row) == 4 and row[3] for row in rows)


@pytest.mark.parametrize(("heading", "keys"), [("[labels]", SCHEMA_KEYS), ("[[labels.groups]]", GROUP_KEYS)])
def test_tables_of_keys_of_labels(heading: str, keys: tuple[str, ...]) -> None:
    rows = table(TEXTS["docs/configuration.md"], heading)
    assert [row[0] for row in rows] == [f"`{key}`" for key in keys]
    for row in rows:
        if row[0] == "`score`":
            assert re.findall(r'"(\w+)"', row[2]) == [score for kind in KINDS for score in SCORES[kind]]
    assert all(len(row) == 4 and row[3] for row in rows)


def test_the_table_of_values_by_task() -> None:
    rows = table(TEXTS["docs/configuration.md"], "[task.NAME]")
    hints = {f"`[{name}]`": hints_of(SECTIONS[name]) for name in ("head", "train")}
    named = [(section, key) for keys, section in rows for key in re.findall(r"`(\w+)`", keys)]
    assert [key for _, key in named] == list(TASK_FIELDS)
    assert all(key in hints[section] for section, key in named)


def test_the_table_of_schemas_has_those_that_ship() -> None:
    rows = table(TEXTS["docs/data.md"], "Label schemas")
    groups = {name: re.findall(r"`(\w+)`", words) for name, words in rows}
    assert groups == {
        f"`{schema.name}`{' (default)' * (schema is ABAW)}": list(schema.names) for schema in SCHEMAS.values()
    }


def default_words(field: "dataclasses.Field[Any]") -> str:
    if field.default is dataclasses.MISSING:
        return (
            "required" if field.default_factory is dataclasses.MISSING else f"`{json.dumps(field.default_factory())}`"
        )
    value = str(field.default) if isinstance(field.default, Path | Fold) else field.default
    return "unset" if value is None else f"`{json.dumps(value)}`"


def values_words(annotation: Any) -> str:
    """What errors say is expected, shortened: without articles and upper bounds of six digits and more."""
    words = re.sub(r"\bone of |\ba (?=fold|list|number|path|section|text|whole)", "", describe(annotation))
    words = re.sub(r" and at most \d{6,}", "", re.sub(r"from (\S+) to \d{6,}", r"at least \1", words))
    return re.sub(r"'([^']*)'", r'`"\1"`', words)


def test_the_table_of_the_frames_table_has_its_columns() -> None:
    rows = table(TEXTS["docs/data.md"], "The frames table")
    types = {"str": "String", "i64": "Int64", "i8": "Int8", "f32": "Float32"}
    columns = {column: types[row[1]] for row in rows for column in re.findall(r"`(\w+)`", row[0])}
    assert columns == {name: str(dtype) for name, dtype in dtypes_of(ABAW).items()}


def test_extras_and_make_targets_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"mtl-affect\[(\w+)\]", EVERYTHING))
    assert extras <= set(project["optional-dependencies"])
    assert extras
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", EVERYTHING, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
