"""A progress bar with rate and time left on standard error; silent where that is not a terminal."""

from collections.abc import Callable, Iterator
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
from rich.text import Text

Advance = Callable[[int], None]


class RateColumn(ProgressColumn):
    """Things done a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.1f} {self.unit}/s", style="progress.data.speed")


class Bar:
    """Called with the number of things done; `note` shows a few words beside the bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, count: int) -> None:
        self._bar.update(self._task, advance=count)

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=text)


@contextmanager
def progress(description: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
    """Yields what is to be called with each count; `done` is what an earlier run had finished already."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield Bar(bar, bar.add_task(description, total=total, completed=done, note=""))


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows that something of unknown length goes on; silent where standard error is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
