"""What `mtl search` does and prints: the search with its leaderboard and report; `preview` has its dry run."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from pipelines.config import Config
from pipelines.files import write_text
from pipelines.progress import Advance, Bar, Lines, progress
from pipelines.report.study import write_report
from pipelines.run_files import AGAIN
from pipelines.scoring.backbone_rows import with_backbones
from pipelines.scoring.evidence import with_intervals
from pipelines.scoring.leaderboard import Leaderboard, make_leaderboard
from pipelines.scoring.leaderboard_files import to_json, write_leaderboard
from pipelines.scoring.leaderboard_table import leaderboard_tables
from pipelines.search.loop import Outcome, Trainer, one_by_one, run_trials
from pipelines.search.plan import (
    SearchPlan,
    make_chooser,
    make_grouping,
    make_plan,
    make_trainer,
    read_strategies,
    to_run,
)
from pipelines.search.preview import wide_console
from pipelines.search.study import Study, open_study, read_study
from pipelines.splits import assignment, resolve_split
from pipelines.terminal import say_json
from pipelines.training.strategy import Strategy
from pipelines.words import counted, strategy_words

if TYPE_CHECKING:
    from pipelines.training.evaluations import Evaluation

SHOWN_FAILURES = 5
STOPPED = 130


def run_search(
    config: Config,
    grid_path: Path,
    folder: Path | None,
    device: str,
    *,
    retry_failed: bool,
    limit: int | None,
    as_json: bool,
) -> int:
    """Runs what is left of the search, writes the results, prints them; the exit code."""
    config, grid, strategies = read_strategies(config, grid_path)
    search = make_plan(config, grid, strategies, folder)
    _check_device(search, device, retry_failed=retry_failed)
    console = wide_console(stderr=as_json)
    with open_study(search.folder, grid, search.material, search.trials) as study:
        outcome = _run(search, study, device, console, retry_failed=retry_failed, limit=limit)
        board = write_results(search, study)
    if as_json:
        say_json(to_json(board, _head(search, outcome)))
    else:
        _print_results(search, board, outcome, console)
    _print_failures(search, outcome)
    if outcome.stopped == "Ctrl-C":
        return STOPPED
    return 1 if outcome.failed else 0


def write_results(search: SearchPlan, study: Study) -> Leaderboard:
    """The leaderboard of all finished trials of the study, and its files; no report while there is no result."""
    board = with_intervals(make_leaderboard(study.results()), search.frames)
    board = with_backbones(board, search.config, search.material, search.frames)
    write_leaderboard(board, study.path, _head(search))
    folds = {fold: resolve_split(search.frames, search.config.split, fold) for fold in search.material.splits}
    write_text(study.path / "splits.csv", assignment(search.frames, folds).write_csv())
    if board.rows:
        write_report(study, board, search.frames)
    return board


def _run(
    search: SearchPlan, study: Study, device: str, console: Console, *, retry_failed: bool, limit: int | None
) -> Outcome:
    """The trials that are left; with none left no stream is read."""
    from pipelines.search.record import Record

    of_grid = {trial.digest for trial in search.trials}
    for trial, reason in study.damaged():
        what = reason.partition(f"; {AGAIN}")[0]
        if trial.digest in of_grid:
            console.print(Text(f"{what}; it is trained again"), soft_wrap=True)
            study.clear(trial)
        else:
            console.print(Text(f"{what}; left out: the search that it is of trains it again"), soft_wrap=True)
    todo = to_run(search, study, retry_failed=retry_failed)[:limit]
    before = sum(study.is_finished(trial) for trial in search.trials)
    console.print(f"{counted(len(search.trials), 'trial')}: {before} finished before, {len(todo)} to run")
    told = StackNotes()
    trainer: Trainer = make_trainer(search, device, told.watch) if todo else _no_trainer
    with progress("searching", len(todo), "trials") if todo else nullcontext() as bar:
        told.bar = bar
        return run_trials(
            study,
            search.trials,
            trainer,
            Record(study, search.grid.fields, search.grid.study.storage),
            retry_failed=retry_failed,
            limit=limit,
            time_limit_s=search.grid.study.time_limit_s,
            advance=bar or (lambda count: None),
            note=told.best,
            grouping=make_grouping(search, device) if todo else one_by_one,
            choose=make_chooser(search, study),
            halted=search.halving is None,
        )


class StackNotes:
    """Says how far the stack in training is, and the best score so far: a stack of many trials may take an hour."""

    def __init__(self) -> None:
        self.bar: Bar | Lines | None = None
        self._best = ""
        self._shown: tuple[str, int] = "", -1

    def best(self, text: str) -> None:
        """The best score of finished trials, in words."""
        self._best = text
        self._note("")

    def watch(self, size: int, note: "Evaluation") -> None:
        """An evaluation of a head in a stack of `size` trials; all of them come to the same step."""
        if (note.model, note.step) != self._shown:
            self._shown = note.model, note.step
            several = f"{size:,} at once, " if size > 1 else ""  # short: beside a bar in 80 columns
            self._note(f"{several}{note.model} step {note.step:,}/{note.num_steps:,}")

    def _note(self, text: str) -> None:
        if self.bar is not None:
            self.bar.note(", ".join(filter(None, (text, self._best))))
            self.bar(0)


def _check_device(search: SearchPlan, device: str, *, retry_failed: bool) -> None:
    """Raises `ValueError` for a device that is not there, before the study's folder is made; with nothing to run, any
    device will do."""
    if to_run(search, read_study(search.folder), retry_failed=retry_failed):
        from pipelines.device import resolve_device

        resolve_device(device)


def _head(search: SearchPlan, outcome: Outcome | None = None) -> dict[str, Any]:
    """What opens leaderboard.json, and with `outcome` what --json prints."""
    head: dict[str, Any] = {
        "study": str(search.folder),
        "grid": str(search.grid.path),
        "splits": {str(fold): dict(split) for fold, split in search.material.splits.items()},
    }
    if outcome is None:
        return head
    failed = [{"run": f"runs/{trial.digest}", "reason": reason} for trial, reason in outcome.failed]
    counts = {"num_done": outcome.num_done, "num_before": outcome.num_before, "num_left": outcome.num_left}
    return {**head, **counts, "failed": failed, "stopped": outcome.stopped}


def _print_results(search: SearchPlan, board: Leaderboard, outcome: Outcome, console: Console) -> None:
    splits = [search.material.splits[fold] for fold in sorted(search.material.splits)]
    console.print(leaderboard_tables(board, console.width, splits=splits))
    halted = sum(bool(result.metrics.get("halted")) for row in board.rows for result in row.results)
    if halted:
        console.print(f"successive halving ended {counted(halted, 'training')} before its time")
    if outcome.stopped:
        console.print(
            f"stopped by {outcome.stopped}: {counted(outcome.num_left, 'trial')} left; the same command goes on"
        )
    elif outcome.num_left:
        console.print(f"{counted(outcome.num_left, 'trial')} left; the same command goes on")
    for name in ("leaderboard.csv", "leaderboard.json", "report.html"):
        if (search.folder / name).exists():
            console.print(str(search.folder / name), soft_wrap=True)


def _print_failures(search: SearchPlan, outcome: Outcome) -> None:
    """On standard error: which trials failed, why, and what to type."""
    if not outcome.failed:
        return
    console = wide_console(stderr=True)
    console.print(f"{counted(len(outcome.failed), 'trial')} failed; --retry-failed tries again:")
    fields = ["tasks", *(name for name in search.grid.fields if name != "tasks")]
    for trial, reason in outcome.failed[:SHOWN_FAILURES]:
        words = strategy_words(trial.strategy.flat(), fields)
        console.print(f"  {words}: {reason}", soft_wrap=True)
    if len(outcome.failed) > SHOWN_FAILURES:
        console.print(f"  and {len(outcome.failed) - SHOWN_FAILURES} more in {search.folder / 'failed.json'}")


def _no_trainer(stack: Sequence[tuple[Strategy, Path]], advance: Advance) -> Sequence[Exception | None]:
    raise AssertionError("nothing is left to run")
