"""Names of views and what they stand for; needs no torch, unlike `extract.views`, which makes them.

`base` is the face itself, `hflip` its mirror image, `aug1`, `aug2`, .. numbered augmentations: the number is the seed.
"""

import re
from typing import Any

BASE, HFLIP, AUGMENTED = "base", "hflip", "aug"
MAX_AUGMENTATIONS = 100
# A part of the identity of every augmented stream: raise it whenever the same seed changes faces otherwise.
RECIPE = 1


def parse_views(text: str) -> tuple[str, ...]:
    """`base,hflip,aug:4` as the views base, hflip, aug1, aug2, aug3, aug4.

    Raises:
        ValueError: no view of that name, or too many augmentations.
    """
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        several = re.fullmatch(rf"{AUGMENTED}:(\d{{1,4}})", part)
        if several and not 1 <= int(several[1]) <= MAX_AUGMENTATIONS:
            raise ValueError(f"--views {part}: 1 to {MAX_AUGMENTATIONS} augmentations can be made")
        found += [f"{AUGMENTED}{number}" for number in range(1, int(several[1]) + 1)] if several else [part]
    if not found:
        raise ValueError("--views: names no view; say base, hflip, or aug:4 for four augmentations")
    for view in found:
        recipe(view)
    return tuple(dict.fromkeys(found))


def recipe(view: str) -> dict[str, Any]:
    """What a view does to faces, as JSON values: part of a stream's identity; empty for `base` and `hflip`, whose
    names say it all.

    Raises:
        ValueError: there is no such view.
    """
    if view in (BASE, HFLIP):
        return {}
    return {"recipe": RECIPE, "seed": seed_of(view)}


def seed_of(view: str) -> int:
    """The number of an augmented view. Raises ValueError where there is no such view."""
    found = re.fullmatch(rf"{AUGMENTED}([1-9]\d{{0,3}})", view)
    if found is None or int(found[1]) > MAX_AUGMENTATIONS:
        raise ValueError(f"view {view!r}: there are base, hflip and aug1 to aug{MAX_AUGMENTATIONS} (aug:4 makes four)")
    return int(found[1])
