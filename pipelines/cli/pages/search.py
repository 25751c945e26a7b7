"""What `mtl search` prints: how far it is, then the leaderboard, and on standard error what failed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pipelines.cli.pages.consoles import wide_console
from pipelines.cli.pages.leaderboard import leaderboard_tables
from pipelines.progress import Advance, Bar, Lines, progress
from pipelines.refit.record import refit_notes
from pipelines.run_files import AGAIN
from pipelines.studies import Searched
from pipelines.terminal import say
from pipelines.words import alike_words, counted, stored_words, strategy_words

if TYPE_CHECKING:
    from pipelines.fitting.epochs import Evaluation

SHOWN_FAILURES = 5


class SearchPage:
    """Listens to a search: lines on `console`, and a bar that says how far the stack in training is, and the best score
    so far: a stack of many trials may take an hour."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.bar: Bar | Lines | None = None
        self._best = ""
        self._shown: tuple[str, int] = "", -1

    def on_damaged(self, reason: str, *, retrained: bool) -> None:
        what = reason.partition(f"; {AGAIN}")[0]
        then = "it is trained again" if retrained else "left out: the search that it is of trains it again"
        self._console.print(Text(f"{what}; {then}"), soft_wrap=True)

    def on_alike(self, num_alike: int, num_combinations: int) -> None:
        self._console.print(alike_words(num_alike, num_combinations), soft_wrap=True)

    def on_start(self, num_trials: int, num_finished: int, num_to_run: int) -> None:
        self._console.print(f"{counted(num_trials, 'trial')}: {num_finished} finished before, {num_to_run} to run")

    @contextmanager
    def training(self, num_to_run: int) -> Iterator[Advance]:
        with progress("searching", num_to_run, "trials") as bar:
            self.bar = bar
            yield bar

    def on_evaluation(self, stack_size: int, evaluation: "Evaluation") -> None:
        if (evaluation.model, evaluation.step) != self._shown:
            self._shown = evaluation.model, evaluation.step
            several = f"{stack_size:,} at once, " if stack_size > 1 else ""  # short: beside a bar in 80 columns
            self._note(f"{several}{evaluation.model} step {evaluation.step:,}/{evaluation.num_steps:,}")

    def on_best(self, words: str) -> None:
        self._best = words
        self._note("")

    def on_stored(self, names: Sequence[str]) -> None:
        say(stored_words(names), err=True)

    def on_waiting(self, num_stacks: int) -> None:
        self._note(f"waiting for {counted(num_stacks, 'stack')} of other processes")

    def _note(self, text: str) -> None:
        if self.bar is not None:
            self.bar.note(", ".join(filter(None, (text, self._best))))
            self.bar(0)


def print_results(found: Searched, console: Console) -> None:
    """The leaderboard, why the search ended, and which files were written."""
    search, outcome, board = found.search, found.outcome, found.board
    if board is None:
        _print_shard(found, console)
        return
    splits = [search.inputs.splits[fold] for fold in sorted(search.inputs.splits)]
    console.print(leaderboard_tables(board, console.width, splits=splits))
    halted = sum(bool(result.metrics.get("halted")) for row in board.rows for result in row.results)
    if halted:
        console.print(f"successive halving ended {counted(halted, 'training')} before its time")
    if outcome.stopped:
        console.print(
            f"stopped by {outcome.stopped}: {counted(outcome.num_left, 'trial')} left; the same command resumes"
        )
    elif outcome.num_left:
        console.print(f"{counted(outcome.num_left, 'trial')} left; the same command resumes")
    if outcome.num_elsewhere:
        console.print(
            f"{counted(outcome.num_elsewhere, 'trial')} finished by processes that write to another folder, and not in "
            f"this leaderboard: copy what is in its runs/ to {search.folder / 'runs'}, then type the same command",
            soft_wrap=True,
            markup=False,
        )
    for note in refit_notes(search.folder):
        console.print(note, soft_wrap=True)
    for name in ("leaderboard.csv", "leaderboard.json", "report.html"):
        if (search.folder / name).exists():
            console.print(str(search.folder / name), soft_wrap=True)


def _print_shard(found: Searched, console: Console) -> None:
    (number, count), outcome = found.part, found.outcome
    ended = f"shard {number}/{count}: {counted(outcome.num_done, 'trial')} finished, {outcome.num_left} left"
    console.print(f"{ended}, stopped by {outcome.stopped}" if outcome.stopped else ended)
    line = f"when all shards are done, `mtl search --grid {found.search.grid.path}` makes the leaderboard"
    console.print(line, soft_wrap=True, markup=False)


def print_failures(found: Searched) -> None:
    """On standard error: which trials failed, why, and what to type."""
    search, outcome = found.search, found.outcome
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
