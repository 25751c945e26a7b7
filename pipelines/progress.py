"""Progress on standard error, with rate and time left: a bar on a terminal, elsewhere a line now and then.

`--quiet` silences both (`pipelines.terminal`).
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from pipelines.terminal import is_quiet, make_console, say_progress
from pipelines.words import duration_words

Advance = Callable[[int], None]
SHORT_S = 10.0  # work that is over sooner shows no line off a terminal


class RateColumn(ProgressColumn):
    """Items per second."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else rate_words(rate, self.unit), style="progress.data.speed")


class Bar:
    """A bar on a terminal. Called with the number of things done; `note` shows a few words beside it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, count: int) -> None:
        self._bar.update(self._task, advance=count)

    def reach(self, done: int) -> None:
        """So many are done in all."""
        self._bar.update(self._task, completed=done)

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=text)

    def close(self) -> None:
        """The work is over; the bar stays."""


class Lines:
    """The same off a terminal: a line of progress every few seconds, and one at the end; none for short work."""

    def __init__(self, title: str, total: int | None, unit: str, done: int = 0) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._before, self._done, self._shown, self._began_s, self._note = done, done, -1, time.monotonic(), ""

    def __call__(self, count: int) -> None:
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        self._done = done
        self._say()

    def note(self, text: str) -> None:
        self._note = text

    def close(self) -> None:
        """Shows how far it came, if anything was done at all and the last line did not say so."""
        if self._done > self._before and self._done != self._shown:
            self._say(last=True)

    def _say(self, *, last: bool = False) -> None:
        now_s = time.monotonic()
        if now_s - self._began_s >= SHORT_S and say_progress(self.line(now_s), last=last):
            self._shown = self._done

    def line(self, now_s: float) -> str:
        """ "extract va: 4,096 of 50,000 faces (8 %), 812.0 faces/s, 57 s left"; where all is done, how long it took.

        A total that is unknown, or was estimated too low, is left out.
        """
        seconds = max(now_s - self._began_s, 1e-9)
        rate = (self._done - self._before) / seconds
        if self._total is None or self._done > self._total:
            of, left = "", 0
        else:
            of, left = f" of {self._total:,}", self._total - self._done
        share = f" ({100 * self._done // self._total} %)" if self._total and of else ""
        ends = f"{duration_words(left / rate)} left" if left and rate else "" if left else duration_words(seconds)
        parts = [f"{self._done:,}{of} {self._unit}{share}"]
        if self._done > self._before:  # else nothing has been timed yet
            parts += [rate_words(rate, self._unit), ends]
        return f"{self._title}: " + ", ".join(filter(None, [*parts, self._note]))


class ProgressGroup:
    """Several pieces of work side by side, each with a bar or with lines."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._open: list[Bar | Lines] = []

    def add(self, title: str, total: int | None, unit: str, done: int = 0) -> Bar | Lines:
        """A new piece of work; `done` of `total` (None: unknown) is what an earlier run had finished already."""
        if self._bars is None:
            made: Bar | Lines = Lines(title, total, unit, done)
        else:
            made = Bar(self._bars, self._bars.add_task(title, total=total, completed=done, note=""))
        self._open.append(made)
        return made

    def close(self) -> None:
        """All of it is over."""
        for each in self._open:
            each.close()


@contextmanager
def progress_group(unit: str) -> Iterator[ProgressGroup]:
    """Yields what makes bars, or lines where standard error is no terminal; all count the same `unit`."""
    screen = make_console(stderr=True)
    if not _is_screen(screen):
        group = ProgressGroup(None)
        try:
            yield group
        finally:
            group.close()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        RateColumn(unit),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=screen, disable=is_quiet()) as bars:
        yield ProgressGroup(bars)


@contextmanager
def progress(description: str, total: int | None, unit: str, done: int = 0) -> Iterator[Bar | Lines]:
    """Yields what is to be called with each count; `done` is what an earlier run had finished already."""
    with progress_group(unit) as group:
        yield group.add(description, total, unit, done)


def rate_words(rate: float, unit: str) -> str:
    """ "812.0 faces/s"; below one per second "4.5 trials/min"."""
    return f"{rate:,.1f} {unit}/s" if rate >= 1 else f"{60 * rate:,.1f} {unit}/min"


def total_of(counts: Iterable[int | None]) -> int | None:
    """The sum; None where one is unknown."""
    found = list(counts)
    return None if None in found else sum(count for count in found if count is not None)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows that something of unknown length goes on; silent where standard error is not a terminal."""
    screen = make_console(stderr=True)
    if is_quiet() or not _is_screen(screen):
        yield
        return
    with screen.status(Text(text)):
        yield


def _is_screen(screen: Console) -> bool:
    return screen.is_terminal and not screen.is_dumb_terminal
