"""Each part in a process of its own, forked once everything is imported: a limit ends it, a fault ends it alone.

The process that forks must not touch the GPU, nor start threads: neither survives.
"""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from bench.gpu_check.lines import PartResult

POLL_S = 0.2


class Asked(Protocol):
    """A row of `bench.measure`."""

    id: str

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part by `name`; `run` gives its rows as they come, and may take `limit_s`. The rows of a check must hold; those
    of other parts have targets where `has_targets`."""

    name: str
    run: Callable[[], Iterator[Asked]]
    limit_s: float
    is_check: bool = False
    has_targets: bool = True


def run_part(part: Part, left_s: float, tell: Callable[[dict[str, Any]], None]) -> PartResult:
    """Runs it for its limit, or for `left_s` seconds where that is less; `tell` hears of each row."""
    result, begin = PartResult(part.name, part.is_check), time.monotonic()
    limit_s = min(part.limit_s, left_s)
    if limit_s <= 0:
        result.reason = "no time was left"
        return result
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(part, sender))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle threads of a library
        child.start()
    sender.close()
    try:
        _collect(receiver, begin + limit_s, result, tell)
        if result.state == "cut":
            result.reason = f"after its {limit_s:.0f} s"
    finally:
        _end(child)
    if result.state == "left out":
        result.state, result.reason = "failed", f"its process ended with {_exit_words(child.exitcode)}"
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def _collect(receiver: Connection, deadline: float, result: PartResult, tell: Callable[[dict[str, Any]], None]) -> None:
    while True:
        if time.monotonic() > deadline:
            result.state = "cut"
            return
        try:
            if not receiver.poll(POLL_S):
                continue
            message = json.loads(receiver.recv_bytes())
        except EOFError:
            return
        if "row" in message:
            result.rows.append(message["row"])
            tell(message["row"])
        else:
            result.state, result.reason = message["state"], message["reason"]
            return


def _end(child: Any) -> None:
    """Ends the process and all that it started."""
    child.join(0.5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.is_alive():
        child.kill()
    child.join()


def _work(part: Part, sender: Connection) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)

    def send(**message: Any) -> None:
        sender.send_bytes(json.dumps(message).encode())

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            for row in part.run():
                found = {"id": row.id, **row.to_json()}
                send(row=found if part.is_check or part.has_targets else found | {"target": None, "verdict": None})
        send(state="done", reason="")
    except BaseException as error:  # whatever it is, it is a line of the table
        print(f"{part.name}:", said.getvalue()[-2000:], traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        send(state="failed", reason=f"{type(error).__name__}: {(lines or ['no reason given'])[0][:300]}")


def _exit_words(code: int | None) -> str:
    return f"signal {-code} (9: killed, perhaps for memory)" if code is not None and code < 0 else f"exit code {code}"
