"""A fold as one type, and the one form in which it is written: "2", "2.1" with another of its inner parts, "none"."""

import re
from dataclasses import dataclass
from typing import Any

FOLD_WORDS = 'a fold such as 2, "2.1" or "none"'
_WRITTEN = re.compile(r"(0|[1-9]\d{0,2})(?:\.([1-9]\d{0,2}))?")


@dataclass(frozen=True, slots=True, order=True)
class Fold:
    """`outer` is the fold that is scored, `inner` which of its inner parts chooses; both count from 0."""

    outer: int
    inner: int = 0

    def __str__(self) -> str:
        if self == NO_FOLD:
            return "none"
        return f"{self.outer}.{self.inner}" if self.inner else str(self.outer)


NO_FOLD = Fold(-1)  # the splits of the frames table


def parse_fold(value: Any) -> Fold:
    """A fold from TOML, JSON or an option: a number, or a text as `str(Fold)` writes it.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, Fold):
        return value
    if value == "none":
        return NO_FOLD
    found = _WRITTEN.fullmatch(str(value)) if isinstance(value, int | str) else None
    if isinstance(value, bool) or found is None:
        raise ValueError(f"expected {FOLD_WORDS}")
    outer, inner = found.groups(default="0")
    return Fold(int(outer), int(inner))
