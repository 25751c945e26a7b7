"""`mtl score`: the metrics for any table of predictions."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import CONFIG, JsonOption, OnConflictOption


def register(app: typer.Typer) -> None:
    app.command(name="score")(score)


def score(
    predictions: Annotated[Path, typer.Argument(help="Parquet, CSV or the challenge's text format.")],
    labels: Annotated[Path, typer.Argument(help="The same; -5 and -1 mean: no label.")],
    tasks: Annotated[str, typer.Option(help="Tasks of the schema, comma separated; default: all predicted.")] = "",
    schema: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="The schema of the labels, as of `mtl init --labels`; default: that of LABELS, of mtl.toml, or abaw.",
        ),
    ] = "",
    split: Annotated[str, typer.Option(help="Only rows of LABELS in this split.")] = "",
    on_conflict: OnConflictOption = "error",
    json_output: JsonOption = False,
) -> None:
    """Score predictions, whoever made them, by the metrics of a label schema.

    Every labelled frame of LABELS needs a prediction; frames that only PREDICTIONS has are not counted.
    A task without a label is not scored, and the output says so.

    \b
    Examples:
      mtl score predictions.txt val_set.txt
      mtl score runs/NAME/predictions.parquet frames.parquet --split val --json
      mtl score predictions.csv labels.csv --schema disfa
    """
    from cache.labels import ABAW
    from pipelines.cli.pages.metrics import print_metrics
    from pipelines.config import read_config, read_schema
    from pipelines.results.score import schema_of_table, score_tables

    if schema:
        known = read_schema(schema, "--schema")
    else:
        known = schema_of_table(labels) or (read_config(CONFIG).schema if CONFIG.is_file() else ABAW)
    found = score_tables(predictions, labels, tasks, split, on_conflict, known)
    print_metrics(found, as_json=json_output, schema=known)
