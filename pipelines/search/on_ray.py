"""Stacks trained by the workers of a Ray cluster: the driver keeps the study, workers write its run folders.

Each worker reads the streams once. A stack that a lost worker had goes to another, which resumes it from its
checkpoint in the study's folder.
"""

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from cache.frames import open_frames
from cache.locks import alone
from pipelines.cluster.connection import ClusterChoices, connected
from pipelines.cluster.pool import Lost, Pool
from pipelines.cluster.requirements import requirements
from pipelines.cluster.worker import Place
from pipelines.config import Config
from pipelines.progress import Advance
from pipelines.search.loop import Engine, Errors, Trainer, train_stack
from pipelines.search.search_plan import SearchPlan, make_trainer
from pipelines.search.stack_queue import Grouping, Stack
from pipelines.search.study import Study, Trial
from pipelines.strategy import Strategy

if TYPE_CHECKING:
    from pipelines.fitting.epochs import Evaluation


@dataclass(frozen=True, slots=True)
class ToGroup:
    """Strategies that a worker is to put into stacks, by its device."""

    strategies: tuple[Strategy, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ToTrain:
    """A stack, each strategy with its run folder."""

    stack: Stack
    runs: tuple[tuple[Strategy, Path], ...]

    def __reduce__(self) -> Any:  # trials stay with the driver
        return ToTrain, ([], self.runs)


class StackJob:
    """What a worker does for a search: it trains the stacks that it is given."""

    def __init__(self, search: SearchPlan) -> None:
        self.search = replace(search, frames=pl.DataFrame(), trials=())
        self._trainer: Trainer | None = None
        self._tell: Callable[[Any], None] | None = None
        self._place: Place | None = None

    def prepare(self, place: Place) -> None:
        config = self.search.config
        frames = open_frames(config.at(config.data.frames), config.schema)
        self.search = replace(self.search, frames=frames, config=_with_memory(config, place))
        self._trainer = make_trainer(self.search, place.device, self._evaluated)
        self._place = place

    def do(self, item: ToGroup | ToTrain, tell: Callable[[Any], None], check: Callable[[], None]) -> Any:
        assert self._trainer is not None
        if isinstance(item, ToGroup):
            return self._grouped(item.strategies)
        self._tell = tell
        first = item.runs[0][1]
        with alone(first.with_name(f".lock-{first.name}"), f"{first}: its stack"):
            return [_portable(error) for error in train_stack(item.runs, self._trainer, lambda count: check())]

    def _evaluated(self, stack_size: int, evaluation: "Evaluation") -> None:
        if self._tell is not None:
            self._tell((stack_size, evaluation))

    def _grouped(self, strategies: Sequence[Strategy]) -> list[list[int]]:
        """Places in `strategies`."""
        from pipelines.device import resolve_device
        from pipelines.training.packing import in_stacks

        assert self._place is not None
        items = list(zip(strategies, range(len(strategies)), strict=True))
        device = resolve_device(self._place.device)
        stacks = in_stacks(items, self.search.config, self.search.widths, device, share=self._place.gpu_share)
        return [[place for _, place in stack] for stack in stacks]


class _Listener:
    def __init__(self, on_evaluation: "Callable[[int, Evaluation], None]") -> None:
        self._on_evaluation = on_evaluation

    def on_told(self, item: Any, event: "tuple[int, Evaluation]") -> None:
        self._on_evaluation(*event)

    def on_lost(self, item: Any) -> None:
        """The stack is trained on from its checkpoint."""


@contextmanager
def stacks_on_ray(
    search: SearchPlan,
    study: Study,
    device: str,
    cluster: ClusterChoices,
    on_evaluation: "Callable[[int, Evaluation], None]",
) -> Iterator[tuple[Engine, Grouping]]:
    """What trains the stacks of a search on a cluster, and what puts its trials into stacks, until the search ends.

    Raises:
        ValueError, OSError: no cluster, or a worker that differs from this process or cannot load the streams.
    """
    config = search.config
    named = {one.strategy.loss.class_embeddings for one in search.trials} - {""}
    files = [config.at(config.data.frames), *map(config.at, sorted(named))]
    needed = requirements(files, [], study.path / "runs")
    with (
        connected(cluster, device) as found,
        Pool(found, StackJob(search), needed, _Listener(on_evaluation)) as pool,
    ):
        pool.start()
        yield _engine(pool, study), _grouping(pool)


def _engine(pool: Pool, study: Study) -> Engine:
    def train(stacks: Iterator[Stack], advance: Advance) -> Iterator[tuple[Stack, Errors]]:
        items = (
            ToTrain(stack, tuple((trial.strategy, study.run_folder(trial)) for trial in stack)) for stack in stacks
        )
        for item, found in pool.map(items, lambda: advance(0)):
            yield item.stack, _lost_errors(study, item.stack, found) if isinstance(found, Lost) else found.value

    return train


def _grouping(pool: Pool) -> Grouping:
    def grouping(trials: Sequence[Trial]) -> list[Stack]:
        ((_, found),) = pool.map(iter([ToGroup(tuple(trial.strategy for trial in trials))]))
        if isinstance(found, Lost):
            raise ValueError(f"--engine ray: workers were lost again and again: {found.reason}")
        return [[trials[place] for place in stack] for stack in found.value]

    return grouping


def _lost_errors(study: Study, stack: Stack, lost: Lost) -> Errors:
    """For the trials of a stack that no worker survived, but for those whose runs were written."""
    reason = f"its workers were lost again and again ({lost.reason}; perhaps for memory)"
    return [None if study.is_finished(trial) else RuntimeError(reason) for trial in stack]


def _with_memory(config: Config, place: Place) -> Config:
    """`config`, where it does not say what streams may take with this worker's part of what is free."""
    from pipelines.device import resolve_device
    from pipelines.training.resident import GB, free_for_streams

    found = config.memory_gb or place.memory_share * free_for_streams(resolve_device(place.device)) / GB
    return replace(config, memory_gb=found)


def _portable(error: Exception | None) -> Exception | None:
    """An error that can travel, with where it was raised as a note."""
    if error is None:
        return None
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        error = RuntimeError(str(error) or type(error).__name__)
    error.add_note(f"On a worker:\n{where}")
    return error
