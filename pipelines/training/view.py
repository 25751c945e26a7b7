"""What a person sees of a training: a bar a model with its score so far, and the result as a table."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from cache.names import TASKS
from pipelines.progress import RateColumn
from pipelines.scoring.metrics import MAIN_SCORE
from pipelines.scoring.tables import TASK_TITLES
from pipelines.training.epochs import Epoch, Watch


@contextmanager
def training_progress() -> Iterator[Watch]:
    """Yields what is to be told of every epoch: a bar a model on standard error, silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn("epochs"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bars: dict[str, TaskID] = {}
        best: dict[str, Epoch] = {}

        def watch(note: Epoch) -> None:
            if note.model not in bars:
                bars[note.model] = bar.add_task(note.model, total=note.num_epochs, said="")
            if note.best:
                best[note.model] = note
            top, name = best[note.model], score_name(tuple(note.scores))
            said = f"{name} {note.p:.4f}, best {top.p:.4f} in epoch {top.epoch}"
            bar.update(bars[note.model], completed=note.epoch, said=said)

        yield watch


def print_result(folder: Path, manifest: Mapping[str, Any], metrics: Mapping[str, Any], *, as_json: bool) -> None:
    """The two scores of a run, apart: the one its epoch was chosen by, and the one on rows held out."""
    if as_json:
        print(json.dumps({"run": str(folder), "seconds": manifest["seconds"], **metrics}, indent=2))
        return
    console = Console()
    console.print(result_table(manifest, metrics))
    if metrics["report"]["unscored"]:
        lost = ", ".join(metrics["report"]["unscored"])
        console.print(f"held out: no labelled frame for {lost}, so no score there", highlight=False)
    epochs = ", ".join(f"{name} {epoch}" for name, epoch in metrics["epoch"].items())
    facts = f"best epoch: {epochs}   {manifest['num_parameters']:,} parameters   {manifest['seconds']:.1f} s"
    console.print(facts, highlight=False)
    console.print(f"run: {folder}", highlight=False, soft_wrap=True)


def result_table(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Table:
    """A task a row; selection and held-out scores in columns of their own, each with its labelled frames."""
    select, report, split = metrics["select"], metrics["report"], manifest["split"]
    tasks = [task for task in TASKS if task in metrics["tasks"]]
    table = Table()
    table.add_column("")
    for title, part in (("selection", "select"), ("held out", "report")):
        table.add_column(f"{title}\n({split[part]['of']})", justify="right")
        table.add_column("frames", justify="right")
    for task in tasks:
        cells = []
        for part in (select, report):
            cells += [number(part[MAIN_SCORE[task]]), f"{part[f'num_frames.{task}']:,}"]
        table.add_row(TASK_TITLES[task], *cells)
    name = score_name(tuple(tasks))
    table.add_row(f"[bold]{name}[/bold]", number(select["P"]), "", f"[bold]{number(report['P'])}[/bold]", "")
    return table


def score_name(tasks: tuple[str, ...]) -> str:
    """P where all tasks are in it, else what it sums."""
    return "P" if set(tasks) == set(TASKS) else f"sum over {', '.join(tasks)}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
