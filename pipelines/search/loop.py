"""The search: every trial of a grid, over streams that are read once; a kill costs a minute.

What trains is a `Trainer`: it trains trials of one shape at once, and writes for each a run folder whose manifest,
run.json, comes last. An `Engine`, handed in, brings the stacks to one: to its own, or to those of other processes.
"""

import errno
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Protocol

from pipelines.fitting.interrupts import Interrupts
from pipelines.progress import Advance
from pipelines.search.stack_queue import Chooser, ClaimLost, Grouping, OwnStacks, Stack, StackQueue, one_by_one, pending
from pipelines.search.study import Result, Study, Trial
from pipelines.strategy import Strategy


class Trainer(Protocol):
    """Trains each strategy of a stack into its run folder, calling `advance` where it may be stopped: there Ctrl-C and
    SIGTERM raise KeyboardInterrupt.

    Returns for each what went wrong, or None. What it raises went wrong with all of them.
    """

    def __call__(self, stack: Sequence[tuple[Strategy, Path]], advance: Advance) -> Sequence[Exception | None]: ...


class Recorder(Protocol):
    """Keeps a list of how trials ended, beside their run folders."""

    def catch_up(self) -> None:
        """Adds what the run folders have and the list lacks."""

    def add_finished(self, result: Result) -> None: ...

    def add_failed(self, trial: Trial, reason: str) -> None: ...


class NoRecord:
    """Leaves that to the search that catches up: for one of several that work in a study at once."""

    def catch_up(self) -> None: ...

    def add_finished(self, result: Result) -> None: ...

    def add_failed(self, trial: Trial, reason: str) -> None: ...


Errors = Sequence[Exception | None]


class Engine(Protocol):
    """Trains stacks, which it takes one by one as it has room, calling `advance` where it may be stopped.

    Yields each when it is finished, in any order, with what went wrong with each of its trials. Stopped, it raises
    KeyboardInterrupt after those that are finished.
    """

    def __call__(self, stacks: Iterator[Stack], advance: Advance) -> Iterator[tuple[Stack, Errors]]: ...


def one_at_a_time(study: Study, trainer: Trainer) -> Engine:
    """The engine that trains with `trainer`, here, one stack after the other."""

    def train(stacks: Iterator[Stack], advance: Advance) -> Iterator[tuple[Stack, Errors]]:
        for stack in stacks:
            yield stack, train_stack([(trial.strategy, study.run_folder(trial)) for trial in stack], trainer, advance)

    return train


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """What one search did: trials finished now and before, failures (trial, reason), trials left, and why it ended;
    `num_elsewhere` trials were finished by other processes into folders of their own."""

    num_done: int
    num_before: int
    failed: tuple[tuple[Trial, str], ...]
    num_left: int
    num_elsewhere: int = 0
    stopped: str = ""


def run_trials(
    study: Study,
    trials: Sequence[Trial],
    engine: Engine,
    record: Recorder,
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    time_limit_s: float = 0.0,
    advance: Advance = lambda count: None,
    grouping: Grouping = one_by_one,
    choose: Chooser = list,
    halted: bool = False,
    note: Callable[[str], None] = lambda text: None,
    queue: StackQueue | None = None,
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
        queue: gives the stacks; by default all that `choose` names, in `grouping`.

    Raises:
        OSError: the disk is full; nothing finished is lost.
    """
    record.catch_up()
    study.remove_ended()
    num_before = len(trials) - len(pending(study, trials, retry_failed=True, halted=halted))
    most = max((len(trial.strategy.head.predicted) for trial in trials), default=0)
    best = best_of(study, trials, most)
    deadline_s = time.monotonic() + (time_limit_s or math.inf)
    own = OwnStacks(study, trials, grouping, choose, retry_failed=retry_failed, halted=halted)
    stacks_of: StackQueue = queue or own
    num_done, stopped, tried, late = 0, "", set[str](), f"the time limit of {time_limit_s:g} s"
    with Interrupts(SIGINT, SIGTERM) as interrupts:

        def check(count: int) -> None:
            interrupts.check()
            stacks_of.check()

        def may_wait() -> bool:
            interrupts.check()
            return time.monotonic() <= deadline_s

        while not stopped:
            num_written = dict[str, int]()
            try:
                stacks = stacks_of.take(tried, None if limit is None else limit - len(tried), may_wait)
                if not stacks:
                    stopped = late if not may_wait() and stacks_of.num_left() else ""
                    break
                for stack, errors in engine(_starting(study, stacks, num_written, deadline_s, interrupts), check):
                    stacks_of.confirm()
                    before = num_written[stack[0].digest]
                    num_ended = [_record(study, *one, record) for one in zip(stack, errors, strict=True)]
                    num_done += sum(num_ended) - before
                    tried.update(trial.digest for trial in stack)
                    advance(len(stack) - before)
                    best = max(best, best_of(study, stack, most))
                    note(f"best P {best:.3f}" if best > -math.inf else "")
                if len(num_written) == len(stacks):
                    stacks_of.done()
                else:
                    stopped = late
            except ClaimLost:
                pass
            except KeyboardInterrupt:
                stopped = interrupts.words
            stacks_of.release()
    failures = study.failures()
    failed = tuple((trial, failures[trial.digest]["reason"]) for trial in trials if trial.digest in failures)
    return SearchSummary(
        num_done=num_done,
        num_before=num_before,
        failed=failed,
        num_left=stacks_of.num_left(),
        num_elsewhere=stacks_of.num_elsewhere,
        stopped=stopped,
    )


def _starting(
    study: Study, stacks: Sequence[Stack], num_written: dict[str, int], deadline_s: float, interrupts: Interrupts
) -> Iterator[Stack]:
    """The stacks, until the deadline, each cleared of what an earlier try left when it is taken; notes by its first
    trial how many of its runs a search that was killed had written."""
    for stack in stacks:
        if time.monotonic() > deadline_s:
            return
        interrupts.check()
        num_written[stack[0].digest] = sum(study.is_finished(trial) for trial in stack)
        for trial in stack:
            if not study.is_finished(trial):
                study.clear(trial)
        yield stack


def best_of(study: Study, trials: Sequence[Trial], num_tasks: int) -> float:
    """The best selection score among the finished ones of `trials` with so many tasks; P of fewer does not compare."""
    chosen = [trial for trial in trials if len(trial.strategy.head.predicted) == num_tasks and study.is_finished(trial)]
    return max((study.result(trial).metrics["select"]["P"] for trial in chosen), default=-math.inf)


def train_stack(stack: Sequence[tuple[Strategy, Path]], trainer: Trainer, check: Advance) -> list[Exception | None]:
    """What went wrong with each. Where a whole stack fails, for memory or through one of its trials, its halves are
    tried."""
    try:
        return list(trainer(stack, check))
    except Exception as error:
        if _is_disk_full(error) or isinstance(error, ClaimLost):
            raise
        if len(stack) == 1:
            return [error]
    middle = len(stack) // 2
    return train_stack(stack[:middle], trainer, check) + train_stack(stack[middle:], trainer, check)


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _record(study: Study, trial: Trial, error: Exception | None, record: Recorder) -> bool:
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
