"""Texts that people write: byte order marks and depth, in every reader of TOML and JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.parsing import parse_json, parse_toml
from extract.backbones.rename import read_rules
from pipelines.config import read_config
from pipelines.json_files import read_json
from pipelines.search.grid import read_grid

DEPTH = 100_000
READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "mtl.toml": (read_config, "[train]\nsteps = 7\n"),
    "grid.toml": (read_grid, "[product]\nseed = [0]\n"),
    "rules.toml": (lambda path: read_rules(str(path)), "drop = ['x']\n"),
    "run.json": (read_json, '{"a": 1}\n'),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str) -> None:
    read, text = READERS[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    plain = read(path)
    path.write_text(text, encoding="utf-8-sig")
    marked = read(path)
    assert getattr(marked, "product", marked) == getattr(plain, "product", plain)


@pytest.mark.parametrize("name", READERS)
def test_depth_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    nested = "[" * DEPTH + "]" * DEPTH
    path.write_text(nested if name.endswith("json") else f"a = {nested}\n")
    with pytest.raises(ValueError, match="nested too deeply") as caught:
        READERS[name][0](path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_of_a_value() -> None:
    for parse in (parse_json, lambda text: parse_toml(f"a = {text}")):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse("[" * DEPTH)
