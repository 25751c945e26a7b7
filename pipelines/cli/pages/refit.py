"""What `mtl refit` prints: what it was trained on, and the scores of the runs that it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from cache.labels import schema_of
from pipelines.cli.pages.training import number, score_name
from pipelines.metrics.challenge import main_key
from pipelines.terminal import make_console, say_json
from pipelines.words import counted, refit_words, score_title


def print_refit(folder: Path, record: Mapping[str, Any], *, as_json: bool) -> None:
    """Its sentence, and a table of the runs' scores."""
    if as_json:
        say_json({"refit": str(folder), **record})
        return
    console = make_console()
    console.print(refit_words(record))
    console.print(_table(record))
    if record["finetuned"]:
        console.print(
            f"warning: {', '.join(record['finetuned'])}: fine-tuned on train alone, so embeddings of train and val are "
            "not alike; on made data such refits scored below their runs (docs/results.md)",
            style="yellow",
            soft_wrap=True,
        )
    console.print(f"refit: {folder} ({counted(len(record['seeds']), 'seed')})", soft_wrap=True)


def _table(record: Mapping[str, Any]) -> Table:
    schema, plain, post = schema_of(record["schema"], "refit.json"), record["scores"]["plain"], record["scores"]["post"]
    tasks = schema.scored(record["tasks"])
    table = Table(title=f"scores of the {counted(len(record['of']), 'run')} it was made from", title_justify="left")
    table.add_column("")
    for head in ("selection", "held out", "held out,\npost-processed"):
        table.add_column(head, justify="right")
    rows = [(score_title(task), main_key(task.group)) for task in tasks]
    rows.append((score_name([task.name for task in tasks], schema), "P"))
    for words, key in rows:
        scores = (plain["select"], plain["report"], post["report"])
        table.add_row(words, *(number(each.get(key)) for each in scores), style="bold" if key == "P" else "")
    return table
