"""What a report shows of one model: its predictions of rows that selected nothing about it, beside their labels.

The predictions are as `mtl predict` gives them: with the stored post-processing where there is one. R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cache.frames import beside
from cache.labels import Task
from pipelines.folds import NO_FOLD
from pipelines.metrics.intervals import GroupSums, group_sums, groups_of_runs
from pipelines.metrics.predictions import Decisions
from pipelines.postprocess.apply import Parameters, components
from pipelines.postprocess.parts import Part
from pipelines.postprocess.run_folders import PROCESSED, RECORD, Truth, part_of, read_parameters
from pipelines.run_files import check_table
from pipelines.splits import groups_of
from pipelines.words import counted, units_words

PART_WORDS = {"report": "held-out", "select": "selection"}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """`part` of the rows that are shown: `of` is "report", or "select" where no held-out row has a label.

    `raw` and `smoothed` are the tables of all predicted rows, without and with post-processing; None where there is
    none or none was kept, and `parameters` are the defaults. `frames` are the rows of the frames table that `raw`
    predicts, `whose` says whose predictions they are, `split` which rows were what.
    """

    part: Part
    of: str
    raw: pl.DataFrame
    smoothed: pl.DataFrame | None
    parameters: Parameters
    whose: str
    split: Mapping[str, Any]
    frames: pl.DataFrame

    @cached_property
    def decided(self) -> Decisions:
        """The decisions from the predictions."""
        return self.parameters.decide(self.part.predicted)

    @cached_property
    def groups(self) -> np.ndarray:
        """[R] what intervals resample: the subject of each row where known, else its video."""
        return groups_of(self.part.frames)

    @cached_property
    def sums(self) -> GroupSums:
        return group_sums(self.part.table, self.part.labels, self.groups, self.part.schema)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that were predicted and have a label on these rows."""
        return tuple(self.part.task(name) for name in self.part.tasks)

    @property
    def unlabelled(self) -> tuple[Task, ...]:
        """Those that were predicted, without a label on these rows."""
        return tuple(task for task in self.part.predicted.tasks if task.name not in self.part.tasks)

    @property
    def units(self) -> str:
        """What intervals resample, in words: "subjects", "videos", or both."""
        return units_words(groups_of_runs([{NO_FOLD: {0: self.sums}}]).sample.unit)

    def positives(self, task: Task) -> np.ndarray:
        """[R, K] bool: the rows whose label is each class, or whose column is positive."""
        values = self.part.labels.values[task.group.name]
        return np.asarray(values == np.arange(task.num_outputs) if task.group.kind == "classes" else values > 0.5)

    def rows_words(self, mask: Any) -> str:
        """ "Held-out rows (test): 1,535 labelled frames of 24 videos." for the rows `mask` [R] bool."""
        videos = self.part.table.filter(mask)["video"].n_unique()
        number = f"{int(mask.sum()):,} labelled {'frame' if mask.sum() == 1 else 'frames'}"
        kind = PART_WORDS[self.of].capitalize()
        return f"{kind} rows ({self.split[self.of]['of']}): {number} of {counted(videos, 'video')}."


def read_predicted(folder: Path, raw: pl.DataFrame, split: Mapping[str, Any], truth: Truth, whose: str) -> Predicted:
    """Of the run or ensemble at `folder` with the predictions `raw`.

    Raises:
        ValueError: its post-processing is damaged, or a predicted row is not in the frames table.
    """
    raw = raw.sort("video", "frame")
    smoothed, parameters = None, Parameters(schema=truth.schema)
    if (folder / RECORD).is_file():
        parameters = read_parameters(folder)
        check_table(folder / PROCESSED)
        if components(parameters.to_json()):
            smoothed = pl.read_parquet(folder / PROCESSED, glob=False).sort("video", "frame")
    table = raw if smoothed is None else smoothed
    found = {name: part_of(table, name, truth) for name in PART_WORDS if (table["part"] == name).any()}
    of = next((name for name, part in found.items() if part.tasks), next(iter(found)))
    return Predicted(
        part=found[of],
        of=of,
        raw=raw,
        smoothed=smoothed,
        parameters=parameters,
        whose=whose,
        split=split,
        frames=beside(truth.frames, raw, [*truth.schema.columns, "path"]).drop("row"),
    )
