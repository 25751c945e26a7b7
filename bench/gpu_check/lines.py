"""What the check found: a line per row, the table of all, and the JSON file, which is rewritten as they come."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cache.durable import write_whole

STATES = {"done": "", "cut": "CUT", "failed": "FAILED", "left out": "left out"}


@dataclass(slots=True)
class PartResult:
    """One part: its `rows` as JSON has them, how it ended, why it ended early, and its seconds."""

    name: str
    is_check: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    state: str = "left out"
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether it ran to its end and, where it is a check, all its rows hold; a ratio may miss its target."""
        return self.state == "done" and not (self.is_check and any(row["verdict"] == "missed" for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, "reason": self.reason or None, "seconds": self.seconds, "rows": self.rows}


def row_line(row: Mapping[str, Any]) -> str:
    """A row in one line of text."""
    target = f" (target {row['target']}: {row['verdict']})" if row["target"] else ""
    note = f"; {row['note']}" if row["note"] else ""
    return f"{row['id']}: {row['value']:.4g} ({row['min']:.4g} to {row['max']:.4g}){target} {row['what']}{note}"


def end_line(result: PartResult) -> str:
    """How a part ended, in one line."""
    reason = f": {result.reason}" if result.reason else ""
    return f"{result.name}: {result.state}, {len(result.rows)} rows in {result.seconds:.0f} s{reason}"


def write_json(path: Path, machine: Mapping[str, Any], results: list[PartResult]) -> None:
    """Replaces the file at `path`, whole or not at all."""
    found = {"machine": dict(machine), "parts": {result.name: result.to_json() for result in results}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())


def print_table(machine: Mapping[str, Any], results: list[PartResult], console: Console) -> None:
    table = Table(title=f"{machine.get('gpu', machine['device'])}: medians, with least and greatest")
    for name in ("part", "id", "ratio"):
        table.add_column(name)
    for name in ("value", "min", "max", "target"):
        table.add_column(name, justify="right")
    table.add_column("")
    for result in results:
        for cells in _cells(result):
            table.add_row(*cells)
    console.print(table)


def _cells(result: PartResult) -> Iterator[tuple[str, ...]]:
    """Of a check that has a row for all ("GR"), those of single cases ("GR gru") only where they do not hold."""
    whole = {row["id"] for row in result.rows if result.is_check}
    for row in result.rows:
        if row["id"].partition(" ")[0] in whole - {row["id"]} and row["verdict"] != "missed":
            continue
        numbers = (f"{row[key]:.4g}" for key in ("value", "min", "max"))
        what = f"{row['what']} ({row['note']})" if row["note"] else row["what"]
        yield result.name, row["id"], what, *numbers, row["target"] or "", row["verdict"] or ""
    if result.state != "done":
        yield result.name, "", result.reason, "", "", "", "", STATES[result.state]
