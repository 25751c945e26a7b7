"""A section of mtl.toml written beside what the user wrote, comments and order kept.

A new section goes to the end of the file as text, so that no line of the user's moves; one that is there already is
changed in its place.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from cache.locks import in_turn
from cache.parsing import MARK, parse_toml
from pipelines.config import Config, parse_config
from pipelines.json_files import write_text

Change = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def write_section(path: Path, keys: Sequence[str], change: Change) -> Config:
    """Writes the section [KEY.KEY] into the mtl.toml at `path`, whole or not at all: what `change` makes of the one
    that is there, or of nothing. Two commands that write at once follow each other: neither loses the other's section.

    Returns:
        The configuration before.

    Raises:
        ValueError: the file is missing, not a valid mtl.toml, or holds the section in a form that cannot be edited.
    """
    path = path.resolve()  # a linked mtl.toml stays a link
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `mtl init` writes one")
    with in_turn(path.parent):
        text = path.read_text(encoding="utf-8").removeprefix(MARK)
        before = parse_config(_parse(text, path), path.parent, str(path))
        after = with_section(text, keys, change, str(path))
        mode = path.stat().st_mode
        write_text(path, after)
        path.chmod(mode)
    return before


def with_section(text: str, keys: Sequence[str], change: Change, where: str) -> str:
    """The TOML `text` with the section changed; all else in it reads as before.

    Raises:
        ValueError: the section is written in a form (an inline table, say) that cannot be edited.
    """
    document = tomllib.loads(text)
    old = _at(document, keys)
    section = change(old or {})
    wanted = _with(document, keys, section)
    try:
        result = _appended(text, keys, section) if old is None else _edited(text, keys, section)
        understood = tomllib.loads(result) == wanted
    except (tomllib.TOMLDecodeError, TOMLKitError):
        understood = False
    if not understood:
        entry = ", ".join(f"{key} = {tomlkit.item(value).as_string()}" for key, value in section.items())
        raise ValueError(f"{where}: [{'.'.join(keys)}] cannot be written into it; write it there yourself: {entry}")
    return result


def _at(document: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any] | None:
    for key in keys:
        document = document.get(key)  # type: ignore[assignment]
        if document is None:
            return None
    return document


def _with(document: Mapping[str, Any], keys: Sequence[str], section: Mapping[str, Any]) -> dict[str, Any]:
    first, *rest = keys
    inner = _with(document.get(first, {}), rest, section) if rest else dict(section)
    return {**document, first: inner}


def _appended(text: str, keys: Sequence[str], section: Mapping[str, Any]) -> str:
    lines = [f"{key} = {tomlkit.item(value).as_string()}" for key, value in section.items()]
    head = text.rstrip("\n")
    return "\n".join([*([head, ""] if head else []), f"[{'.'.join(keys)}]", *lines, ""])


def _edited(text: str, keys: Sequence[str], section: Mapping[str, Any]) -> str:
    document = tomlkit.parse(text)
    table: Any = document
    for key in keys:
        table = table[key]
    for key in [key for key in table if key not in section]:
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
