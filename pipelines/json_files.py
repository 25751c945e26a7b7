"""JSON and text files that are whole or absent: the old file or the new one, never a part."""

import json
from pathlib import Path
from typing import Any

from cache.durable import write_durably
from cache.parsing import parse_json


def write_text(path: Path, text: str) -> None:
    """`text` at `path` in UTF-8, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`value` at `path` as indented JSON; a number that is not finite is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON at `path`.

    Raises:
        ValueError: the file is missing or not JSON; names it.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
