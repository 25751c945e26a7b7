"""Predictions of a run as the mean over several views of its streams: test-time augmentation on cached embeddings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from pipelines.backbones.runs import is_backbone
from pipelines.config import Config, read_config
from pipelines.metrics.predictions import Predictions, mean_predictions, prediction_table
from pipelines.run_files import read_manifest
from pipelines.splits import Split, pooled_split
from pipelines.training.dataset import Dataset, load_dataset
from pipelines.training.run import Run, load_run, predict_run


def in_views(run: Run, views: Sequence[str]) -> list[Run]:
    """`run` on each of `views`; by itself where none is named."""
    return [run.in_view(view) for view in views] or [run]


def predict_views(runs: Sequence[Run], dataset: Dataset, rows: np.ndarray) -> Predictions:
    """The mean of what one run predicts of the rows `rows` [N] bool in several views; raises as `predict_run`."""
    return mean_predictions([predict_run(run, dataset, rows) for run in runs])


def split_of(run: Run, dataset: Dataset) -> Split:
    """The dataset's rows, split as the run's configuration says."""
    if "refit" in run.manifest:
        return pooled_split(dataset.frames, dataset.labels)
    return dataset.split(read_config(run.folder / "config.toml").split, run.strategy.train.fold)


def view_table(folder: Path, config: Config, device: torch.device) -> pl.DataFrame:
    """What predictions.parquet of the run at `folder` would be as the mean over `[predict] views`.

    Raises:
        ValueError: a backbone by itself, a view that is not in the cache, or a stream that is another than the run's.
    """
    views = config.predict.views
    if is_backbone(read_manifest(folder)):
        raise ValueError(f"{folder}: a backbone by itself, which predicts no other views; leave out --views")
    run = load_run(folder, device)
    runs = in_views(run, views)
    dataset = load_dataset(config, [(name, each.strategy.train.view) for each in runs for name in run.streams], device)
    split = split_of(run, dataset)
    return pl.concat(
        prediction_table(predict_views(runs, dataset, getattr(split, part)), dataset.frames, part)
        for part in ("select", "report")
    )
