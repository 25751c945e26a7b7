"""Lines of the bench's table: a row with what it was measured on, or why there is none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.measure import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`row`, or `why` the rows `ids` are missing: all, or by `is_rest` those that had not come. `about` the device, and
    the machine's load when it was measured."""

    ids: tuple[str, ...]
    device: str
    about: Mapping[str, str]
    row: Row | None = None
    why: str = ""
    is_rest: bool = False
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def key(self) -> str:
        """The id; with the device where it is not the processor."""
        name = self.row.id if self.row else ",".join(self.ids) + (", the rest" if self.is_rest else "")
        return name if self.device == "cpu" else f"{name} {self.device}"

    @property
    def has_failed(self) -> bool:
        return self.why.startswith("failed")

    @property
    def was_cut(self) -> bool:
        return self.why.startswith("cut")

    @property
    def cells(self) -> tuple[str, ...]:
        """Of the table: id, device, ratio, value, min, max, rounds, target, verdict."""
        if self.row is None:
            return self.key.removesuffix(f" {self.device}"), self.device, self.why, "", "", "", "", "", ""
        row = self.row
        numbers = (f"{number:.4g}" for number in (row.value, min(row.values), max(row.values)))
        what = f"{row.what} ({row.note})" if row.note else row.what
        return row.id, self.device, what, *numbers, str(len(row.values)), str(row.target or ""), row.verdict

    def __str__(self) -> str:
        if self.row is None:
            return f"{self.key} {self.why}; load {self.load:.1f}"
        _, _, _, value, least, greatest, rounds, target, verdict = self.cells
        met = f", {target} {verdict}" if target else ""
        return f"{self.key} {value} ({least} to {greatest}, {rounds} rounds){met}; load {self.load:.1f}"

    def to_json(self) -> dict[str, Any]:
        measured_with = {**self.about, "load": round(self.load, 1)}
        if self.row is None:
            return {"value": None, "device": self.device, "note": self.why, "measured_with": measured_with}
        return {**self.row.to_json(), "device": self.device, "measured_with": measured_with}
