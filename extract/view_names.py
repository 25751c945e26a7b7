"""Names of views and what they stand for; needs no torch, unlike `extract.views`, which makes them.

`base` is the face itself, `hflip` its mirror image, `crop0.9` its middle: 0.9 of each side of what the backbone sees,
resized to its input from the face file. `aug1`, `aug2`, .. are numbered augmentations: the number is the seed.
"""

import dataclasses
import re
from typing import Any

from cache.identity import StreamIdentity
from extract.config import Preprocessing

BASE, HFLIP, AUGMENTED = "base", "hflip", "aug"
CROP = re.compile(r"crop(0\.[5-9][1-9]?)")
AUGMENTATION, CROP_PCT = "augmentation", "crop_pct"  # keys of an identity's preprocessing
MAX_AUGMENTATIONS = 100
KNOWN = f"there are base, hflip, crop0.5 to crop0.99 and aug1 to aug{MAX_AUGMENTATIONS} (aug:4 makes four)"
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
        raise ValueError(f"--views: names no view; {KNOWN}")
    for view in found:
        recipe(view)
    return tuple(dict.fromkeys(found))


def stream_title(name: str, view: str) -> str:
    """What a stream is called for short: `va`, or `va/hflip`."""
    return name if view == BASE else f"{name}/{view}"


def recipe(view: str) -> dict[str, Any]:
    """What a view does to faces, as JSON values: part of a stream's identity; empty for `base`, `hflip` and crops,
    whose names and preprocessing say it all.

    Raises:
        ValueError: there is no such view.
    """
    if view in (BASE, HFLIP) or crop_share(view) < 1:
        return {}
    return {"recipe": RECIPE, "seed": seed_of(view)}


def crop_share(view: str) -> float:
    """The part of each side that a view shows: 0.9 for `crop0.9`, 1 for views that are no crops."""
    found = CROP.fullmatch(view)
    return 1.0 if found is None else float(found[1])


def preprocessing_of(view: str, base: Preprocessing) -> Preprocessing:
    """The preprocessing that makes the inputs of `view` where that of the whole face is `base`.

    Raises:
        ValueError: a crop of a crop that is too small.
    """
    share = crop_share(view)
    if share == 1:
        return base
    try:
        return dataclasses.replace(base, crop_pct=round(base.crop_pct * share, 6))
    except ValueError as error:
        raise ValueError(f"view {view!r}: {error}") from None


def in_view(identity: StreamIdentity, view: str) -> StreamIdentity:
    """The identity of another view of the stream."""
    preprocessing = {key: value for key, value in identity.preprocessing.items() if key != AUGMENTATION}
    if CROP_PCT in preprocessing:
        whole = round(preprocessing[CROP_PCT] / crop_share(identity.view), 6)
        preprocessing[CROP_PCT] = round(whole * crop_share(view), 6)
    if added := recipe(view):
        preprocessing[AUGMENTATION] = added
    return dataclasses.replace(identity, view=view, preprocessing=preprocessing)


def seed_of(view: str) -> int:
    """The number of an augmented view. Raises ValueError where there is no such view."""
    found = re.fullmatch(rf"{AUGMENTED}([1-9]\d{{0,3}})", view)
    if found is None or int(found[1]) > MAX_AUGMENTATIONS:
        raise ValueError(f"view {view!r}: {KNOWN}")
    return int(found[1])
