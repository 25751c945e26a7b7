"""`make gpu-check`: all that only a GPU can show, a line per measurement, a table, and JSON.

python -m bench.gpu_check [--only NAME,..] [--minutes 8] [--out FILE] [--wheels DIR] [--device cpu --quick]
python -m bench.gpu_check --shrink DIR
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu_check.packages import add_wheels, missing, shrink, what_to_bring

if TYPE_CHECKING:
    from bench.gpu_check.running import Part

OUT = Path(__file__).parents[1] / "work" / "gpu_check.json"
MINUTES, QUICK_MINUTES = 8.0, 3.0
# By name, what matters most first: where it is, the seconds it may take, three times what it is thought to need, and
# whether its rows must hold.
PARTS: dict[str, tuple[str, float, bool]] = {
    "tests": ("others.marked_tests", 60, True),
    "graphs": ("graphs.graphs_as_eager", 120, True),
    "agreement": ("agreement.as_on_cpu", 60, True),
    "memory": ("memory.against_estimate", 60, True),
    "nccl": ("others.one_process_group", 40, True),
    "stacks": ("heads.stacked", 120, False),
    "backbones": ("embedding.against_matmul", 60, False),
    "extraction": ("embedding.end_to_end", 130, False),
    "headline": ("headline.headline", 150, False),
    "commands": ("others.commands", 90, True),
    "steps": ("heads.beside_steps", 60, False),
    "live": ("heads.against_live", 30, False),
    "together": ("embedding.together", 60, False),
    "compiled": ("others.compiled", 150, True),
}


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 where a part failed, was cut, or found something wrong."""
    asked = parse(arguments)
    try:
        if asked.shrink is not None:
            before, after = shrink(asked.shrink)
            print(f"{asked.shrink}: {before / 2**20:.1f} MiB of wheels, {after / 2**20:.1f} MiB now")
            return 0
        if asked.wheels is not None:
            add_wheels(asked.wheels)
        if names := missing():
            raise ValueError(what_to_bring(names))
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mtl does; only before torch is loaded
        return _run(asked)
    except ValueError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"gpu-check: interrupted; what was found is in {asked.out}", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; a wrong one ends the process with one line and code 2."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description="What only a GPU can show.")
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=None, help=f"at most so long in all; {MINUTES:g}")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of packages that are missing here")
    parser.add_argument("--shrink", type=Path, metavar="DIR", help="pack the wheels of a folder tighter, and end")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --quick, to try the check")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    asked = parser.parse_args(arguments)
    # Compiling takes a CPU longer than all the rest, and is tried there by the tests.
    every = [name for name in PARTS if asked.device == "cuda" or name != "compiled"]
    asked.only = [name.strip() for name in asked.only.split(",") if name.strip()] or every
    if unknown := [name for name in asked.only if name not in PARTS]:
        parser.error(f"--only {','.join(unknown)}: no such part; there: {', '.join(PARTS)}")
    if asked.minutes is None:
        asked.minutes = QUICK_MINUTES if asked.quick else MINUTES
    if not 0 < asked.minutes <= 24 * 60:
        parser.error(f"--minutes {asked.minutes:g}: expected more than 0 and at most 1440")
    if asked.device == "cpu" and not asked.quick:
        parser.error("--device cpu: a CPU is measured by `make bench`; with --quick it tries the check itself")
    return asked


def parts(asked: argparse.Namespace) -> "list[Part]":
    """Those asked for, in the order of PARTS."""
    from bench.gpu_check.running import Part

    found, on_gpu = [], asked.device == "cuda"
    for name in (name for name in PARTS if name in asked.only):
        where, limit_s, is_check = PARTS[name]
        module, _, function = where.partition(".")
        limit_s *= 1 if on_gpu else 3  # a CPU may have other work
        where = f"bench.gpu_check.{module}"
        found.append(
            Part(name=name, module=where, function=function, limit_s=limit_s, is_check=is_check, has_targets=on_gpu)
        )
    return found


def _run(asked: argparse.Namespace) -> int:
    """Raises `ValueError` where there is no such device."""
    from rich.console import Console

    from bench.gpu_check.lines import PartResult, end_line, print_table, row_line, write_json
    from bench.gpu_check.running import run_part, start_server
    from bench.processes import machines

    begin, results, todo = time.monotonic(), list[PartResult](), parts(asked)
    start_server(todo)
    devices = machines()
    if asked.device not in devices:
        raise ValueError("PyTorch finds no CUDA GPU here; --device cpu --quick tries the check without one")
    about = {"device": asked.device, **devices[asked.device], "started": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}
    for part in todo:
        left_s = 60 * asked.minutes - (time.monotonic() - begin)
        load = os.getloadavg()[0]
        result = run_part(part, asked.device, left_s, lambda row: print(row_line(row), flush=True), quick=asked.quick)
        print(f"{end_line(result)}; load {load:.1f}", flush=True)
        results.append(result)
        write_json(asked.out, about | {"seconds": round(time.monotonic() - begin, 1)}, results)
    print_table(about, results, Console(width=None if sys.stdout.isatty() else 160))
    bad = [result.name for result in results if not result.is_good]
    print(f"{time.monotonic() - begin:.0f} s; {asked.out}; " + (f"not good: {', '.join(bad)}" if bad else "all good"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
