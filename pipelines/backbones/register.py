"""A trained backbone's section in mtl.toml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.valid_names import check_name
from extract.config import BackboneConfig
from pipelines.sections import write_section

# Keys of an earlier section that speak of the user's rights: they stay where the new weights bring none of their own.
KEPT_KEYS = ("licence",)


def check_section_name(name: str) -> None:
    """Raises `ValueError` unless `name` can be a section, a stream and a file name at once."""
    check_name(name, "--name", is_section=True)


def register_backbone(path: Path, name: str, section: Mapping[str, Any]) -> BackboneConfig | None:
    """Writes `section` as [backbones.NAME] into the mtl.toml at `path`, whole or not at all.

    Returns:
        The section of that name that was replaced, or None.

    Raises:
        ValueError: the file is missing, not a valid mtl.toml, or holds its backbones in a form that cannot be edited.
    """
    check_section_name(name)
    before = write_section(path, ("backbones", name), lambda old: section_for(old, section))
    return before.backbones.get(name)


def section_for(old: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """`section` with what is kept of the one that it replaces."""
    return {**section, **{key: old[key] for key in KEPT_KEYS if key in old and key not in section}}
