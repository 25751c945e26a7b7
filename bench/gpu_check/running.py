"""Each part in a process of its own, forked from one that has imported everything: a limit or a fault ends it alone."""

import contextlib
import importlib
import io
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from bench.entries import Entry
from bench.gpu_check.lines import PartResult
from bench.processes import READY, rows_of

MOST_WORDS, MOST_OUTPUT = 300, 4000  # characters of an error, and of what a part printed before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part by `name`: `function` of `module` gives its rows as they come, and may take `limit_s`. The rows of a check
    must hold; those of other parts have targets where `has_targets`."""

    name: str
    module: str
    function: str
    limit_s: float
    is_check: bool = False
    has_targets: bool = True


def start_server(parts: list[Part]) -> None:
    """Processes begun after this find the modules of `parts` imported."""
    modules = list(dict.fromkeys(part.module for part in parts))
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)


def run_part(
    part: Part, device: str, left_s: float, tell: Callable[[dict[str, Any]], None], *, quick: bool = False
) -> PartResult:
    """Runs it for its limit, or for `left_s` seconds where that is less; `tell` hears of each row."""
    result, begin = PartResult(part.name, part.is_check), time.monotonic()
    limit_s = min(part.limit_s, left_s)
    if limit_s <= 0:
        result.reason = "no time was left"
        return result
    entry, result.state = Entry(ids=(part.function,), module=part.module), "done"
    for found in rows_of(entry, device, limit_s, partial(send_rows, quick)):
        if isinstance(found, str):
            result.state, result.reason = "cut" if found.startswith("cut") else "failed", found.removeprefix("failed: ")
            continue
        row = found if part.is_check or part.has_targets else replace(found, target=None)
        result.rows.append({"id": row.id, **row.to_json()})
        tell(result.rows[-1])
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def send_rows(quick: bool, entry: Entry, device: str, limit_s: float, sender: Connection) -> None:
    """In the process: runs the part and sends its rows; what it prints is shown where it fails."""
    import torch

    from bench.gpu_check.sizes import FULL, QUICK

    sender.send(READY)  # from here on its time counts
    # As in a program of its own: the workers of a DataLoader would else be begun by a server that imports torch anew.
    multiprocessing.set_start_method("fork", force=True)
    said, where = io.StringIO(), torch.device("cuda", 0) if device == "cuda" else torch.device(device)
    try:
        with contextlib.redirect_stdout(said):
            for function in entry.ids:
                run = getattr(importlib.import_module(entry.module), function)
                for row in run(QUICK if quick else FULL, where):
                    sender.send(row)
    except BaseException as error:  # whatever it is, it is a line of the table
        print(said.getvalue()[-MOST_OUTPUT:], traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sender.send(f"failed: {type(error).__name__}: {(lines or ['no reason given'])[0][:MOST_WORDS]}")
