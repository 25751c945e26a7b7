"""One study: what is left of its trials is run, then leaderboard and report are written. Nothing is printed here."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cache.locks import WHOLE, Part
from pipelines.cluster.connection import ClusterChoices
from pipelines.config import Config
from pipelines.json_files import write_text
from pipelines.postprocess.run_folders import Truth
from pipelines.progress import Advance
from pipelines.report.command import write_study_report
from pipelines.results.backbone_rows import with_backbones
from pipelines.results.evidence import Reader, with_intervals
from pipelines.results.leaderboard import Leaderboard, make_leaderboard
from pipelines.results.leaderboard_files import to_json, write_leaderboard
from pipelines.search.loop import Engine, NoRecord, Recorder, SearchSummary, one_at_a_time, run_trials
from pipelines.search.search_plan import (
    SearchPlan,
    make_chooser,
    make_grouping,
    make_plan,
    make_trainer,
    read_strategies,
    to_run,
)
from pipelines.search.stack_queue import Grouping, one_by_one
from pipelines.search.study import Study, open_study, read_study
from pipelines.splits import assignment, splits_of
from pipelines.strategy import Strategy
from pipelines.torch_import import import_torch
from pipelines.trackers import track_run

if TYPE_CHECKING:
    from pipelines.fitting.epochs import Evaluation


class StudyListener(Protocol):
    """What a search reports while it runs."""

    def on_damaged(self, reason: str, *, retrained: bool) -> None:
        """A finished trial cannot be used; `retrained` says that this search trains it again."""

    def on_alike(self, num_alike: int, num_combinations: int) -> None:
        """So many combinations of the grid train the same as one before."""

    def on_start(self, num_trials: int, num_finished: int, num_to_run: int) -> None:
        """The study is open; so many of its trials were finished before."""

    def training(self, num_to_run: int) -> AbstractContextManager[Advance]:
        """Entered around the training; yields what is called with the number of trials after each stack."""

    def on_evaluation(self, stack_size: int, evaluation: "Evaluation") -> None:
        """A head in a stack of `stack_size` trials was scored; all of them come to the same step."""

    def on_best(self, words: str) -> None:
        """The best score of finished trials, in words; empty where there is none."""

    def on_stored(self, names: Sequence[str]) -> None:
        """These streams do not fit into memory, and are read from the cache while it trains."""

    def on_waiting(self, num_stacks: int) -> None:
        """All that is left is in the hands of other processes: so many stacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A search that has ended, and the leaderboard of its study; one of a `part` of it makes none."""

    search: SearchPlan
    board: Leaderboard | None
    outcome: SearchSummary
    part: Part = WHOLE

    def to_json(self) -> dict[str, Any]:
        """leaderboard.json with what this search did; the keys are stable."""
        outcome = self.outcome
        failed = [{"run": f"runs/{trial.digest}", "reason": reason} for trial, reason in outcome.failed]
        counts = {"num_done": outcome.num_done, "num_before": outcome.num_before, "num_left": outcome.num_left}
        did = {**counts, "num_elsewhere": outcome.num_elsewhere, "failed": failed, "stopped": outcome.stopped}
        if self.board is None:
            return {**_head(self.search), "shard": f"{self.part[0]}/{self.part[1]}", **did}
        return to_json(self.board, {**_head(self.search), **did})


def run_search(
    config: Config,
    grid_path: Path,
    folder: Path | None,
    device: str,
    listener: StudyListener,
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    track: str = "",
    part: Part = WHOLE,
    cluster: ClusterChoices | None = None,
) -> Searched:
    """Runs what is left of the search of a grid, or of a part of it, at most `limit` trials, and writes the results;
    those of parts are left to a search of the whole. Stacks are trained here, or by the workers of a `cluster`.

    Runs are tracked by the tracker `track` when their stack is finished.

    Raises:
        ValueError: a grid, table, stream or device is not as it must be, another process holds the study, or there is
            no such cluster.
    """
    config, grid, strategies = read_strategies(config, grid_path)
    search = make_plan(config, grid, strategies, folder)
    is_shared = search.grid.study.is_shared
    if is_shared and (part != WHOLE or cluster is not None):
        option = "--shard" if part != WHOLE else "--engine ray"
        raise ValueError(f"{grid.path}: [study] storage shares the trials among all searches; leave out {option}")
    if cluster is None:
        _check_device(search, device, retry_failed=retry_failed, part=part)
    with open_study(search.folder, grid, search.inputs, search.trials, part=part, is_shared=is_shared) as study:
        outcome = _run(
            search,
            study,
            device,
            listener,
            retry_failed=retry_failed,
            limit=limit,
            track=track,
            part=part,
            cluster=cluster,
        )
        with study.turn():
            board = write_results(search, study.as_planned_now()) if part == WHOLE else None
    return Searched(search=search, board=board, outcome=outcome, part=part)


def write_results(search: SearchPlan, study: Study) -> Leaderboard:
    """The leaderboard of all finished trials of the study, and its files; no report while there is no result."""
    reader = Reader(search.frames, search.config.schema)
    board = with_intervals(make_leaderboard(study.results(), search.config.schema), search.frames, reader=reader)
    board = with_backbones(board, search.config, search.inputs, search.frames)
    write_leaderboard(board, study.path, _head(search))
    config, inputs = search.config, search.inputs
    splits = splits_of(search.frames, config.split, inputs.splits, config.schema)
    write_text(study.path / "splits.csv", assignment(*splits).write_csv())
    if board.rows:
        truth = Truth(
            frames=search.frames,
            path=config.at(config.data.frames),
            frames_digest=inputs.frames,
            labels_digest=inputs.labels,
            schema=config.schema,
        )
        write_study_report(study, board, reader, truth, config.at(config.data.faces))
    return board


def _run(
    search: SearchPlan,
    study: Study,
    device: str,
    listener: StudyListener,
    *,
    retry_failed: bool,
    limit: int | None,
    track: str,
    part: Part,
    cluster: ClusterChoices | None,
) -> SearchSummary:
    """The trials that are left; with none left no stream is read."""
    from pipelines.search.record import Record

    choose = make_chooser(search, study, part)
    trials = search.trials if part == WHOLE else tuple(choose(search.trials))
    of_grid = {trial.digest for trial in trials}
    for trial, reason in study.damaged(None if part == WHOLE else trials):
        listener.on_damaged(reason, retrained=trial.digest in of_grid)
        if trial.digest in of_grid and not search.grid.study.is_shared:  # there whoever trains it clears it
            study.clear(trial)
    todo = to_run(search, study, retry_failed=retry_failed, part=part, limit=limit)
    before = sum(study.is_finished(trial) for trial in trials)
    num_combinations = search.num_combinations
    if (num_alike := num_combinations - len(search.trials)) > 0:
        listener.on_alike(num_alike, num_combinations)
    listener.on_start(len(trials), before, len(todo))
    halted = search.halving is None
    with ExitStack() as stack:
        engine: Engine = one_at_a_time(study, _no_trainer)
        grouping: Grouping = one_by_one
        if todo and cluster is None:
            engine = one_at_a_time(study, make_trainer(search, device, listener.on_evaluation, listener.on_stored))
            grouping = make_grouping(search, device)
        elif todo and cluster is not None:
            from pipelines.search.on_ray import stacks_on_ray

            engine, grouping = stack.enter_context(
                stacks_on_ray(search, study, device, cluster, listener.on_evaluation)
            )
        advance = stack.enter_context(listener.training(len(todo))) if todo else _no_advance
        record: Recorder
        queue, own = None, None
        if search.grid.study.is_shared:
            from pipelines.search.sharing import sharing

            record, queue = stack.enter_context(
                sharing(
                    study,
                    trials,
                    search.grid,
                    grouping,
                    choose,
                    retry_failed=retry_failed,
                    halted=halted,
                    advance=advance,
                    on_waiting=listener.on_waiting,
                )
            )
            own = queue.own
        elif part == WHOLE:
            record = Record(study, search.grid.fields)
        else:
            record = NoRecord()
        return run_trials(
            study,
            trials,
            engine,
            record,
            retry_failed=retry_failed,
            limit=limit,
            time_limit_s=search.grid.study.time_limit_s,
            advance=_tracking(study, track, search.config.at(Path()), advance, own),
            note=listener.on_best,
            grouping=grouping,
            choose=choose,
            halted=halted,
            queue=queue,
        )


def _tracking(study: Study, track: str, home: Path, advance: Advance, own: Collection[str] | None) -> Advance:
    """`advance`, after which the runs are tracked that were finished since, those of the digests `own` where several
    processes make them; those finished before are not."""
    if not track:
        return advance
    seen = {trial.digest for trial in study.trials.values() if study.is_finished(trial)}

    def advanced(count: int) -> None:
        advance(count)
        for digest, trial in study.trials.items():
            if digest not in seen and (own is None or digest in own) and study.is_finished(trial):
                seen.add(digest)
                track_run(track, study.run_folder(trial), home, f"{study.path.name}-{digest}")

    return advanced


def _check_device(search: SearchPlan, device: str, *, retry_failed: bool, part: Part) -> None:
    """Raises `ValueError` for a device that is not there, before the study's folder is made; with nothing to run, any
    device will do."""
    if to_run(search, read_study(search.folder), retry_failed=retry_failed, part=part):
        import_torch()
        from pipelines.device import resolve_device

        resolve_device(device)


def _head(search: SearchPlan) -> dict[str, Any]:
    """What opens leaderboard.json."""
    return {
        "study": str(search.folder),
        "grid": str(search.grid.path),
        "splits": {str(fold): dict(split) for fold, split in search.inputs.splits.items()},
    }


def _no_trainer(stack: Sequence[tuple[Strategy, Path]], advance: Advance) -> Sequence[Exception | None]:
    raise AssertionError("nothing is left to run")


def _no_advance(count: int) -> None:
    pass
