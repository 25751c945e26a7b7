"""Learning curves of a run, from its history.csv."""

import io
from pathlib import Path

import polars as pl

from pipelines.report import time_plots
from pipelines.report.pages import Figure, Part
from pipelines.run_files import read_manifest, run_bytes
from pipelines.words import task_label

HISTORY = "history.csv"


def learning_parts(folder: Path) -> tuple[Part, ...]:
    """Losses and scores of the run at `folder`; nothing where it has no history."""
    manifest = read_manifest(folder)
    if HISTORY not in manifest["files"]:
        return ()
    history = pl.read_csv(io.BytesIO(run_bytes(folder, manifest, HISTORY)), infer_schema_length=None, glob=False)
    words = {name.partition(".")[2]: task_label(name.partition(".")[2]) for name in history.columns if "." in name}
    chart = time_plots.learning_curves(history, words)
    caption = (
        "Learning curves. Losses are of training rows, with augmentation and dropout; scores are of selection rows "
        "in windows side by side, which picked the weights: the dot is the evaluation whose weights were kept. With "
        "these weights selection rows are scored again and held-out rows once, in windows that overlap."
    )
    return (Figure(chart, caption),)
