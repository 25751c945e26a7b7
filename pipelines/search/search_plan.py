"""From mtl.toml and a grid to trials that can run: everything that can be wrong is found here, before any training."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.frames import Frames, frames_digest, labels_digest, open_frames
from cache.labels import Schema
from cache.locks import WHOLE, Part, part_of
from cache.store import Cache
from cache.valid_names import problem_of_name
from pipelines.concerns import warn_of, without_effect_in, without_effect_in_all
from pipelines.config import Config, SplitConfig
from pipelines.folds import NO_FOLD
from pipelines.needed_streams import open_cache
from pipelines.progress import Advance
from pipelines.search.grid import Grid, check, every, expand, num_combinations, read_grid
from pipelines.search.loop import Trainer
from pipelines.search.samplers import next_trials
from pipelines.search.stack_queue import Chooser, Grouping, begun_and_others, pending
from pipelines.search.study import Result, Study, StudyInputs, Trial, make_trials, stream_label
from pipelines.splits import splits_of
from pipelines.strategy import Strategy, strategy_of, streams_of, tasks_with_labels
from pipelines.torch_import import import_torch
from pipelines.training.halving import Halving

if TYPE_CHECKING:
    from pipelines.fitting.epochs import Evaluation

ITEM_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """A grid over the data of mtl.toml. `config` has the split that the grid asks for; `keys` are (stream, view)."""

    config: Config
    grid: Grid
    folder: Path
    frames: Frames
    inputs: StudyInputs
    trials: tuple[Trial, ...]
    keys: tuple[tuple[str, str], ...]

    @property
    def halving(self) -> Halving | None:
        study = self.grid.study
        return Halving(study.halving, study.halving_first) if study.halving else None

    @property
    def num_combinations(self) -> int:
        """How many the grid has: those that train the same are one trial."""
        return num_combinations(self.grid, strategy_of(self.config), self.config.split.inner_folds)

    @property
    def num_wanted(self) -> int:
        """How many of the trials are to be tried in all."""
        return min(self.grid.study.trials or len(self.trials), len(self.trials))

    @property
    def widths(self) -> dict[str, int]:
        """D of every stream, by name."""
        return {label.partition("@")[0]: int(about["width"]) for label, about in self.inputs.streams.items()}

    @property
    def resident_bytes(self) -> int:
        """Memory of the streams, which are read once and stay."""
        streams = self.inputs.streams.values()
        return sum(ITEM_BYTES[self.config.cache.dtype] * self.inputs.num_rows * one["width"] for one in streams)


def read_strategies(config: Config, grid_path: Path) -> tuple[Config, Grid, tuple[Strategy, ...]]:
    """The grid's strategies, each one checked; and `config` with the split the grid asks for. Needs no data.

    Raises:
        ValueError: a key, value or combination that cannot be trained.
    """
    grid = read_grid(grid_path, config.schema)
    config = dataclasses.replace(config, split=grid.split(config.split))
    _check_inner(config.split)
    strategies = expand(grid, strategy_of(config), config.split.inner_folds)
    check(strategies, config, str(grid.path))
    _warn(grid, config, strategies)
    return config, grid, strategies


def _warn(grid: Grid, config: Config, strategies: Sequence[Strategy]) -> None:
    """Warns of what the grid says and none of its strategies heeds."""
    whole = every(grid, strategy_of(config))  # of those that train the same, `strategies` has but the first
    found = [*without_effect_in_all(whole, grid.fields), *without_effect_in("study", grid.study)]
    if config.split.inner_folds > 1 and all(one.train.fold == NO_FOLD for one in strategies):
        found.append(f"[split] inner_folds = {config.split.inner_folds} (fold = 'none')")
    warn_of(found, str(grid.path))


def _check_inner(split: SplitConfig) -> None:
    most = max(split.num_folds - 1, 1)
    if not 1 <= split.inner_folds <= most:
        raise ValueError(
            f"[split] inner_folds = {split.inner_folds}: inside an outer fold one of the other {most} folds of "
            f"num_folds = {split.num_folds} chooses; 1 to {most} of them can in turn"
        )


def make_plan(config: Config, grid: Grid, strategies: Sequence[Strategy], study: Path | None = None) -> SearchPlan:
    """The trials of `strategies` over the frames table and the cache; `study` is the folder, by default the grid's.

    Raises:
        ValueError: no frames table, a stream that is missing or incomplete, or a task without labels.
    """
    if grid.study.sampler == "tpe" and len({one.head.predicted for one in strategies}) > 1:
        raise ValueError(
            f"{grid.path}: [study] sampler = 'tpe' goes by P, and P of different tasks does not compare; give the grid "
            "one value of tasks or of targets, or use sampler = 'random'"
        )
    frames = open_frames(config.at(config.data.frames), config.schema)
    keys = {
        (name, view): None
        for one in strategies
        for used in streams_of(one, config).values()
        for name in used
        for view in one.train.views
    }
    inputs = _inputs(config, frames, tuple(keys), strategies)
    return SearchPlan(
        config=config,
        grid=grid,
        folder=study or config.at(config.output.studies) / study_name(grid),
        frames=frames,
        inputs=inputs,
        trials=make_trials(strategies, config, inputs),
        keys=tuple(keys),
    )


def study_name(grid: Grid) -> str:
    """The name of the grid's study: [study] name, else that of the grid's file, which must be able to be one."""
    if problem := problem_of_name(grid.name):
        raise ValueError(f"{grid.path}: its study would be called {grid.name!r}, but {problem}; --study names a folder")
    return grid.name


def make_chooser(search: SearchPlan, study: Study, part: Part = WHOLE) -> Chooser:
    """What to run next, by the sampler of the grid; of that a part.

    Raises:
        ValueError: a sampler that goes by results has no parts.
    """
    if part != WHOLE:
        own = _of_part(search, part)
        return lambda left: [trial for trial in left if trial.digest in own]

    def finished() -> list[Result]:
        found = []
        for trial in search.trials:
            with suppress(ValueError):  # a damaged run: the search names it, and trains it again
                found += [study.result(trial)] if study.is_finished(trial) else []
        return found

    return lambda left: next_trials(search.grid.study, search.trials, left, finished)


def _of_part(search: SearchPlan, part: Part) -> frozenset[str]:
    """The trials of one part, whatever is finished and on whatever device: a run of all that the sampler names, those
    that can train as one stack side by side."""
    from pipelines.training.packing import stack_key

    if search.grid.study.sampler == "tpe":
        raise ValueError(
            f"{search.grid.path}: [study] sampler = 'tpe' goes by the results of all trials, so it has no parts; use "
            "sampler = 'random', or share the study by storage = 'postgresql://...' without --shard"
        )
    groups: dict[str, list[str]] = {}
    for trial in next_trials(search.grid.study, search.trials, search.trials, list):
        groups.setdefault(stack_key(trial.strategy, search.config), []).append(trial.digest)
    digests = list(itertools.chain(*groups.values()))
    return frozenset(digests[index] for index in part_of(part, len(digests)))


def to_run(
    search: SearchPlan, study: Study, *, retry_failed: bool, part: Part = WHOLE, limit: int | None = None
) -> list[Trial]:
    """The trials that a search of at most `limit` would run now; with TPE, which chooses as it goes, as many as it
    would run."""
    left = pending(study, search.trials, retry_failed=retry_failed, halted=search.halving is None)
    if search.grid.study.sampler == "tpe" and part == WHOLE:
        chosen = left[: max(0, search.num_wanted - (len(search.trials) - len(left)))]
    else:
        chosen = make_chooser(search, study, part)(left)
    begun, others = begun_and_others(study, chosen, chosen, limit)
    still = {trial.digest for trial in chosen}
    return [*(trial for stack in begun for trial in stack if trial.digest in still), *others]


def make_grouping(search: SearchPlan, device: str) -> Grouping:
    """Puts trials into the stacks in which they train on `device`."""
    import_torch()
    from pipelines.device import resolve_device
    from pipelines.training.packing import in_stacks

    where = resolve_device(device)

    def grouping(trials: Sequence[Trial]) -> list[list[Trial]]:
        stacks = in_stacks([(trial.strategy, trial) for trial in trials], search.config, search.widths, where)
        return [[trial for _, trial in stack] for stack in stacks]

    return grouping


def make_trainer(
    search: SearchPlan,
    device: str,
    on_evaluation: Callable[[int, "Evaluation"], None] = lambda size, evaluation: None,
    on_stored: Callable[[Sequence[str]], None] = lambda names: None,
) -> Trainer:
    """Reads the streams once; the trainer returned trains any number of stacks over them, and the table of the plan.

    `on_evaluation` is called after every evaluation of a head, with the number of trials in its stack; `on_stored` with
    the streams that do not fit into memory.

    Raises:
        ValueError: a stream is no longer the one that was planned with.
    """
    import_torch()
    from pipelines.device import resolve_device
    from pipelines.training.dataset import load_dataset
    from pipelines.training.run import train_runs

    dataset = load_dataset(search.config, search.keys, resolve_device(device), search.frames)
    for (name, view), identity in dataset.resident.identities.items():
        if identity.digest != search.inputs.streams[stream_label(name, view)]["identity"]:
            raise ValueError(f"stream {name} was extracted anew meanwhile; type the same command again")
    if dataset.resident.stored:
        on_stored(dataset.resident.stored)

    def trainer(stack: Sequence[tuple[Strategy, Path]], advance: Advance) -> Sequence[Exception | None]:
        return train_runs(
            search.config,
            dataset,
            stack,
            halving=search.halving,
            poll=lambda: advance(0),
            on_evaluation=lambda evaluation: on_evaluation(len(stack), evaluation),
        )

    return trainer


def _inputs(
    config: Config, frames: Frames, keys: Sequence[tuple[str, str]], strategies: Sequence[Strategy]
) -> StudyInputs:
    folds = sorted({strategy.train.fold for strategy in strategies})
    splits = {
        fold: split.description for fold, split in splits_of(frames, config.split, folds, config.schema)[1].items()
    }
    for strategy in strategies:
        _check_labels(splits[strategy.train.fold], strategy, config.schema)
    digest = frames_digest(frames)
    return StudyInputs(
        frames=digest,
        labels=labels_digest(frames, config.schema),
        num_rows=len(frames),
        streams=_streams(open_cache(config, keys), keys, digest, len(frames)),
        splits=splits,
        schema=config.schema,
    )


def _streams(cache: Cache, keys: Sequence[tuple[str, str]], digest: str, num_rows: int) -> dict[str, dict[str, Any]]:
    """What each stream is; refuses one that is missing, incomplete or of other frames than those of `digest`."""
    found = {}
    for name, view in keys:
        stream = cache.stream(name, view)
        stream.require_complete()
        identity = stream.identity
        if identity.frames != digest:
            raise ValueError(
                f"stream {name} was extracted for another frame list (cached {identity.num_frames} frames, wanted "
                f"{num_rows}); type {stream.remake_hint}"
            )
        about = {"identity": identity.digest, "backbone": identity.backbone, "width": identity.width}
        found[stream_label(name, view)] = about
    return found


def _check_labels(split: Mapping[str, Any], strategy: Strategy, schema: Schema) -> None:
    """Raises `ValueError` where a task has no labelled frame to learn from or to choose on, or none is held out."""
    for part in ("train", "select"):
        tasks = tasks_with_labels(strategy, part)
        if missing := [task for task in tasks if not split[part]["labelled"][schema.tasks[task].group.name]]:
            where = split[part]["of"]
            raise ValueError(f"task {missing[0]}: no labelled frame in {where}; leave the task out of the grid's tasks")
    if not any(split["report"]["labelled"].values()):
        where = split["report"]["of"]
        raise ValueError(f'{where} has no labels to score; write report = "auto" under [study], or prepare its labels')
