"""A list of names against the frames table: which rows are asked for, and what the table does not have. N frames."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from extract.annotations.columns import RULES, frame_in
from extract.annotations.lists import NameList
from extract.faces.containers import find_container, is_face, new_container

KEY = ("video", "frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """`part` [N] bool: all rows of the listed videos, so that a frame's prediction does not depend on which of its
    neighbours are listed; `rows` [N] bool: the listed ones among them.

    `absent` are the listed frames (row, video, frame; of a list of videos none) without a row in the table, each once,
    in the list's order; `absent_videos` those videos (row, video) of which the table has no row at all. `row` counts
    the rows of the list from 0.
    """

    part: np.ndarray
    rows: np.ndarray
    absent: pl.DataFrame
    absent_videos: pl.DataFrame


def match_list(names: NameList, frames: pl.DataFrame, table: Path) -> Listed:
    """Where the frames or videos of `names` are in `frames`, the frames table at `table`.

    Raises:
        ValueError: none of them is there.
    """
    asked = with_keys(names.rows).with_row_index("row")
    there = with_keys(frames.select(pl.col("video").cast(pl.String), pl.col("frame").cast(pl.Int64)))
    part = there.select(pl.col("key").is_in(asked["key"].unique().implode())).to_series().to_numpy()
    if names.kind == "videos":
        rows, absent = part, asked.head(0)
    else:
        wanted = asked.select("key", "frame").unique()
        marked = there.join(wanted.with_columns(is_asked=True), on=["key", "frame"], how="left", maintain_order="left")
        rows = marked["is_asked"].fill_null(False).to_numpy()
        absent = asked.join(there, on=["key", "frame"], how="anti", maintain_order="left")
    absent_videos = asked.join(there, on="key", how="anti", maintain_order="left")
    if not rows.any():
        raise ValueError(
            f"{names.at(0)}: {_first_name(asked)} is not in {table}, nor is any other of the {len(names):,} rows; is "
            f"this the list of these faces? `mtl prepare --test-list {names.path}` and `mtl extract` add its frames"
        )
    return Listed(
        part=part,
        rows=rows,
        absent=absent.unique(["key", "frame"], keep="first", maintain_order=True).select("row", *KEY),
        absent_videos=absent_videos.unique("key", keep="first", maintain_order=True).select("row", "video"),
    )


def with_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with the column `key`: `video` as it is compared, the same for every way to write its accents."""
    return rows.with_columns(key=pl.col("video").str.normalize("NFC"))


def first_crop_without_row(faces: Path, absent: pl.DataFrame) -> tuple[int, int]:
    """(number, first row) of the frames `absent` (row, video, frame) whose crop lies in the folder `faces`; (0, -1).

    Such a frame could be predicted: it only has to be prepared and extracted.
    """
    num, first = 0, -1
    for (video,), rows in absent.group_by("video", maintain_order=True):
        crops = pl.Series(list(_crops(faces, str(video))), dtype=pl.Int64)
        found = rows.filter(pl.col("frame").is_in(crops.implode())) if len(crops) else rows.head(0)
        if found.height:
            first = int(found["row"][0]) if first < 0 else min(first, int(found["row"][0]))
            num += found.height
    return num, first


def _crops(faces: Path, video: str) -> Iterator[int]:
    """Frame numbers of the crops of `video` in the folder `faces`, as files or packed."""
    names: list[str] = []
    # The disk may write an accent in another way than the list.
    for spelling in dict.fromkeys((video, *(unicodedata.normalize(form, video) for form in ("NFC", "NFD")))):
        if not names and (faces / spelling).is_dir():
            names = [name for name in os.listdir(faces / spelling) if is_face(name)]
        if not names and (packed := find_container(str(faces), spelling)) is not None:
            with closing(new_container(packed)) as container:
                names = container.names()[0]
    numbers = pl.DataFrame({"path": [f"{video}/{name}" for name in names]}, schema={"path": pl.String})
    numbers = numbers.filter(RULES["path"].value(pl.col("path")).is_not_null())
    yield from numbers.select(frame_in(pl.col("path"))).to_series().to_list()


def _first_name(asked: pl.DataFrame) -> str:
    video, path = asked.select("video", "path").row(0)
    return repr(path) if path is not None else f"video {video!r}"
