"""A list answered row by row: what is predicted of its frames, the rest filled. R rows of it, Q different frames."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from extract.annotations.lists import NameList
from pipelines.predict.listed import with_keys
from pipelines.predict.predictor import FramePredictions
from pipelines.submission.filling import Filled, fill
from pipelines.submission.formats import Track, cells_of, num_clipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The `cells` [R] of each row of a list, and where they come from: row i of the list is frame `index[i]` of
    `filled` [Q]; `num_clipped` of these frames have valence or arousal outside [-1, 1]."""

    cells: list[str]
    filled: Filled
    index: np.ndarray
    num_clipped: int


def answer_list(track: Track, names: NameList, found: FramePredictions, rule: str) -> Answer:
    """The predictions `found` for every row of `names`, frames that it lacks filled by `rule`."""
    asked, index = distinct_frames(names.rows)
    filled = fill(found, asked, rule)
    decided = filled.decide(found.parameters)
    cells = cells_of(track, decided)
    return Answer(
        cells=[cells[place] for place in index.tolist()],
        filled=filled,
        index=index,
        num_clipped=num_clipped(decided) if "va" in track.tasks else 0,
    )


def distinct_frames(rows: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray]:
    """The different frames [Q] (video, frame) among `rows` [R], and which of them each row is [R]."""
    keyed = with_keys(rows.select("video", "frame"))
    asked = keyed.unique(["key", "frame"], keep="first", maintain_order=True).with_row_index("place")
    found = keyed.join(asked.select("key", "frame", "place"), on=["key", "frame"], how="left", maintain_order="left")
    return asked.select("video", "frame"), found["place"].to_numpy()
