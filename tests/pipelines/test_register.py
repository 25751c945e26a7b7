"""A backbone's section in mtl.toml: what the user wrote stays, the section is whole."""

import fcntl
import os
import stat
import threading
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.backbones.register import register_backbone, section_for
from pipelines.config import read_config
from pipelines.project import write_project
from pipelines.sections import with_section

SECTION = {"model": "test_vit", "weights": "backbones/expr.safetensors", "tasks": ["expr"], "size_px": 64}
USERS = """\
# my project
[data]
faces = "faces"   # the crops

[backbones.va]   # made in spring
model = "test_convnext"   # small
weights = "pretrained"
licence = "research only"
mean = [0.5, 0.5, 0.5]

# about the cache
[cache]
path = "c.zarr"

[backbones.au]
model = "test_vit"
# the end
"""


def registered(folder: Path, text: str, name: str) -> str:
    path = folder / "mtl.toml"
    path.write_text(text)
    register_backbone(path, name, SECTION)
    return path.read_text()


def test_a_new_section_moves_no_line(tmp_path: Path) -> None:
    after = registered(tmp_path, USERS, "expr")
    assert after.startswith(USERS)
    assert after.removeprefix(USERS).startswith("\n[backbones.expr]\n")
    config = read_config(tmp_path / "mtl.toml")
    assert list(config.backbones) == ["va", "au", "expr"]
    assert config.backbones["expr"].size_px == 64
    assert config.backbones["expr"].tasks == ("expr",)


def test_a_section_is_replaced_in_its_place(tmp_path: Path) -> None:
    after = registered(tmp_path, USERS, "va")
    assert tomllib.loads(after)["backbones"]["va"] == SECTION | {"licence": "research only"}
    untouched = [line for line in USERS.splitlines() if not line.startswith(("model = ", "weights", "mean"))]
    positions = [after.splitlines().index(line) for line in untouched if line]
    assert positions == sorted(positions)
    assert "# small" in after
    assert list(read_config(tmp_path / "mtl.toml").backbones) == ["va", "au"]


def test_a_new_licence_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text(USERS)
    register_backbone(path, "va", SECTION | {"licence": "CC BY 4.0"})
    assert read_config(path).backbones["va"].licence == "CC BY 4.0"


def test_it_says_what_it_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text(USERS)
    assert register_backbone(path, "expr", SECTION) is None
    earlier = register_backbone(path, "va", SECTION)
    assert earlier is not None
    assert (earlier.model, earlier.weights) == ("test_convnext", "pretrained")


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    once = registered(tmp_path, USERS, "expr")
    assert registered(tmp_path, once, "expr") == once


def test_into_the_file_of_mtl_init(tmp_path: Path) -> None:
    write_project(tmp_path, "faces")
    before = (tmp_path / "mtl.toml").read_text()
    register_backbone(tmp_path / "mtl.toml", "expr", SECTION)
    assert (tmp_path / "mtl.toml").read_text().startswith(before)
    assert read_config(tmp_path / "mtl.toml").backbones["expr"].model == "test_vit"


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "[backbones]\n", "[backbones.a]\nmodel = 'x'"])
def test_into_nearly_nothing(text: str, tmp_path: Path) -> None:
    assert tomllib.loads(registered(tmp_path, text, "expr"))["backbones"]["expr"] == SECTION


def test_backbones_in_a_form_that_cannot_take_it(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text(text := 'backbones = { va = { model = "x" } }\n')
    with pytest.raises(ValueError, match=r"write it there yourself: model = \"test_vit\", weights"):
        register_backbone(path, "expr", SECTION)
    assert path.read_text() == text


def test_dotted_backbones(tmp_path: Path) -> None:
    after = registered(tmp_path, "backbones.va.model = 'x'\n", "expr")
    assert tomllib.loads(after)["backbones"] == {"va": {"model": "x"}, "expr": SECTION}


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "a.b", "ü"])
def test_a_name_that_is_no_file_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "mtl.toml").write_text(USERS)
    with pytest.raises(ValueError, match="letters, digits"):
        register_backbone(tmp_path / "mtl.toml", name, SECTION)


def test_a_broken_or_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mtl init"):
        register_backbone(tmp_path / "mtl.toml", "expr", SECTION)
    (tmp_path / "mtl.toml").write_text("[data\n")
    with pytest.raises(ValueError, match="not valid TOML"):
        register_backbone(tmp_path / "mtl.toml", "expr", SECTION)
    assert (tmp_path / "mtl.toml").read_text() == "[data\n"


def test_a_linked_file_stays_a_link_with_its_rights(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "mtl.toml"
    target.write_text(USERS)
    target.chmod(0o640)
    (tmp_path / "mtl.toml").symlink_to(target)
    register_backbone(tmp_path / "mtl.toml", "expr", SECTION)
    assert (tmp_path / "mtl.toml").is_symlink()
    assert "expr" in read_config(target).backbones
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o640


def test_it_waits_for_another_command(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text(USERS)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    second = threading.Thread(target=register_backbone, args=(path, "expr", SECTION))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert path.read_text() == USERS
    path.write_text(USERS + "[backbones.first]\nmodel = 'm'\n")  # what the other command registers meanwhile
    os.close(descriptor)
    second.join(10)
    assert list(read_config(path).backbones) == ["va", "au", "first", "expr"]
    assert sorted(tmp_path.iterdir()) == [path]  # no lock file is left


COMMENTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["va", "expr", "au", "joint"]), COMMENTS), unique_by=lambda pair: pair[0]))
def test_any_order_of_sections_and_comments(sections: list[tuple[str, str]]) -> None:
    blocks = [f"# {comment}\n[backbones.{name}] # {comment}\nmodel = 'm' # {comment}\n" for name, comment in sections]
    text = "\n[cache]\npath = 'c'\n".join(["", *blocks]) if len(blocks) < 2 else "\n".join(blocks)
    after = with_section(text, ("backbones", "expr"), lambda old: section_for(old, SECTION), "mtl.toml")
    parsed, before = tomllib.loads(after), tomllib.loads(text)
    assert parsed["backbones"].pop("expr") == SECTION
    before.get("backbones", {}).pop("expr", None)
    assert parsed["backbones"] == before.get("backbones", {})
    assert all(f"# {comment}" in after for _, comment in sections)
