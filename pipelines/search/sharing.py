"""A study that several searches work on through PostgreSQL: its stacks are claimed, its trials recorded once."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from optuna.trial import TrialState

from pipelines.progress import Advance
from pipelines.run_files import damage
from pipelines.search.claims import Claimed, Claims
from pipelines.search.grid import Grid, StudyConfig
from pipelines.search.record import Entries, fixed_distributions
from pipelines.search.stack_queue import Chooser, Grouping, Stack, begun_first, pending
from pipelines.search.study import Result, Study, Trial, read_about

POLL_S = 5.0  # between two looks at what other processes do
STEP_S = 0.2  # between two looks for Ctrl-C


def ways_of(config: StudyConfig) -> dict[str, str | int]:
    """What all searches of a shared study have in common beside their trials: by what they are chosen and ended."""
    return {key: getattr(config, key) for key in ("sampler", "sampler_seed", "halving", "halving_first")}


class SharedRecord:
    """Optuna's record of the grid's trials, written by several processes."""

    def __init__(self, claims: Claims, study: Study, trials: Sequence[Trial], fields: Sequence[str]) -> None:
        self._claims, self._study, self._trials = claims, study, trials
        self.entries = Entries(study.path, fields, fixed_distributions(fields))

    def catch_up(self) -> None:
        """Adds what the run folders and failed.json have and the database lacks, but of stacks that are to be trained
        or in hand."""

        def ask() -> None:
            with self._claims.turn():
                self.add_missing(self._claims.entries())

        self._claims.patiently(ask)

    def add_missing(self, found: Claimed) -> None:
        """Adds what `found`, the database, lacks; inside a turn."""
        failures = self._study.failures()
        for trial in self._trials:
            if trial.digest in found.open or trial.digest in found.ended:
                continue
            if self._study.is_finished(trial):
                self._claims.add(self.entries.finished(self._study.result(trial)))
            elif trial.digest in failures:
                self._claims.add(self.entries.failed(trial, failures[trial.digest]["reason"]))

    def add_finished(self, result: Result) -> None:
        self._claims.record(self.entries.finished(result))

    def add_failed(self, trial: Trial, reason: str) -> None:
        self._claims.record(self.entries.failed(trial, reason))


class SharedStacks:
    """The stacks of a shared study, claimed one by one; where all are in other hands it waits for what they become."""

    def __init__(
        self,
        claims: Claims,
        record: SharedRecord,
        study: Study,
        trials: Sequence[Trial],
        grouping: Grouping,
        choose: Chooser,
        *,
        num_wanted: int | None,
        retry_failed: bool,
        halted: bool,
        advance: Advance,
        on_waiting: Callable[[int], None],
    ) -> None:
        """`num_wanted` trials are begun at most, counted over all processes; `advance` is called with the number of
        trials that others ended, `on_waiting` with that of the stacks in their hands. `own` are the digests of what
        this process claimed."""
        self._claims, self._record, self._study, self._trials = claims, record, study, trials
        self._grouping, self._choose, self._num_wanted, self._halted = grouping, choose, num_wanted, halted
        self._advance, self._on_waiting = advance, on_waiting
        self._found: Claimed = claims.patiently(claims.entries)
        self._known = set(self._found.ended)
        self.own = set[str]()
        self._to_retry = self._failed() if retry_failed else set()

    @property
    def num_elsewhere(self) -> int:
        """Trials that others finished, whose runs are not in this folder."""
        return sum(not self._study.is_finished(self._study.trials[digest]) for digest in self._elsewhere())

    def take(self, tried: Collection[str], most: int | None, may_wait: Callable[[], bool]) -> list[Stack]:
        """One stack, claimed."""
        while most is None or most > 0:
            digests = self._claims.patiently(lambda: self._claim(tried), lambda pause: self._pause(pause, may_wait))
            stack = [self._study.trials[digest] for digest in digests]
            if digests not in self._study.begun():  # one that was begun is trained whole
                stack = stack[:most]
            self.own.update(digests)
            if stack and not self._is_done(stack):
                return [stack]
            if not stack and not (self._found.open and self._wait(may_wait)):
                break
        return []

    def check(self) -> None:
        self._claims.check()

    def confirm(self) -> None:
        self._claims.confirm()

    def done(self) -> None:
        self._claims.done()

    def release(self) -> None:
        self._claims.release()

    def num_left(self) -> int:
        left = pending(self._study, self._trials, retry_failed=False, halted=self._halted)
        ended = self._elsewhere() | self._failed()
        return len(self._choose([trial for trial in left if trial.digest not in ended]))

    def _claim(self, tried: Collection[str]) -> tuple[str, ...]:
        """The digests of a stack that is now this process's, given out first where none waits; none where all that is
        left is in other hands."""
        self._look()
        if not self._found.waiting:
            with self._claims.turn() as turn:
                self._claims.reclaim()
                self._claims.withdraw(self._found.mixed)  # nobody may be left who knows all of their trials
                self._look()
                self._record.add_missing(self._found)
                stacks = self._stacks(tried)
                waiting = self._record.entries.waiting
                self._claims.give_out((waiting(one[0], [trial.digest for trial in one]) for one in stacks), turn)
            self._look()
        return self._claims.claim(self._found.waiting)

    def _look(self) -> None:
        self._found = self._claims.entries()
        fresh = self._found.ended.keys() - self._known
        self._known |= fresh
        if num_others := len(fresh - self.own):
            self._advance(num_others)

    def _stacks(self, tried: Collection[str]) -> list[Stack]:
        """What is to be given out now."""
        for trial in [self._study.trials[digest] for digest in self._study.left_out]:
            if not damage(self._study.run_folder(trial)):  # another process trained it again
                self._study.left_out.discard(trial.digest)
        self._to_retry -= self._found.open
        out = {*self._found.open, *self._elsewhere(), *(self._failed() - self._to_retry), *tried}
        left = pending(self._study, self._trials, retry_failed=True, halted=self._halted)
        chosen = self._choose([trial for trial in left if trial.digest not in out])
        if self._num_wanted is not None:
            num_begun = len(self._trials) - len(left) + len(self._elsewhere()) + len(self._found.open)
            chosen = chosen[: max(self._num_wanted - num_begun, 0)]
        return begun_first(self._study, chosen, self._grouping) if chosen else []

    def _elsewhere(self) -> set[str]:
        """Trials that other processes finished into folders of their own."""
        ended = self._found.ended.items()
        return {one for one, (state, folder) in ended if state == TrialState.COMPLETE and folder != self._claims.folder}

    def _failed(self) -> set[str]:
        """Trials whose latest try failed, here or there."""
        ended = self._found.ended.items()
        there = {one for one, (state, folder) in ended if state == TrialState.FAIL and folder != self._claims.folder}
        return there | self._study.failures().keys()

    def _is_done(self, stack: Stack) -> bool:
        """Whether the runs of a stack were all written by a process that could not record them; they are now."""
        if pending(self._study, stack, retry_failed=True, halted=self._halted):
            return False
        try:
            results = [self._study.result(trial) for trial in stack]
        except ValueError:  # a damaged run
            return False
        for result in results:
            self._record.add_finished(result)
        self._claims.done()
        return True

    def _wait(self, may_wait: Callable[[], bool]) -> bool:
        self._on_waiting(len(self._found.running))
        self._pause(POLL_S, may_wait)
        return may_wait()

    def _pause(self, seconds: float, may_wait: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while may_wait() and time.monotonic() < end:
            time.sleep(min(STEP_S, seconds))


@contextmanager
def sharing(
    study: Study,
    trials: Sequence[Trial],
    grid: Grid,
    grouping: Grouping,
    choose: Chooser,
    *,
    retry_failed: bool = False,
    halted: bool = False,
    advance: Advance = lambda count: None,
    on_waiting: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[SharedRecord, SharedStacks]]:
    """The record and the stacks of a study in the database that `grid` names; what is in hand is given back at the end.

    Raises:
        ValueError: the database cannot be had, or its study is of another search.
    """
    config = grid.study
    digests, about = [trial.digest for trial in trials], read_about(study.path)
    claims = Claims(config.storage, study.path.name, about["id"], digests, ways_of(config))
    try:
        record = SharedRecord(claims, study, trials, grid.fields)
        stacks = SharedStacks(
            claims,
            record,
            study,
            trials,
            grouping,
            choose,
            num_wanted=min(config.trials, len(trials)) if config.sampler == "tpe" else None,
            retry_failed=retry_failed,
            halted=halted,
            advance=advance,
            on_waiting=on_waiting,
        )
        yield record, stacks
    finally:
        claims.close()
