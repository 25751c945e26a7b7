"""TOML and JSON that people write: any start of a file, any depth, one line where it cannot be read."""

import json
import tomllib
from typing import Any

MARK = "\ufeff"  # a byte order mark, which some editors put before a text


def parse_toml(text: str) -> dict[str, Any]:
    """The TOML `text`.

    Raises:
        ValueError: it is not TOML, or nested too deeply.
    """
    try:
        return tomllib.loads(text.removeprefix(MARK))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_json(text: str) -> Any:
    """The JSON `text`.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text.removeprefix(MARK))
    except RecursionError:
        raise ValueError("nested too deeply") from None
