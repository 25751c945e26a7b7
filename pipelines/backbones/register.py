"""A trained backbone's section in mtl.toml: written beside what the user wrote, comments and order kept.

A new section goes to the end of the file as text, so that no line of the user's moves; a section of that name that is
there already is changed in its place.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from cache.locks import in_turn
from cache.parsing import MARK, parse_toml
from cache.valid_names import check_name
from extract.config import BackboneConfig
from pipelines.config import parse_config
from pipelines.json_files import write_text

# Keys of an earlier section that speak of the user's rights: they stay where the new weights bring none of their own.
KEPT_KEYS = ("licence",)


def check_section_name(name: str) -> None:
    """Raises `ValueError` unless `name` can be a section, a stream and a file name at once."""
    check_name(name, "--name", is_section=True)


def register_backbone(path: Path, name: str, section: Mapping[str, Any]) -> BackboneConfig | None:
    """Writes `section` as [backbones.NAME] into the mtl.toml at `path`, whole or not at all.

    Two commands that register at once follow each other: neither loses the other's section.

    Returns:
        The section of that name that was replaced, or None.

    Raises:
        ValueError: the file is missing, not a valid mtl.toml, or holds its backbones in a form that cannot be edited.
    """
    check_section_name(name)
    path = path.resolve()  # a linked mtl.toml stays a link
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `mtl init` writes one")
    with in_turn(path.parent):
        text = path.read_text(encoding="utf-8").removeprefix(MARK)
        before = parse_config(_parse(text, path), path.parent, str(path)).backbones.get(name)
        after = with_section(text, name, section, str(path))
        mode = path.stat().st_mode
        write_text(path, after)
        path.chmod(mode)
    return before


def with_section(text: str, name: str, section: Mapping[str, Any], where: str) -> str:
    """The TOML `text` with the section [backbones.NAME]; all else in it reads as before.

    Raises:
        ValueError: the backbones are written in a form (an inline table, say) into which the section does not go.
    """
    document = tomllib.loads(text)
    old = document.get("backbones", {}).get(name)
    kept = {key: old[key] for key in KEPT_KEYS if key in old and key not in section} if old else {}
    wanted = document | {"backbones": document.get("backbones", {}) | {name: {**section, **kept}}}
    try:
        result = _appended(text, name, section) if old is None else _edited(text, name, section)
        understood = tomllib.loads(result) == wanted
    except (tomllib.TOMLDecodeError, TOMLKitError):
        understood = False
    if not understood:
        entry = ", ".join(f"{key} = {tomlkit.item(value).as_string()}" for key, value in section.items())
        raise ValueError(f"{where}: [backbones.{name}] cannot be written into it; write it there yourself: {entry}")
    return result


def _appended(text: str, name: str, section: Mapping[str, Any]) -> str:
    lines = [f"{key} = {tomlkit.item(value).as_string()}" for key, value in section.items()]
    head = text.rstrip("\n")
    return "\n".join([*([head, ""] if head else []), f"[backbones.{name}]", *lines, ""])


def _edited(text: str, name: str, section: Mapping[str, Any]) -> str:
    document = tomlkit.parse(text)
    backbones: Any = document["backbones"]
    table = backbones[name]
    for key in [key for key in table if key not in section and key not in KEPT_KEYS]:
        del table[key]
    for key, value in section.items():
        if key not in table or table[key] != value:
            table[key] = value
    return tomlkit.dumps(document)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
