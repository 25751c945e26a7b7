"""The search: every trial of a grid in one process, over streams that are read once; a kill costs a minute.

What trains is a `Trainer`, handed in: it trains trials of one shape at once, and writes for each a run folder whose
manifest, run.json, comes last.
"""

import errno
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Protocol

from pipelines.fitting.interrupts import Interrupts
from pipelines.progress import Advance
from pipelines.search.study import Study, Trial
from pipelines.strategy import Strategy

if TYPE_CHECKING:
    from pipelines.search.record import Record


class Trainer(Protocol):
    """Trains each strategy of a stack into its run folder, calling `advance` where it may be stopped: Ctrl-C raises
    KeyboardInterrupt there.

    Returns for each what went wrong, or None. What it raises went wrong with all of them.
    """

    def __call__(self, stack: Sequence[tuple[Strategy, Path]], advance: Advance) -> Sequence[Exception | None]: ...


Grouping = Callable[[Sequence["Trial"]], list[list["Trial"]]]


def one_by_one(trials: Sequence["Trial"]) -> list[list["Trial"]]:
    """Every trial a stack of its own."""
    return [[trial] for trial in trials]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """What one search did: trials finished now and before, failures (trial, reason), trials left, and why it ended."""

    num_done: int
    num_before: int
    failed: tuple[tuple[Trial, str], ...]
    num_left: int
    stopped: str = ""


Chooser = Callable[[Sequence["Trial"]], list["Trial"]]


def pending(study: Study, trials: Sequence[Trial], *, retry_failed: bool, halted: bool = False) -> list[Trial]:
    """The trials still to run: not finished, and not failed unless failures are to be tried again.

    With `halted`, also those that an earlier search ended before their time.
    """
    failures = {} if retry_failed else study.failures()
    left = [trial for trial in trials if trial.digest not in failures]
    return [trial for trial in left if not study.is_finished(trial) or (halted and study.is_halted(trial))]


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
    grouping: Grouping = one_by_one,
    choose: Chooser = list,
    halted: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> SearchSummary:
    """Runs what is still to run, stack after stack; a failed trial is recorded and the next ones begin.

    Args:
        limit: most trials to run now.
        time_limit_s: no trial begins after so many seconds; 0 for no limit.
        advance: is called with the number of trials after each stack.
        grouping: puts trials that can train at once into stacks.
        choose: which of the trials that are left to run now; asked again until it names none.
        halted: trains trials that an earlier search halted to their end.
        note: is told the best selection score so far, in words.

    Raises:
        OSError: the disk is full; nothing finished is lost.
    """
    record.catch_up()
    num_before = len(trials) - len(pending(study, trials, retry_failed=True, halted=halted))
    most = max((len(trial.strategy.head.predicted) for trial in trials), default=0)
    best = best_of(study, trials, most)
    began, num_done, stopped, tried = time.monotonic(), 0, "", set[str]()
    with Interrupts(SIGINT) as interrupts:
        while not stopped:
            left = pending(study, trials, retry_failed=retry_failed, halted=halted)
            batch = choose([trial for trial in left if trial.digest not in tried])
            batch = batch if limit is None else batch[: limit - len(tried)]
            if not batch:
                break
            for stack in _begun_first(study, batch, grouping):
                if time_limit_s and time.monotonic() - began > time_limit_s:
                    stopped = f"the time limit of {time_limit_s:g} s"
                    break
                num_written = sum(study.is_finished(trial) for trial in stack)  # by a search that was killed meanwhile
                try:
                    num_done += _run(study, stack, trainer, record, interrupts) - num_written
                except KeyboardInterrupt:
                    stopped = "Ctrl-C"
                    break
                tried.update(trial.digest for trial in stack)
                advance(len(stack) - num_written)
                best = max(best, best_of(study, stack, most))
                note(f"best P {best:.3f}" if best > -math.inf else "")
    failures = study.failures()
    failed = tuple((trial, failures[trial.digest]["reason"]) for trial in trials if trial.digest in failures)
    num_left = len(choose(pending(study, trials, retry_failed=False, halted=halted)))
    return SearchSummary(num_done=num_done, num_before=num_before, failed=failed, num_left=num_left, stopped=stopped)


def _begun_first(study: Study, batch: Sequence[Trial], grouping: Grouping) -> list[list[Trial]]:
    """The stacks of `batch`; that in which an earlier search was stopped is first, and made of the same trials, those
    whose runs it had written already among them."""
    begun, wanted = study.begun(), {trial.digest for trial in batch}
    known = [study.trials[digest] for digest in begun if digest in study.trials]
    fits = all(trial.digest in wanted or study.is_finished(trial) for trial in known)
    if len(known) < len(begun) or not fits or not wanted & set(begun):
        return grouping(batch)
    rest = [trial for trial in batch if trial.digest not in begun]
    return [known, *(grouping(rest) if rest else [])]


def best_of(study: Study, trials: Sequence[Trial], num_tasks: int) -> float:
    """The best selection score among the finished ones of `trials` with so many tasks; P of fewer does not compare."""
    chosen = [trial for trial in trials if len(trial.strategy.head.predicted) == num_tasks and study.is_finished(trial)]
    return max((study.result(trial).metrics["select"]["P"] for trial in chosen), default=-math.inf)


def _run(study: Study, stack: Sequence[Trial], trainer: Trainer, record: "Record", interrupts: Interrupts) -> int:
    """Trains the trials of a stack; the number of those that did not fail."""
    interrupts.check()
    for trial in stack:
        if not study.is_finished(trial):
            study.clear(trial)
    errors = _train(
        [(trial.strategy, study.run_folder(trial)) for trial in stack], trainer, lambda count: interrupts.check()
    )
    return sum(_record(study, trial, error, record) for trial, error in zip(stack, errors, strict=True))


def _train(stack: Sequence[tuple[Strategy, Path]], trainer: Trainer, check: Advance) -> list[Exception | None]:
    """What went wrong with each. Where a whole stack fails, for memory or through one of its trials, its halves are
    tried."""
    try:
        return list(trainer(stack, check))
    except Exception as error:
        if _is_disk_full(error):
            raise
        if len(stack) == 1:
            return [error]
    middle = len(stack) // 2
    return _train(stack[:middle], trainer, check) + _train(stack[middle:], trainer, check)


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _record(study: Study, trial: Trial, error: Exception | None, record: "Record") -> bool:
    """Writes down how a trial ended; False where it failed."""
    try:
        if error is not None:
            raise error
        result = study.result(trial)
    except Exception as problem:
        if _is_disk_full(problem):
            raise
        reason = " ".join(f"{type(problem).__name__ if not str(problem) else ''} {problem}".split())
        details = "".join(traceback.format_exception(problem))
        study.record_failure(trial, reason, details)
        record.add_failed(trial, reason)
        return False
    study.forget_failure(trial)
    record.add_finished(result)
    return True
