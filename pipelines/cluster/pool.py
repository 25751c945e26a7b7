"""Items of work shared out among the workers of a Ray cluster.

Workers are actors: each loads once what all items need, and pulls the next item when it is done with one. What a lost
worker had in hand another does again; a worker that a node has room for, an item being left, is added.
"""

import pickle
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from pipelines.cluster.connection import Cluster, reason_of
from pipelines.cluster.requirements import Requirements
from pipelines.cluster.worker import Done, Failed, Job, Stopped, Worker

POLL_S = 0.5
TOLD_S = 1.0  # between two questions for progress
LOOK_S = 5.0  # between two looks for room for more workers
MOST_LOST = 3  # workers lost in a row with one item, or while they load: no accident
BUSY_S = 180.0  # so long an item may be another process's: a killed driver's workers, or a claim that must expire
AGAIN_S = 2.0
STOP_S = 60.0  # for a checkpoint to be written after Ctrl-C
NOTICE_S = 30.0  # without any worker, after which the user is told what is waited for
START_S = 900.0  # without any worker, where others have the cluster's nodes or none is left

ItemT = TypeVar("ItemT")


class Listener(Protocol):
    """What the driver hears of items in hand."""

    def on_told(self, item: Any, event: Any) -> None:
        """A worker tells how far it is with `item`."""

    def on_lost(self, item: Any) -> None:
        """The worker that had `item` is gone; another begins it again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """An item that `MOST_LOST` workers did not survive, and what is known of the last."""

    reason: str


@dataclass(slots=True, eq=False)
class Task(Generic[ItemT]):
    item: ItemT
    num_lost: int = 0
    not_before_s: float = 0.0
    busy_since_s: float | None = None


@dataclass(slots=True, eq=False)
class Member:
    """A worker: the call it is at (`check`, `prepare` or `do`; None where it is idle), and what it has in hand."""

    actor: Any
    call: Any
    kind: str
    task: Task[Any] | None = None
    told: Any = None
    asked_s: float = field(default_factory=time.monotonic)


class Pool:
    """Workers for `job` on `cluster`. A context manager: at its end they are gone."""

    def __init__(self, cluster: Cluster, job: Job, requirements: Requirements, listener: Listener) -> None:
        import ray

        self._ray, self._cluster, self._requirements, self._listener = ray, cluster, requirements, listener
        self._job = pickle.dumps(job)
        self._members: list[Member] = []
        self._num_lost, self._looked_s, self._alive_s = 0, 0.0, time.monotonic()
        self._has_told = False

    def __enter__(self) -> "Pool":
        self._requirements.renew()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for member in self._members:
            self._ray.kill(member.actor)
        self._requirements.remove()

    def start(self) -> None:
        """Returns when a first worker is ready.

        Raises:
            ValueError, OSError: it differs from the driver, cannot load what it needs, or is lost again and again.
        """
        while not any(member.kind == "idle" for member in self._members):
            if not self._members:
                self._hire()
            for _ in self._turn():
                raise AssertionError("no item is in hand yet")

    def map(self, items: Iterator[ItemT], check: Callable[[], None] = lambda: None) -> Iterator[tuple[ItemT, Any]]:
        """Yields every item with what came of it, or with `Lost`, as they are finished; takes them one by one, as
        workers have room. Where `check`, or what gives the items, raises KeyboardInterrupt, what is in hand is stopped
        first.

        Raises:
            ValueError, OSError: a worker says that nothing can go on, or none can be had.
        """
        again, is_more = deque[Task[ItemT]](), True
        try:
            while True:
                check()
                for member in [each for each in self._members if each.kind == "idle"]:
                    task = _due(again)
                    if task is None and is_more:
                        found = next(items, _END)
                        is_more = found is not _END
                        task = Task(found) if is_more else None  # type: ignore[arg-type]
                    if task is not None:
                        self._give(member, task)
                num_busy = sum(member.task is not None for member in self._members)
                if not (num_busy or again or is_more):
                    return
                if is_more or again:
                    self._look()
                for task, outcome in self._turn():
                    if outcome is None:
                        again.append(task)
                    else:
                        yield task.item, outcome
        except KeyboardInterrupt:
            yield from self._stopped()
            raise

    def _look(self) -> None:
        """Adds the workers that there is room for; every few seconds, and at once where there are none."""
        now_s = time.monotonic()
        if self._members and now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        for _ in range(max(self._cluster.capacity(), 1) - len(self._members)):
            self._hire()

    def _hire(self) -> None:
        self._requirements.renew()
        options = {"num_cpus": self._cluster.cpus, "num_gpus": self._cluster.gpus, "max_concurrency": 3}
        actor = self._ray.remote(Worker).options(**options).remote()
        self._members.append(Member(actor, actor.check.remote(self._requirements), "check"))

    def _give(self, member: Member, task: Task[Any]) -> None:
        member.task, member.kind = task, "do"
        member.call = member.actor.do.remote(task.item)

    def _turn(self) -> Iterator[tuple[Task[Any], Any]]:
        """Waits a moment; yields tasks that ended, with what came of them, None where they are to be done again."""
        if any(member.kind != "check" for member in self._members):
            self._alive_s, self._has_told = time.monotonic(), False
        elif not self._has_told and time.monotonic() - self._alive_s > NOTICE_S:
            self._has_told = True
            words = f"waiting up to {START_S / 60:g} minutes for a node that has room; Ctrl-C stops"
            warnings.warn(f"--engine ray: no worker: {words}", stacklevel=2)
        elif time.monotonic() - self._alive_s > START_S:
            raise ValueError(
                f"--engine ray: no worker could be started in {START_S / 60:g} minutes; the cluster at "
                f"{self._cluster.address} has no nodes left, or others have them"
            )
        for member in self._members:
            if member.kind == "do" and member.told is None and time.monotonic() - member.asked_s > TOLD_S:
                member.told, member.asked_s = member.actor.told.remote(), time.monotonic()
        calls = {each.call: each for each in self._members if each.call is not None}
        told = {each.told: each for each in self._members if each.told is not None}
        if not calls:
            time.sleep(POLL_S)
            return
        refs = [*calls, *told]
        self._ray.wait(refs, num_returns=1, timeout=POLL_S)
        ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            if ref in told:
                self._hear(told[ref])
        for ref in ready:
            if ref in calls and calls[ref] in self._members:
                yield from self._ended(calls[ref])

    def _hear(self, member: Member) -> None:
        ref, member.told = member.told, None
        try:
            events = self._ray.get(ref)
        except self._ray.exceptions.RayError:
            return  # its call says why
        if member.task is not None:
            for event in events:
                self._listener.on_told(member.task.item, event)

    def _ended(self, member: Member) -> Iterator[tuple[Task[Any], Any]]:
        """The call of a worker is over."""
        try:
            outcome = self._ray.get(member.call)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except self._ray.exceptions.RayError as error:
            yield from self._lost(member, reason_of(error))
            return
        if member.kind == "check":
            if outcome:
                raise ValueError(outcome)
            member.kind, member.call = "prepare", member.actor.prepare.remote(self._job, self._cluster.place)
        elif member.kind == "prepare":
            if isinstance(outcome, Failed):
                raise outcome.error
            member.kind, member.call, self._num_lost = "idle", None, 0
        else:
            yield from self._done(member, outcome)

    def _done(self, member: Member, outcome: Done | Failed | Stopped) -> Iterator[tuple[Task[Any], Any]]:
        task = member.task
        assert task is not None
        member.kind, member.call, member.task = "idle", None, None
        if isinstance(outcome, Done):
            for event in outcome.told:
                self._listener.on_told(task.item, event)
            yield task, outcome
        elif isinstance(outcome, Failed):
            now_s = time.monotonic()
            task.busy_since_s = now_s if task.busy_since_s is None else task.busy_since_s
            if not outcome.is_busy or now_s - task.busy_since_s > BUSY_S:
                raise outcome.error
            task.not_before_s = now_s + AGAIN_S
            yield task, None

    def _lost(self, member: Member, reason: str) -> Iterator[tuple[Task[Any], Any]]:
        """A worker is gone, and its item is to be done again; one that no worker survives is given up."""
        self._members.remove(member)
        self._looked_s = 0.0
        self._ray.kill(member.actor)  # it may only be out of reach
        task = member.task
        if task is None:
            self._num_lost += 1
            if self._num_lost >= MOST_LOST:
                raise ValueError(
                    f"--engine ray: {MOST_LOST} workers were lost before they were ready, the last: {reason}; "
                    f"is mtl installed on every node, and has each memory for what it loads?"
                )
            return
        self._listener.on_lost(task.item)
        task.num_lost += 1
        yield task, Lost(reason) if task.num_lost >= MOST_LOST else None

    def _stopped(self) -> Iterator[tuple[Any, Any]]:
        """Asks the workers to stop; yields what they finish all the same."""
        for member in self._members:
            if member.task is not None:
                member.actor.stop.remote()
        until_s = time.monotonic() + STOP_S
        while any(member.task is not None for member in self._members) and time.monotonic() < until_s:
            for task, outcome in self._turn():
                if outcome is not None:
                    yield task.item, outcome


_END = object()


def _due(tasks: deque[Task[ItemT]]) -> Task[ItemT] | None:
    """Takes the first task whose time has come."""
    for task in tasks:
        if task.not_before_s <= time.monotonic():
            tasks.remove(task)
            return task
    return None
