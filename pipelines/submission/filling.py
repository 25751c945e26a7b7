"""Predictions of every frame a list names, also of those without a crop: filled from their neighbours in the video.

Own frames keep their predictions to the bit. A frame without an embedding of its own takes, by `FILLS`:

- `interpolate` (default): valence and arousal linearly over real frame numbers, however far the neighbours are, held
  before the first and behind the last; expressions and action units of the nearest frame, of two the earlier one.
- `nearest`: everything of the nearest frame.
- `linear`: also the probabilities of expressions and action units linearly; classes and thresholds are applied after.

Q asked frames, R predicted rows, K outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.metrics.predictions import Decisions, Probabilities
from pipelines.postprocess.apply import Parameters
from pipelines.predict.listed import with_keys
from pipelines.predict.predictor import FramePredictions

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Predictions of the asked frames [Q]. `own` is True where a frame has an embedding of its own; `empty` where its
    video has none, so that nothing is known and the numbers are zeros."""

    probabilities: Probabilities
    own: np.ndarray
    empty: np.ndarray

    def decide(self, parameters: Parameters) -> Decisions:
        """The decisions; of empty videos the neutral answer: valence and arousal 0, class 0, no action unit."""
        decided = parameters.decide(self.probabilities)
        for values in decided.parts.values():
            values[self.empty] = 0
        return decided


def fill(found: FramePredictions, asked: pl.DataFrame, rule: str) -> Filled:
    """The predictions `found` of `asked` [Q] (video, frame), the rest filled by `rule`, a name of `FILLS`."""
    source = with_keys(found.frames.select("video", "frame")).with_row_index("row").filter(found.valid)
    frames, times, rows = asked["frame"].to_numpy(), source["frame"].to_numpy(), source["row"].to_numpy()
    given = found.probabilities.parts
    filled = {task: np.zeros((len(frames), values.shape[1])) for task, values in given.items()}
    own, empty = np.zeros(len(frames), dtype=bool), np.ones(len(frames), dtype=bool)
    places = _places(source)
    for key, here in _places(with_keys(asked)).items():
        if key not in places:
            continue
        there = places[key][np.argsort(times[places[key]], kind="stable")]
        for task in found.probabilities.tasks:
            values = given[task.name][rows[there]]
            filled[task.name][here] = FILLS[rule][task.group.kind](frames[here], times[there], values)
        own[here], empty[here] = np.isin(frames[here], times[there]), False
    return Filled(probabilities=Probabilities(parts=filled, schema=found.probabilities.schema), own=own, empty=empty)


def _places(rows: pl.DataFrame) -> dict[str, np.ndarray]:
    """Row numbers of `rows` by their `key`."""
    groups = rows.with_row_index("place").group_by("key", maintain_order=True).agg("place")
    return {key: np.array(places) for key, places in groups.iter_rows()}


def linear(frames: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[Q, K]: `values` [R, K] at the ascending `times` [R], linearly at `frames` [Q], held at both ends."""
    return np.stack([np.interp(frames, times, column) for column in values.T], axis=1)


def nearest(frames: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[Q, K]: the row of `values` [R, K] whose of the ascending `times` [R] is nearest, of two the earlier one."""
    after = np.searchsorted(times, frames).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    return values[np.where(np.abs(times[before] - frames) <= np.abs(times[after] - frames), before, after)]


FILLS: dict[str, dict[str, Rule]] = {
    "interpolate": {"continuous": linear, "classes": nearest, "binary": nearest},
    "nearest": {"continuous": nearest, "classes": nearest, "binary": nearest},
    "linear": {"continuous": linear, "classes": linear, "binary": linear},
}
