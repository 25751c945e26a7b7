"""Measurements in processes of their own, that end when their time is over whatever they are doing.

The processes are forked from a server that has imported torch, so that none spends seconds on it.
"""

import dataclasses
import importlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from bench.entries import Entry
from bench.measure import SHRUNK, LeftOut, Row, shares, within

PRELOADED = ("torch", "timm", "zarr", "sklearn", "optuna")  # not Polars, whose threads a fork would lose
SOFT = 0.85  # of the time limit: what rounds are fitted into
EXIT_S = 10.0  # for a process that has sent all its rows
DATA_S, READY = 300.0, "ready"  # the data are made once, outside the time limit
WORDS_OF_ERROR = 200


def start_server() -> None:
    """Processes begun after this find torch imported; outside the bench they import it themselves."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))


def process_of(function: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process, started, that calls `function`; it ends at the latest with this one."""
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(function, *arguments))
    process.start()
    return process


def machines() -> dict[str, dict[str, str]]:
    """What is known of each device that is there, the processor first."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = process_of(_send_machines, sender)
    sender.close()
    found: dict[str, dict[str, str]] = receiver.recv()
    process.join()
    return found


def _send_machines(sender: Connection) -> None:
    import torch

    from bench.machine import about

    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    sender.send({device: about(torch.device(device)) for device in devices})


def rows_of(
    entry: Entry, device: str, limit_s: float | None, send: Callable[..., None] | None = None
) -> Iterator[Row | str]:
    """The rows as they come; then in words why some did not, where that is so.

    `send` is what the process does, `send_rows` where none is given; its first word is that its data are there.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = process_of(_send_all, send or send_rows, entry, device, limit_s, sender)
    sender.close()
    try:
        end = time.monotonic() + DATA_S
        while receiver.poll(None if end is None else max(0.0, end - time.monotonic())):
            try:
                found = receiver.recv()
            except EOFError:
                process.join(EXIT_S)
                if process.exitcode:
                    yield f"failed: the process ended with {process.exitcode}"
                return
            if found == READY:
                end = None if limit_s is None else time.monotonic() + limit_s
            else:
                yield found
        yield f"cut after {limit_s or DATA_S:.0f} s"
    finally:
        _end(process)
        receiver.close()


def _send_all(send: Callable[..., None], entry: Entry, device: str, limit_s: float | None, sender: Connection) -> None:
    send(entry, device, limit_s, sender)
    sender.close()  # all has been said, though the process may take a while to end


def send_rows(entry: Entry, device: str, limit_s: float | None, sender: Connection) -> None:
    """In the process: measures, and sends each row that is asked for."""
    import torch

    from bench.made_data import MAKERS

    try:
        part = importlib.import_module(f"bench.{entry.module}")
        asked = [each for each in entry.ids if device == "cpu" or each in part.ON_CUDA]
        for name in entry.data:
            MAKERS[name]()
        sender.send(READY)
        with within(math.inf if limit_s is None else SOFT * limit_s):
            for function in shares(list(dict.fromkeys(part.ROWS[each] for each in asked))):
                send_rows_of(function, torch.device(device), entry.ids, sender)
    except Exception as error:
        sender.send(_in_words("failed", error))


def send_rows_of(function: Callable[[Any], Iterable[Row]], device: Any, ids: Sequence[str], sender: Connection) -> None:
    """Sends the rows of `ids` among those of `function`, or why there are none."""
    SHRUNK.clear()
    count = 0
    try:
        for row in function(device):
            if row.id[:2].strip() in ids:
                sender.send(_with_rounds(row))
                count += 1
    except LeftOut as error:
        sender.send(f"left out: {error}")
    except Exception as error:
        sender.send(_in_words("failed", error))
    else:
        if not count:
            sender.send(f"left out: there is nothing to measure on {device}")


def _in_words(what: str, error: Exception) -> str:
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"{what}: {line[:WORDS_OF_ERROR]}"


def _with_rounds(row: Row) -> Row:
    """The row, which says so where it had no time for all rounds."""
    if len(row.values) not in SHRUNK:
        return row
    note = f"no time for more than {len(row.values)} rounds"
    return dataclasses.replace(row, note=f"{row.note}; {note}" if row.note else note)


def _run(function: Callable[..., object], *arguments: Any) -> None:
    os.setsid()  # with its own processes it is one group, which can be ended as one
    multiprocessing.set_start_method("fork", force=True)  # of a DataLoader's workers, as in a program that a user runs
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _end(process: BaseProcess) -> None:
    if process.exitcode is None and process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not become a group of its own yet
            process.kill()
    process.join()
