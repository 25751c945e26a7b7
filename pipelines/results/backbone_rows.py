"""Fine-tuned backbones by themselves, for a study's leaderboard: their own predictions, frame by frame, scored.

Their scores are of the same rows as the study's. The epoch of each was selected on the rows that selected the heads'
epochs, so selection and held-out scores mean the same; but no search selected among them: no rank.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from cache.frames import Frames
from pipelines.backbones.runs import fitting_runs
from pipelines.config import Config
from pipelines.folds import NO_FOLD
from pipelines.metrics.intervals import intervals
from pipelines.results.evidence import Reader
from pipelines.results.leaderboard import Leaderboard, Row, backbone_row
from pipelines.run_files import BACKBONE_PREFIX, read_manifest, read_metrics
from pipelines.search.study import Result, StudyInputs, Trial
from pipelines.strategy import Strategy


def with_backbones(board: Leaderboard, config: Config, inputs: StudyInputs, frames: Frames) -> Leaderboard:
    """`board` with a row for each backbone of mtl.toml that has a run on the study's frames, labels and split.

    A study of folds alone has none: backbones are trained on no fold.
    """
    if not board.rows or NO_FOLD not in inputs.splits:
        return board
    split = inputs.splits[NO_FOLD]["hash"]
    folders, skipped = fitting_runs(config, {"frames": inputs.frames, "labels": inputs.labels, "split": split})
    reader, rows = Reader(frames, board.schema), []
    for folder in folders:
        try:
            rows.append(_row(folder, reader))
        except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
            skipped.append((folder, f"damaged ({type(error).__name__}); `mtl finetune` makes it again"))
    left_out = tuple((folder.name.removeprefix(BACKBONE_PREFIX), reason) for folder, reason in skipped)
    return replace(board, backbones=tuple(rows), left_out=left_out)


def _row(folder: Path, reader: Reader) -> Row:
    manifest = read_manifest(folder)
    name = manifest["backbone"]["section"]
    trial = Trial(
        Strategy().replace(manifest["strategy"], f"{folder}/run.json"), {"joint": (name,)}, manifest["digest"]
    )
    row = backbone_row(
        Result(trial, read_metrics(folder, manifest), float(manifest["seconds"]), folder), name, reader.schema
    )
    runs = reader.runs(row.results, "report") if "P" in row.report else {}
    return replace(row, intervals=intervals(runs, row.tasks) if runs else {})
