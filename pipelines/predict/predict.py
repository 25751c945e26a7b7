"""`mtl predict`: the frames asked for, predicted from the cache, as one table in a file. R rows.

What is asked for is rows of the frames table: all of them, by their split or by a list of names.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from extract.annotations.lists import read_list
from pipelines.config import Config
from pipelines.device import resolve_device
from pipelines.metrics.predictions import prediction_columns
from pipelines.outfile import check_format, check_place, replaceable_table, table_bytes, write_new
from pipelines.predict.compound import basic_group, compound_frames
from pipelines.predict.listed import match_list
from pipelines.predict.predictor import (
    FramePredictions,
    find_predictor,
    load_predictor,
    num_trained_on,
    predict_frames,
)
from pipelines.results.evaluate import rows_of
from pipelines.training.dataset import load_dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRequest:
    """Which frames to predict: those of `split`, with `names` those that a list names, with `cache` all frames from
    another cache than that of mtl.toml; and how.

    With `box` compound expressions are added, averaged over so many frames on each side; None for none.
    `out` is a Parquet or CSV file; None for `predictions/NAME-SPLIT.parquet` beside mtl.toml.
    """

    model: Path
    split: str = "test"
    names: Path | None = None
    cache: Path | None = None
    out: Path | None = None
    box: int | None = None
    post: bool = True
    force: bool = False


def predict_to_file(config: Config, request: FrameRequest, device: str) -> dict[str, Any]:
    """Predicts and writes what `request` asks for; returns what was done, in numbers.

    Raises:
        ValueError: no such run or ensemble, no frame to predict, or a file that is not to be replaced.
    """
    check_format(request.out)
    folder = find_predictor(request.model, config)
    names = None if request.names is None else read_list(request.names)
    asked = request.cache.resolve().stem if request.cache else request.split if names is None else names.path.stem
    out = request.out or config.at(Path("predictions")) / f"{folder.name}-{asked}.parquet"
    check_place(out, force=request.force, is_ours=replaceable_table)
    predictor = load_predictor(folder, resolve_device(device), post=request.post, views=config.predict.views)
    if request.cache is not None:
        config = replace(config, cache=replace(config.cache, path=str(request.cache.absolute())))
    basic = None
    if request.box is not None:
        basic = basic_group(predictor.schema, predictor.tasks, str(predictor.folder))
    dataset = load_dataset(config, predictor.streams, resolve_device(device))
    counts: dict[str, Any] = {"split": request.split}
    if request.cache is not None:
        part = rows = np.ones(len(dataset.frames), dtype=bool)
        counts = {"cache": str(request.cache)}
    elif names is None:
        part = rows = rows_of(predictor.runs[0].run, dataset, request.split)
    else:
        listed = match_list(names, dataset.frames, config.at(config.data.frames))
        part, rows = listed.part, listed.rows
        counts = {"list": str(names.path), "num_listed": len(names)}
        counts |= {"num_absent": listed.absent.height, "num_absent_videos": listed.absent_videos.height}
    everything = predict_frames(predictor, dataset, part)
    more = [] if basic is None else [compound_frames(everything, basic, request.box or 0)]
    found, *more = (each.rows(rows[part]) for each in (everything, *more))
    write_new(out, table_bytes(predictions_table(found, *more), out.suffix), force=request.force)
    return {
        predictor.kind: str(folder),
        "out": str(out),
        **counts,
        "tasks": list(predictor.tasks),
        "views": predictor.views,
        "post": None if predictor.parameters is None else predictor.parameters.to_json(),
        "box": request.box,
        "num_frames": found.frames.height,
        "num_videos": found.frames["video"].n_unique(),
        "num_nearest": int((~found.valid & found.known).sum()),
        "num_unknown": int((~found.known).sum()),
        "num_seen": num_trained_on(predictor, dataset, rows),
    }


def predictions_table(found: FramePredictions, *more: FramePredictions) -> pl.DataFrame:
    """One row per frame: video, frame, path, valid, then what is predicted, and what `more` has of the same frames.

    Continuous columns in their range (a model may go slightly beyond), classes by number with probabilities `p_CLASS`,
    binary columns 0 or 1 with probabilities `p_COLUMN`. Null where a video has no embedding at all.
    """
    columns = {
        name: column
        for each in (found, *more)
        for name, column in prediction_columns(each.probabilities, each.decide()).items()
    }
    known = pl.Series(found.known)
    values = [pl.when(known).then(pl.Series(name, column)).alias(name) for name, column in columns.items()]
    return found.frames.with_columns(pl.Series("valid", np.asarray(found.valid))).with_columns(values)
