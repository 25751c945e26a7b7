"""What reads the predictions of a run: stored ones without torch, those of other views by predicting them."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from pipelines.config import Config
from pipelines.postprocess.run_folders import read_predictions
from pipelines.torch_import import import_torch


def predictions_reader(config: Config, device: str) -> Callable[[Path], pl.DataFrame]:
    """What reads the predictions of a run: those it wrote, or the mean over `[predict] views`."""
    if not config.predict.views:
        return read_predictions
    import_torch()
    from pipelines.device import resolve_device
    from pipelines.postprocess.over_views import view_table

    torch_device = resolve_device(device)
    return lambda folder: view_table(folder, config, torch_device)
