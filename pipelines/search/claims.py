"""Stacks of trials shared by several searches through PostgreSQL: who trains which, and who takes over from the dead.

A stack that is to be trained is an Optuna trial, that of its first trial, its leader, with the digests of all in the
attribute `stack`. WAITING: anyone's; RUNNING: in hand, with a heartbeat; COMPLETE, or FAIL with a reason: recorded;
FAIL without one: lost, and its trials are given out again. All times are the database's; no clock of a worker counts.
A grid may grow: a search whose grid did not have all trials of a stack leaves that to others.
"""

import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from cache.durable import HOST
from pipelines.search.database import Answer, is_gone, open_database, patiently
from pipelines.search.stack_queue import ClaimLost
from pipelines.search.storage_url import where

HEARTBEAT_S = 15.0
GRACE_S = 90  # without a heartbeat
TURN_S = 180  # most that one process keeps the others from giving out stacks
OPEN = (TrialState.WAITING, TrialState.RUNNING)
STACK, DIGEST, REASON, FOLDER, WORKER, SEARCH = "stack", "digest", "reason", "folder", "worker", "search"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the database says of the trials of a grid, by digest.

    `waiting`, `mixed` and `running` are stacks by the id of their Optuna trial, where `mixed` wait too, but have other
    trials besides, of a grid that has grown since; `ended` has the latest state of each recorded trial, and the folder
    it was recorded from.
    """

    waiting: Mapping[int, tuple[str, ...]]
    mixed: Mapping[int, tuple[str, ...]]
    running: Mapping[int, tuple[str, ...]]
    ended: Mapping[str, tuple[TrialState, str]]

    @property
    def open(self) -> set[str]:
        """The trials of stacks that wait or are in hand."""
        stacks = itertools.chain(self.waiting.values(), self.mixed.values(), self.running.values())
        return set(itertools.chain(*stacks))


@dataclass
class _Held:
    """A stack in hand, and how its leader ended, which is recorded last."""

    stack: tuple[str, ...]
    leader: FrozenTrial | None = None
    is_lost: bool = False


class Claims:
    """The stacks of the study `name` in the database at `url`, as one process takes them; `folder` names the study's
    folder, `trials` are the digests of the grid's, and `ways` say how they are run, the same in all processes."""

    def __init__(self, url: str, name: str, folder: str, trials: Iterable[str], ways: Mapping[str, str | int]) -> None:
        """Opens the database, and begins the study where it is not there.

        Raises:
            ValueError: the database cannot be had, or its study is of another search.
        """
        self.url, self.folder, self._trials = url, folder, frozenset(trials)
        self._rdb = open_database(url, GRACE_S)
        self._held: dict[int, _Held] = {}
        self._ended: Mapping[str, tuple[TrialState, str]] = {}  # at the last look
        self._gone_at = -float("inf")  # when the database was last seen gone
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        make = partial(optuna.create_study, storage=self._rdb, direction="maximize", load_if_exists=True)
        try:
            self.optuna = self.patiently(lambda: make(study_name=name))
            self.patiently(lambda: self._check_search(ways))
        except ValueError:
            self._rdb.engine.dispose()
            raise
        self._thread.start()

    def _check_search(self, ways: Mapping[str, str | int]) -> None:
        """Raises `ValueError` where the study is of another grid than this, or than one from which this has grown."""
        study, number = f"{where(self.url)}: its study {self.optuna.study_name!r}", self.optuna._study_id
        with self.turn():
            found = self._rdb.get_study_system_attrs(number).get(SEARCH)
            if found is None and self.optuna.get_trials(deepcopy=False):
                raise ValueError(f"{study} was not begun by `mtl search`; name another with --study")
            known = frozenset(found["trials"] if found else ())
            if found and found["ways"] != ways:
                there = ", ".join(f"{key} = {value!r}" for key, value in found["ways"].items() if ways[key] != value)
                raise ValueError(
                    f"{study} was begun with {there}; write the same under [study], or name another study with --study"
                )
            if missing := len(known - self._trials):
                raise ValueError(
                    f"{study} has {missing} of {len(known)} trials that this grid has not on these data; in a database "
                    "a grid may grow, and no more: keep the values and the data it had, or name another study with "
                    "--study"
                )
            if known != self._trials:
                self._rdb.set_study_system_attr(number, SEARCH, {"ways": dict(ways), "trials": sorted(self._trials)})

    @contextmanager
    def turn(self) -> Iterator[Connection]:
        """One process at a time gives out stacks; one that dies or stands still loses its turn."""
        key = int.from_bytes(blake2b(self.optuna.study_name.encode(), digest_size=7).digest())
        with self._rdb.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{TURN_S}s'"))
            connection.execute(text(f"SET LOCAL lock_timeout = '{TURN_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield connection

    def entries(self) -> Claimed:
        """As the database has them now, but for trials that this grid has not."""
        waiting, mixed, running = (dict[int, tuple[str, ...]]() for _ in range(3))
        ended: dict[str, tuple[TrialState, str]] = {}
        for trial in self.optuna.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            if trial.state in OPEN:
                stack = attributes.get(STACK, ())
                if own := tuple(digest for digest in stack if digest in self._trials):
                    whose = mixed if len(own) < len(stack) else waiting
                    (running if trial.state == TrialState.RUNNING else whose)[trial._trial_id] = own
            elif FOLDER in attributes and (trial.state == TrialState.COMPLETE or REASON in attributes):
                ended[attributes[DIGEST]] = trial.state, attributes[FOLDER]
        self._ended = {digest: how for digest, how in ended.items() if digest in self._trials}
        return Claimed(waiting, mixed, running, self._ended)

    def give_out(self, leaders: Iterable[FrozenTrial], turn: Connection) -> None:
        """Adds stacks for whoever comes first, while it is this process's `turn`."""
        for leader in leaders:
            turn.execute(text("SELECT 1"))  # it still is, and for `TURN_S` from now
            self.optuna.add_trial(leader)

    def withdraw(self, stacks: Iterable[int]) -> None:
        """Ends stacks that wait, so that their trials are given out again; inside a turn."""
        for number in stacks:
            with suppress(UpdateFinishedTrialError):
                self._rdb.set_trial_state_values(number, TrialState.FAIL)

    def reclaim(self) -> None:
        """Gives up stacks whose process gave no sign of life for `GRACE_S` seconds, as far as the database was there to
        hear it; inside `turn`."""
        if time.monotonic() - self._gone_at < GRACE_S:
            return
        with self._rdb.engine.connect() as connection:
            age = text("SELECT extract(epoch FROM now() - pg_postmaster_start_time())")
            if float(connection.execute(age).scalar_one()) < GRACE_S:
                return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.optuna)

    def claim(self, waiting: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
        """The first stack of `waiting` that no other process has taken before; empty where there is none."""
        for number, stack in waiting.items():
            self._rdb.record_heartbeat(number)  # before: a claim without a heartbeat would never be missed
            with suppress(UpdateFinishedTrialError):
                if self._rdb.set_trial_state_values(number, TrialState.RUNNING):
                    self._held[number] = _Held(stack)
                    with suppress(StorageInternalError):  # to look at only
                        self._rdb.set_trial_user_attr(number, WORKER, f"{HOST}:{os.getpid()}")
                    return stack
        return ()

    def check(self) -> None:
        """Raises `ClaimLost` where a stack in hand is no longer this process's."""
        if any(held.is_lost for held in self._held.values()):
            raise ClaimLost

    def confirm(self) -> None:
        """As `check`, but asks the database; where that is gone it waits."""
        for number, held in self._held.items():
            held.is_lost = self.patiently(partial(self._rdb.get_trial, number)).state != TrialState.RUNNING
        self.check()

    def record(self, entry: FrozenTrial) -> None:
        """Adds a trial that finished or failed; that of a leader in hand waits for `done`."""
        for held in self._held.values():
            if held.stack[0] == entry.user_attrs[DIGEST]:
                held.leader = entry
                return
        tries = itertools.count()

        def ask() -> None:
            if next(tries):  # the answer to an earlier one may have been lost on its way
                self.entries()
            self.add(entry)

        self.patiently(ask)

    def add(self, entry: FrozenTrial) -> None:
        """Adds it unless it was there at the last look."""
        entry.user_attrs = {**entry.user_attrs, FOLDER: self.folder}
        if self._ended.get(entry.user_attrs[DIGEST]) != (entry.state, self.folder):
            self.optuna.add_trial(entry)

    def done(self) -> None:
        """Ends the stacks in hand, whose trials are recorded."""
        for number, held in list(self._held.items()):
            if not held.is_lost and held.leader is not None:
                self.patiently(partial(self._tell, number, held.leader))
            del self._held[number]

    def _tell(self, number: int, entry: FrozenTrial) -> None:
        with suppress(UpdateFinishedTrialError):  # taken over, or told already by a try whose answer was lost
            for key, value in {**entry.user_attrs, FOLDER: self.folder}.items():
                self._rdb.set_trial_user_attr(number, key, value)
            self._rdb.set_trial_state_values(number, entry.state, entry.values)

    def release(self) -> None:
        """Gives the stacks in hand back: whoever comes first takes them; after the grace where the database is gone."""
        for number, held in list(self._held.items()):
            with suppress(UpdateFinishedTrialError, StorageInternalError, SQLAlchemyError, KeyError):
                if not held.is_lost:
                    self._rdb.set_trial_state_values(number, TrialState.WAITING)
            del self._held[number]

    def close(self) -> None:
        """Gives back what is in hand."""
        self._closed.set()
        self._thread.join()
        self.release()
        self._rdb.remove_session()
        self._rdb.engine.dispose()

    def patiently(self, ask: Callable[[], Answer], sleep: Callable[[float], None] = time.sleep) -> Answer:
        """`database.patiently`, of this database."""
        return patiently(ask, self.url, sleep=sleep, on_gone=self._note_gone)

    def _note_gone(self) -> None:
        self._gone_at = time.monotonic()

    def _beat(self) -> None:
        """Of a thread of its own, as Optuna has heartbeats in its own loop alone."""
        while not self._closed.wait(HEARTBEAT_S):
            for number, held in list(self._held.items()):
                try:
                    self._rdb.record_heartbeat(number)
                    held.is_lost = self._rdb.get_trial(number).state != TrialState.RUNNING
                except Exception as error:
                    if is_gone(error):
                        self._note_gone()
        self._rdb.remove_session()
