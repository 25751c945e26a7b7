"""Metrics as tables for people and as JSON for scripts."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from pipelines.metrics.challenge import MAIN_SCORE
from pipelines.terminal import make_console, say_json

TASK_TITLES = {"va": "VA: mean CCC", "expr": "EXPR: macro F1", "au": "AU: mean F1"}
DETAILS = {
    "va": {"valence": "va.ccc_valence", "arousal": "va.ccc_arousal"},
    "expr": {name: f"expr.f1.{name}" for name in EXPRESSIONS},
    "au": {name: f"au.f1.{name}" for name in ACTION_UNITS},
}


def print_metrics(metrics: Mapping[str, Any], *, as_json: bool, title: str = "") -> None:
    """Prints what `pipelines.metrics.challenge.score` returns: P and its parts, then every class and AU."""
    if as_json:
        say_json(metrics)
        return
    console = make_console()
    tasks = _tasks(metrics)
    console.print(parts_table(metrics, tasks, title))
    for task in tasks:
        line = "  ".join(f"{name} {metrics[key]:.3f}" for name, key in DETAILS[task].items())
        console.print(Text.assemble((task, "bold"), f"  {line}"))
    _print_undefined(metrics, console)
    for task, why in metrics.get("not_scored", {}).items():
        console.print(f"not scored: {task} ({why})")


def print_beside(plain: Mapping[str, Any], post: Mapping[str, Any], title: str) -> None:
    """Prints the metrics of the same frames without and with post-processing, side by side."""
    console = make_console()
    tasks = _tasks(plain)
    console.print(parts_table(plain, tasks, title, post))
    for task in tasks:
        pairs = ((name, plain[key], post[key]) for name, key in DETAILS[task].items())
        line = "  ".join(f"{name} {before:.3f} → {after:.3f}" for name, before, after in pairs)
        console.print(Text.assemble((task, "bold"), f"  {line}"))
    _print_undefined(post, console)


def parts_table(
    metrics: Mapping[str, Any], tasks: list[str], title: str, post: Mapping[str, Any] | None = None
) -> Table:
    """P and each task's part, with the number of labelled frames; and the same with post-processing, if given."""
    table = Table(title=title or None, title_justify="left")
    table.add_column("")
    sides = [metrics] if post is None else [metrics, post]
    for name in ["score"] if post is None else ["plain", "post-processed"]:
        table.add_column(name, justify="right")
    table.add_column("labelled frames", justify="right")
    for task in tasks:
        scores = [f"{side[MAIN_SCORE[task]]:.4f}" for side in sides]
        table.add_row(TASK_TITLES[task], *scores, f"{metrics[f'num_frames.{task}']:,}")
    name = "P" if len(tasks) == len(TASKS) else f"sum over {', '.join(tasks)} (not the official P)"
    table.add_row(name, *(Text(f"{side['P']:.4f}", "bold") for side in sides), "")
    return table


def _print_undefined(metrics: Mapping[str, Any], console: Console) -> None:
    if metrics["undefined"]:
        names = ", ".join(metrics["undefined"])
        console.print(f"no positive in labels and predictions, counted as 0: {names}")


def _tasks(metrics: Mapping[str, Any]) -> list[str]:
    return [task for task in TASKS if MAIN_SCORE[task] in metrics]
