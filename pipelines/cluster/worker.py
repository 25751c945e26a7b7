"""A worker of a cluster: a process that does what it is given, one item after another. Nothing here imports ray.

Its methods are called by several threads: while `do` runs, `told` and `stop` are.
"""

import os
import pickle
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cache.locks import BeingWritten
from pipelines.cluster.requirements import Requirements


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job runs: a device of torch's, its share of that, how many processor cores are its own, and how many
    workers each machine has room for, by its name."""

    device: str
    gpu_share: float
    num_cores: int
    workers: Mapping[str, int] = field(default_factory=dict)

    @property
    def memory_share(self) -> float:
        """The part of what is free on the device that is this worker's."""
        return min(1.0, self.gpu_share) if self.device == "cuda" else 1 / max(1, self.workers.get(platform.node(), 1))


class Job(Protocol):
    """What workers do; it travels pickled."""

    def prepare(self, place: Place) -> None:
        """Loads what all items need."""

    def do(self, item: Any, tell: Callable[[Any], None], check: Callable[[], None]) -> Any:
        """One item: `tell` sends word of its progress, `check` raises KeyboardInterrupt where it is to stop.

        Raises:
            BeingWritten: another process is at it; it is tried again later.
            ValueError, OSError: nothing can go on.
        """


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an item, and the progress not yet told."""

    value: Any
    told: list[Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why nothing can go on; `is_busy`: for as long as another process writes the same."""

    error: ValueError | OSError
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """It was asked to."""


class Worker:
    """Made on a node by the driver; `check` first, then `prepare`, then `do` any number of times."""

    def __init__(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands have it
        self._job: Job | None = None
        self._told: list[Any] = []
        self._lock, self._stopping = threading.Lock(), threading.Event()

    def check(self, requirements: Requirements) -> str:
        """What differs from the driver; "" where nothing does."""
        problem = requirements.problem()
        return f"the worker on {platform.node()} {problem}" if problem else ""

    def prepare(self, job: bytes, place: Place) -> Done | Failed:
        try:
            loaded: Job = pickle.loads(job)
            loaded.prepare(place)
        except (ValueError, OSError) as error:
            return Failed(error)
        self._job = loaded
        return Done(None, [])

    def do(self, item: Any) -> Done | Failed | Stopped:
        assert self._job is not None
        try:
            value = self._job.do(item, self._tell, self._check)
        except BeingWritten as error:
            return Failed(error, is_busy=True)
        except (ValueError, OSError) as error:
            return Failed(error)
        except KeyboardInterrupt:
            return Stopped()
        return Done(value, self.told())

    def told(self) -> list[Any]:
        """What was told since this was asked last."""
        with self._lock:
            found, self._told = self._told, []
        return found

    def stop(self) -> None:
        """What is being done ends at the next good place."""
        self._stopping.set()

    def _tell(self, event: Any) -> None:
        with self._lock:
            self._told.append(event)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt
