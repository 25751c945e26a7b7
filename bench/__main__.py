"""`make bench`: prints the ratios of measurements as they come, then all in a table, and writes bench/latest.json.

python -m bench [--only A1,C1] [--quick] [--time-factor 3]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import processes
from bench.entries import IDS, Entry, chosen
from bench.lines import Line
from bench.measure import Row
from cache.durable import write_whole

LATEST = Path(__file__).parent / "latest.json"
COARSE = "--quick: few rounds of little work, so these figures are coarse; quote those of `make bench`"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    only = [each.strip() for each in (options.only or "").split(",") if each.strip()]
    unknown = [each for each in only if each not in IDS]
    if unknown or (options.only is not None and not only):
        print(f"--only {','.join(unknown)}: no such measurement; there: {', '.join(IDS)}", file=sys.stderr)
        return 2
    if not 0 < options.time_factor <= 1000:
        print(f"--time-factor {options.time_factor:g}: a number above 0, at most 1000", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mtl does; only before torch is loaded
    console, begin = Console(stderr=True, highlight=False), time.monotonic()
    processes.start_server()
    devices = processes.machines()
    for about in devices.values():
        console.print("; ".join(about.values()))
    if "cuda" not in devices:
        console.print("no CUDA device: the GPU's rows are left out")
    lines: list[Line] = []
    try:
        for line in measured(chosen(only), devices, quick=options.quick, factor=options.time_factor):
            console.print(str(line))
            lines.append(line)
            write_json(lines, LATEST)
    except KeyboardInterrupt:
        print(f"interrupted; {len(lines)} lines are in {LATEST}", file=sys.stderr)
        return 130
    print_table(lines)
    print("; ".join(about for each in devices.values() for about in each.values()))
    loads = [line.load for line in lines]
    print(f"{time.monotonic() - begin:.0f} s, load {min(loads):.1f} to {max(loads):.1f}")
    if num_cut := sum(line.was_cut for line in lines):
        print(f"{num_cut} cut: on a machine that is busy or slow, --time-factor 3 gives each three times as long")
    if options.quick:
        print(COARSE)
    return 1 if any(line.has_failed for line in lines) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios of what mtl does to its bounds.")
    parser.add_argument("--only", metavar="IDS", help=f"some of {','.join(IDS)}")
    parser.add_argument("--quick", action="store_true", help="about two minutes, coarse")
    parser.add_argument("--time-factor", type=float, default=1.0, metavar="X", help="times the time limit of each row")
    return parser.parse_args(arguments)


def measured(
    entries: Iterable[Entry], devices: Mapping[str, Mapping[str, str]], *, quick: bool, factor: float
) -> Iterator[Line]:
    """Each entry on each device, a line per row; and one where an entry was cut or failed."""
    for device, about in devices.items():
        for entry in entries:
            limit_s = entry.seconds(quick=quick, factor=factor)
            if quick and limit_s is None:
                yield Line(ids=entry.ids, device=device, about=about, why="left out: not by --quick")
                continue
            has_rows = False
            for found in processes.rows_of(entry, device, limit_s):
                row, why = (found, "") if isinstance(found, Row) else (None, found)
                yield Line(
                    ids=entry.ids, device=device, about=about, row=row, why=why, is_rest=has_rows and row is None
                )
                has_rows |= row is not None


def write_json(lines: Iterable[Line], path: Path) -> None:
    """All lines so far, by id, with the device where it is not the processor; whole at any moment."""
    found: dict[str, Any] = {line.key: line.to_json() for line in lines}
    write_whole(path, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())


def print_table(lines: Iterable[Line]) -> None:
    table = Table(title="medians, with least and greatest")
    for name in ("id", "device", "ratio"):
        table.add_column(name)
    for name in ("value", "min", "max", "rounds", "target"):
        table.add_column(name, justify="right")
    table.add_column("")
    for line in lines:
        table.add_row(*line.cells)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    sys.exit(main())
