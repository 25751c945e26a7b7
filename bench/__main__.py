"""`make bench`: prints a table of the ratios of PERFORMANCE.md and writes bench/latest.json.

python -m bench [--only A1,C1]
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from bench.measure import Row

EXTRACTING, READING = ("A1", "A2", "A3", "A4", "A6", "A7", "A8"), ("C1", "C2", "C3", "C4", "C6", "R1", "R2")
FINETUNING, QUALITY, VIDEO = ("F1", "R3"), ("Q1", "Q2", "M"), ("V1", "V2", "V3")
TRAINING, SEARCHING = ("B1", "B2", "B3", "B4", "B5"), ("S1", "S2", "S3", "S4", "S6", "S8")
IDS = (*EXTRACTING, *READING, *FINETUNING, *QUALITY, *VIDEO, *TRAINING, *SEARCHING)
APART = ("R1", "R2", "R3", "F1", "B4", *QUALITY)  # only by --only: all others together take ten minutes
LATEST = Path(__file__).parent / "latest.json"
VERSIONS = ("torch", "timm", "zarr", "numpy", "h5py", "simplejpeg", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios of what mtl does to its bounds.")
    parser.add_argument(
        "--only", default=",".join(each for each in IDS if each not in APART), help=f"some of {','.join(IDS)}"
    )
    wanted = [each.strip() for each in parser.parse_args().only.split(",") if each.strip()]
    unknown = [each for each in wanted if each not in IDS]
    if unknown or not wanted:
        print(f"--only {','.join(unknown)}: no such measurement; there: {', '.join(IDS)}", file=sys.stderr)
        sys.exit(2)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mtl does; only before torch is loaded
    start, load = time.monotonic(), os.getloadavg()[0]
    rows = measure(wanted, Console(stderr=True))
    LATEST.write_text(json.dumps({_key(row): row.to_json() for row in rows}, indent=2, ensure_ascii=False) + "\n")
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    print_table(rows)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; {time.monotonic() - start:.0f} s")


def measure(wanted: Iterable[str], console: Console) -> list["Row"]:
    """Rows of the ids `wanted`, on the CPU and then, those for which it matters, on a CUDA device if there is one."""
    import torch

    from bench import (
        beyond_memory,
        cache_reading,
        extraction,
        finetuning,
        methods,
        predicting,
        quality,
        runtimes,
        searching,
        stacked_pieces,
        stacking,
        training,
        video_faces,
    )

    heads = (training, stacking, stacked_pieces, searching, quality, methods)
    parts = (extraction, runtimes, cache_reading, beyond_memory, finetuning, predicting, video_faces, *heads)
    functions = {each: function for part in parts for each, function in part.ROWS.items()}
    on_cuda = {each for part in parts for each in part.ON_CUDA}
    todo = [(functions[each], torch.device("cpu")) for each in IDS if each in wanted]
    if torch.cuda.is_available():
        todo += [(functions[each], torch.device("cuda")) for each in IDS if each in wanted and each in on_cuda]
    else:
        console.print("no CUDA device: the GPU's rows are left out")
    rows = []
    for function, device in dict.fromkeys(todo):
        with console.status(f"{function.__doc__} ({device})"):
            found = [row for row in function(device) if row.id[:2].strip() in wanted]
        for row in found:
            console.print(f"{row.id} {row.value:.4g} ({min(row.values):.4g} to {max(row.values):.4g})", highlight=False)
        rows += found
    return rows


def print_table(rows: Iterable["Row"]) -> None:
    table = Table(title="medians, with least and greatest")
    for name in ("id", "device", "ratio"):
        table.add_column(name)
    for name in ("value", "min", "max", "target"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        numbers = (f"{number:.4g}" for number in (row.value, min(row.values), max(row.values)))
        what = f"{row.what} ({row.note})" if row.note else row.what
        table.add_row(row.id, row.device, what, *numbers, str(row.target or ""), row.verdict)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _key(row: "Row") -> str:
    """The id; with the device where it is not the processor."""
    return row.id if row.device == "cpu" else f"{row.id} {row.device}"


if __name__ == "__main__":
    main()
