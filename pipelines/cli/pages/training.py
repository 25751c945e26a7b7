"""Progress and result of a training: one bar per model with its score so far, and the result as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from cache.labels import ABAW, Schema, schema_of
from pipelines.fitting.epochs import Evaluation
from pipelines.metrics.challenge import main_key
from pipelines.progress import Bar, Lines, progress_group
from pipelines.strategy import Strategy
from pipelines.terminal import make_console, say_json
from pipelines.training.budget import budget_words, context_warnings, shortfall
from pipelines.words import score_title


@contextmanager
def training_progress(schema: Schema = ABAW) -> Iterator[Callable[[Evaluation], None]]:
    """Yields the callback for every evaluation: a bar per model on standard error, or lines off a terminal."""
    with progress_group("steps") as group:
        bars: dict[str, Bar | Lines] = {}
        best: dict[str, Evaluation] = {}

        def on_evaluation(note: Evaluation) -> None:
            if note.model not in bars:
                bars[note.model] = group.add(note.model, note.num_steps, "steps", note.step)  # timed from here
            if note.best:
                best[note.model] = note
            top, name = best[note.model], score_name(tuple(note.scores), schema)
            if note.scores:  # none in a refit
                bars[note.model].note(f"{name} {note.p:.4f}, best {top.p:.4f} at step {top.step}")
            bars[note.model].reach(note.step)

        yield on_evaluation


def print_result(folder: Path, manifest: Mapping[str, Any], metrics: Mapping[str, Any], *, as_json: bool) -> None:
    """The two scores of a run in separate tables: selection and held-out."""
    if as_json:
        about = {"run": str(folder), "seconds": manifest["seconds"], "budget": manifest["budget"]}
        say_json({**about, "warnings": warnings_of(manifest), **metrics})
        return
    console = make_console()
    console.print(result_table(manifest, metrics))
    if metrics["report"]["unscored"]:
        lost = ", ".join(metrics["report"]["unscored"])
        console.print(f"held out: no labelled frame for {lost}, so no score there")
    steps = ", ".join(f"{name} {step}" for name, step in metrics["step"].items())
    facts = f"best step: {steps}   {manifest['num_parameters']:,} parameters   {manifest['seconds']:.1f} s"
    console.print(facts)
    console.print(f"at most {budget_words(manifest['budget'])}")
    for line in warnings_of(manifest):
        console.print(f"warning: {line}", style="yellow", soft_wrap=True)
    console.print(f"run: {folder}", soft_wrap=True)


def warnings_of(manifest: Mapping[str, Any]) -> list[str]:
    """Warnings of too few steps, embeddings or context, one line each."""
    strategy = Strategy().replace(manifest["strategy"], "run.json")
    found = [shortfall(strategy)]
    for part, where in (("train", "train"), ("select", "selection"), ("report", "held out")):
        found += context_warnings(manifest["context"][part], strategy, where)
    return [line for line in found if line]


def result_table(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Table:
    """One row per task; selection and held-out scores in columns of their own, each with its labelled frames."""
    select, report, split = metrics["select"], metrics["report"], manifest["split"]
    schema = schema_of(manifest["schema"], "run.json")
    tasks = schema.scored(metrics["tasks"])
    table = Table()
    table.add_column("")
    for title, part in (("selection", "select"), ("held out", "report")):
        table.add_column(f"{title}\n({split[part]['of']})", justify="right")
        table.add_column("frames", justify="right")
    for task in tasks:
        cells = []
        for part in (select, report):
            cells += [number(part[main_key(task.group)]), f"{part[f'num_frames.{task.group.name}']:,}"]
        table.add_row(score_title(task), *cells)
    name = score_name([task.name for task in tasks], schema)
    table.add_row(name, number(select["P"]), "", number(report["P"]), "", style="bold")
    return table


def score_name(tasks: Sequence[str], schema: Schema) -> str:
    """P if it has all tasks, else the groups it sums."""
    return "P" if schema.is_complete(tasks) else f"sum over {', '.join(tasks)}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
