"""What `mtl ensemble` prints: scores and those of the best single run, then the members."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cache.labels import Task, schema_of
from pipelines.cli.pages.leaderboard import column_names
from pipelines.cli.pages.postprocess import interval_words, number
from pipelines.ensemble.ensemble_folder import PROCEDURES, member_name
from pipelines.metrics.challenge import main_key
from pipelines.words import counted, task_label

SHOWN_SKIPPED = 3
SHOWN_MEMBERS = 5


def print_ensemble(record: Mapping[str, Any], console: Console) -> None:
    """Scores and those of the best single run, then the members."""
    tasks, schema = record["tasks"], schema_of(record["schema"], "ensemble.json")
    title = f"ensemble {record['name']} of {counted(record['library']['num'], 'run')}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("P" if schema.is_complete(tasks) else "sum of scores")
    names = column_names(tasks)
    for head in ("selection\nin fold", "selection\nout of fold", "\nheld out", f"held out\n{names}"):
        table.add_column(head, justify="right", no_wrap=True)
    for key in (key for key in PROCEDURES if key in record["scores"]):
        for kind in ("plain", "post"):
            if record["scores"][key][kind]:
                table.add_row(*_row(record, key, kind, schema.scored(tasks)), style="bold" if key == "ensemble" else "")
    console.print(table)
    for key in ("single", "top"):
        if record["differences"].get(key, {}).get("report") is not None:
            found = record["differences"][key]
            words = f"{found['report']:+.4f}{interval_words(found['interval'])}"
            console.print(f"against the {_procedure(record, key)}, held out: {words}")
    _print_members(record, console)
    for one in record["skipped"][:SHOWN_SKIPPED]:
        console.print(f"left out: {one['run']}: {one['reason']}")
    if len(record["skipped"]) > SHOWN_SKIPPED:
        console.print(f"left out: {len(record['skipped']) - SHOWN_SKIPPED} more")


def _procedure(record: Mapping[str, Any], key: str) -> str:
    if key == "top":
        return f"mean of the best {len(record['compared']['top'])}"
    return {"single": "best single run", "ensemble": "ensemble"}[key]


def _row(record: Mapping[str, Any], key: str, kind: str, tasks: Sequence[Task]) -> list[str]:
    words = _procedure(record, key)
    metrics = record["scores"][key][kind]
    values = [number(metrics[part]["P"] if metrics[part] else None) for part in ("in_fold", "out_of_fold", "report")]
    parts = [metrics["report"].get(main_key(task.group)) for task in tasks]
    widths = [max(4, len(task_label(task.name))) for task in tasks]
    shown = " ".join(
        f"{'–' if value is None else f'{value:.2f}':>{width}}" for value, width in zip(parts, widths, strict=True)
    )
    return [words if kind == "plain" else "  post-processed", *values, shown]


def _print_members(record: Mapping[str, Any], console: Console) -> None:
    """Of each member its count, its score alone, how alike its errors are, its run and its strategy in words."""
    console.print("members: draws, selection score alone, correlation of errors with the others")
    table = Table.grid(padding=(0, 1, 0, 0))
    for justify in ("left", "left", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for task, members in record["members"].items():
        for index, one in enumerate(members[:SHOWN_MEMBERS]):
            label = task_label(task) if index == 0 else ""
            numbers = f"x{one['count']}", f"{one['score']:.3f}", _correlation(one["correlation"])
            table.add_row(label, *numbers, _member_words(one))
        if len(members) > SHOWN_MEMBERS:
            table.add_row("", "", "", "", f"and {len(members) - SHOWN_MEMBERS} more")
    console.print(table)


def _correlation(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _member_words(member: Mapping[str, Any]) -> str:
    name, words = member_name(member["run"]), member["strategy"]
    return f"{name}: {words}" if words else name
