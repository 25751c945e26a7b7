"""Metrics as tables for people and as JSON for scripts."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cache.labels import ABAW, Group, Schema
from pipelines.metrics.challenge import main_key
from pipelines.terminal import make_console, say_json
from pipelines.words import score_title


def print_metrics(metrics: Mapping[str, Any], *, as_json: bool, title: str = "", schema: Schema = ABAW) -> None:
    """Prints what `pipelines.metrics.challenge.score` returns: P and its parts, then every column and class."""
    if as_json:
        say_json(metrics)
        return
    console = make_console()
    groups = _groups(metrics, schema)
    console.print(parts_table(metrics, groups, title, schema))
    for group in groups:
        line = "  ".join(f"{name} {metrics[key]:.3f}" for name, key in _details(group, metrics).items())
        console.print(Text.assemble((group.name, "bold"), f"  {line}"))
    _print_undefined(metrics, console)
    for task, why in metrics.get("not_scored", {}).items():
        console.print(f"not scored: {task} ({why})")


def print_beside(plain: Mapping[str, Any], post: Mapping[str, Any], title: str, schema: Schema = ABAW) -> None:
    """Prints the metrics of the same frames without and with post-processing, side by side."""
    console = make_console()
    groups = _groups(plain, schema)
    console.print(parts_table(plain, groups, title, schema, post))
    for group in groups:
        pairs = ((name, plain[key], post[key]) for name, key in _details(group, plain).items())
        line = "  ".join(f"{name} {before:.3f} → {after:.3f}" for name, before, after in pairs)
        console.print(Text.assemble((group.name, "bold"), f"  {line}"))
    _print_undefined(post, console)


def parts_table(
    metrics: Mapping[str, Any],
    groups: Sequence[Group],
    title: str,
    schema: Schema,
    post: Mapping[str, Any] | None = None,
) -> Table:
    """P and each group's score, with the number of labelled frames; and the same with post-processing, if given."""
    table = Table(title=title or None, title_justify="left")
    table.add_column("")
    sides = [metrics] if post is None else [metrics, post]
    for name in ["score"] if post is None else ["plain", "post-processed"]:
        table.add_column(name, justify="right")
    table.add_column("labelled frames", justify="right")
    for group in groups:
        scores = [f"{side[main_key(group)]:.4f}" for side in sides]
        table.add_row(score_title(schema.tasks[group.name]), *scores, f"{metrics[f'num_frames.{group.name}']:,}")
    names = [group.name for group in groups]
    name = "P" if len(names) == len(schema.names) else f"sum over {', '.join(names)} (not the official P)"
    table.add_row(name, *(Text(f"{side['P']:.4f}", "bold") for side in sides), "")
    return table


def _details(group: Group, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Name -> key of the score of each column or class, of those that `metrics` has."""
    score = f"{group.score}_" if group.kind == "continuous" else "f1."
    keys = {name: f"{group.name}.{score}{name}" for name in group.names}
    return {name: key for name, key in keys.items() if key in metrics}


def _print_undefined(metrics: Mapping[str, Any], console: Console) -> None:
    if metrics["undefined"]:
        names = ", ".join(metrics["undefined"])
        console.print(f"no positive in labels and predictions, counted as 0: {names}")


def _groups(metrics: Mapping[str, Any], schema: Schema) -> list[Group]:
    return [group for group in schema if main_key(group) in metrics]
