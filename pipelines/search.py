"""The search: every trial of a grid in one process, over streams that are read once; a kill costs one trial.

What trains is a `Trainer`, handed in: it writes a run folder whose manifest, run.json, comes last.
"""

import errno
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from pipelines.progress import Advance
from pipelines.strategy import Strategy
from pipelines.study import Study, Trial

if TYPE_CHECKING:
    from pipelines.record import Record


class Trainer(Protocol):
    """Trains `strategy` into the folder `run`, calling `advance(1)` after each epoch."""

    def __call__(self, strategy: Strategy, run: Path, advance: Advance) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one search did: trials finished now and before, failures (trial, reason), trials left, and why it ended."""

    num_done: int
    num_before: int
    failed: tuple[tuple[Trial, str], ...]
    num_left: int
    stopped: str = ""


def pending(study: Study, trials: Sequence[Trial], *, retry_failed: bool) -> list[Trial]:
    """The trials still to run: not finished, and not failed unless failures are to be tried again."""
    failures = {} if retry_failed else study.failures()
    return [trial for trial in trials if not study.is_finished(trial) and trial.digest not in failures]


def run_trials(
    study: Study,
    trials: Sequence[Trial],
    trainer: Trainer,
    record: "Record",
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    time_limit_s: float = 0.0,
    advance: Advance = lambda count: None,
) -> Outcome:
    """Runs what is still to run, in order; a failed trial is recorded and the next one begins.

    Args:
        limit: most trials to run now.
        time_limit_s: no trial begins after so many seconds; 0 for no limit.
        advance: is called with 1 after each trial.

    Raises:
        OSError: the disk is full; nothing finished is lost.
    """
    record.catch_up()
    todo = pending(study, trials, retry_failed=retry_failed)
    num_before = sum(study.is_finished(trial) for trial in trials)
    began, num_done, stopped = time.monotonic(), 0, ""
    with interrupts() as interrupted:
        for trial in todo if limit is None else todo[:limit]:
            if time_limit_s and time.monotonic() - began > time_limit_s:
                stopped = f"the time limit of {time_limit_s:g} s"
                break
            try:
                num_done += _run(study, trial, trainer, record, interrupted)
            except KeyboardInterrupt:
                stopped = "Ctrl-C"
                break
            advance(1)
    failures = study.failures()
    failed = tuple((trial, failures[trial.digest]["reason"]) for trial in trials if trial.digest in failures)
    num_left = len(pending(study, trials, retry_failed=False))
    return Outcome(num_done=num_done, num_before=num_before, failed=failed, num_left=num_left, stopped=stopped)


def _run(study: Study, trial: Trial, trainer: Trainer, record: "Record", interrupted: Callable[[], bool]) -> bool:
    """Trains one trial; False where it failed."""

    def check(_: int = 0) -> None:
        if interrupted():
            raise KeyboardInterrupt

    check()
    study.clear(trial)
    try:
        trainer(trial.strategy, study.run_folder(trial), check)
        result = study.result(trial)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = " ".join(f"{type(error).__name__ if not str(error) else ''} {error}".split())
        study.record_failure(trial, reason, traceback.format_exc())
        record.add_failed(trial, reason)
        return False
    study.forget_failure(trial)
    record.add_finished(result)
    return True


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C once sets what is yielded to True, so that the current epoch ends; twice stops at once."""
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
