"""Metrics as tables for people and as JSON for scripts."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from pipelines.scoring.metrics import MAIN_SCORE

TASK_TITLES = {"va": "VA: mean CCC", "expr": "EXPR: macro F1", "au": "AU: mean F1"}


def print_metrics(metrics: Mapping[str, Any], *, as_json: bool, title: str = "") -> None:
    """Prints what `pipelines.scoring.metrics.score` returns: P and its parts, then every class and AU."""
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    console = Console()
    tasks = [task for task in TASKS if MAIN_SCORE[task] in metrics]
    console.print(parts_table(metrics, tasks, title))
    details = {
        "va": {"valence": "va.ccc_valence", "arousal": "va.ccc_arousal"},
        "expr": {name: f"expr.f1.{name}" for name in EXPRESSIONS},
        "au": {name: f"au.f1.{name}" for name in ACTION_UNITS},
    }
    for task in tasks:
        line = "  ".join(f"{name} {metrics[key]:.3f}" for name, key in details[task].items())
        console.print(f"[bold]{task}[/bold]  {line}", highlight=False)
    if metrics["undefined"]:
        names = ", ".join(metrics["undefined"])
        console.print(f"no positive in labels and predictions, counted as 0: {names}", highlight=False)


def parts_table(metrics: Mapping[str, Any], tasks: list[str], title: str) -> Table:
    """P and each task's part, with the number of labelled frames."""
    table = Table(title=title or None, title_justify="left")
    table.add_column("")
    table.add_column("score", justify="right")
    table.add_column("labelled frames", justify="right")
    for task in tasks:
        table.add_row(TASK_TITLES[task], f"{metrics[MAIN_SCORE[task]]:.4f}", f"{metrics[f'num_frames.{task}']:,}")
    name = "P" if len(tasks) == len(TASKS) else f"sum over {', '.join(tasks)} (not the official P)"
    table.add_row(name, f"[bold]{metrics['P']:.4f}[/bold]", "")
    return table
