"""Where a search gets its stacks from: a study that it alone works on, or one that it shares with other processes."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from pipelines.search.study import Study, Trial

Stack = list[Trial]
Grouping = Callable[[Sequence[Trial]], list[Stack]]
Chooser = Callable[[Sequence[Trial]], list[Trial]]


class ClaimLost(Exception):
    """The stack in training was given to another process, as this one gave no sign of life for too long."""


class StackQueue(Protocol):
    """Where a search gets its stacks from: its own study, or one that it shares with other processes."""

    @property
    def num_elsewhere(self) -> int:
        """The trials that other processes finished into folders of their own."""

    def take(self, tried: Collection[str], most: int | None, may_wait: Callable[[], bool]) -> list[Stack]:
        """Stacks to train now, of at most `most` trials and none of the digests `tried`; none when all is done.

        It waits for other processes while `may_wait` says so.
        """

    def check(self) -> None:
        """Raises `ClaimLost` where what was taken is no longer this process's."""

    def confirm(self) -> None:
        """As `check`, but certain; before what was taken is recorded."""

    def done(self) -> None:
        """What was taken is recorded."""

    def release(self) -> None:
        """Gives back what was taken and not recorded."""

    def num_left(self) -> int:
        """The trials that are still to run, failures aside."""


def one_by_one(trials: Sequence[Trial]) -> list[Stack]:
    """Every trial a stack of its own."""
    return [[trial] for trial in trials]


def pending(study: Study, trials: Sequence[Trial], *, retry_failed: bool, halted: bool = False) -> list[Trial]:
    """The trials still to run: not finished, and not failed unless failures are to be tried again.

    With `halted`, also those that an earlier search ended before their time.
    """
    failures = {} if retry_failed else study.failures()
    left = [trial for trial in trials if trial.digest not in failures]
    return [trial for trial in left if not study.is_finished(trial) or (halted and study.is_halted(trial))]


class OwnStacks:
    """The stacks of a study that this process alone works on, or of a part of it that is this process's."""

    num_elsewhere = 0

    def __init__(
        self,
        study: Study,
        trials: Sequence[Trial],
        grouping: Grouping,
        choose: Chooser,
        *,
        retry_failed: bool,
        halted: bool,
    ) -> None:
        self._study, self._trials, self._grouping, self._choose = study, trials, grouping, choose
        self._retry_failed, self._halted = retry_failed, halted

    def take(self, tried: Collection[str], most: int | None, may_wait: Callable[[], bool]) -> list[Stack]:
        """All that `choose` names, after the stacks in which an earlier search was stopped."""
        left = pending(self._study, self._trials, retry_failed=self._retry_failed, halted=self._halted)
        left = [trial for trial in left if trial.digest not in tried]
        begun, others = begun_and_others(self._study, left, self._choose(left), most)
        return [*begun, *(self._grouping(others) if others else [])]

    def check(self) -> None:
        """Nobody takes them away."""

    def confirm(self) -> None:
        """Nobody takes them away."""

    def done(self) -> None:
        """The run folders say so."""

    def release(self) -> None:
        """Nobody else waits for them."""

    def num_left(self) -> int:
        return len(self._choose(pending(self._study, self._trials, retry_failed=False, halted=self._halted)))


def begun_first(study: Study, batch: Sequence[Trial], grouping: Grouping) -> list[Stack]:
    """The stacks of `batch`, those in which an earlier search was stopped first."""
    begun, others = begun_and_others(study, batch, batch, None)
    return [*begun, *(grouping(others) if others else [])]


def begun_and_others(
    study: Study, left: Sequence[Trial], chosen: Sequence[Trial], most: int | None
) -> tuple[list[Stack], list[Trial]]:
    """The stacks of trials that are `left` in which an earlier search was stopped, chosen or not, made of the same
    trials, those whose runs it had written already among them; and as many of the `chosen` trials besides as there is
    room for among `most`. A stack that was begun is trained whole, though it may have more than `most`.
    """
    room = len(chosen) if most is None else min(most, len(chosen))
    rest, begun = {trial.digest: trial for trial in left}, list[Stack]()
    for digests in study.begun() if room > 0 else ():
        stack = [study.trials[digest] for digest in digests if digest in study.trials]
        fits = all(trial.digest in rest or study.is_finished(trial) for trial in stack)
        if room > 0 and len(stack) == len(digests) and fits and rest.keys() & set(digests):
            begun.append(stack)
            room -= len(rest.keys() & set(digests))
            rest = {digest: trial for digest, trial in rest.items() if digest not in digests}
    others = [trial for trial in chosen if trial.digest in rest]
    return begun, others[: max(room, 0)]
