"""Test lists as rows of a frames table, without labels: the frames they name, or all faces of the videos they name.

Place: above `extract.annotations.lists` (what stands in a list) and below `extract.annotations.gather`.
"""

from pathlib import Path

import polars as pl

from cache.frames import conform
from cache.labels import ABAW, Schema
from extract.annotations.checks import Finding, plural, report
from extract.annotations.columns import spelt
from extract.annotations.lists import NameList
from extract.annotations.readers import KEY, Faces
from extract.annotations.sheets import PARQUET_SUFFIXES, read_rows


def is_bare_list(path: Path) -> bool:
    """Whether a text file has nothing behind the first cell of any row below its first: names of faces alone."""
    if not path.is_file() or path.suffix.lower() in PARQUET_SUFFIXES:
        return False
    body = read_rows(path).slice(1)
    behind = pl.col("cells").list.slice(1).list.join("").str.strip_chars() != ""
    names = body.select(pl.col("cells").list.first().str.contains("/", literal=True)).to_series()
    return not body.is_empty() and not body.select(behind.any()).item() and bool(names.all())


def listed_rows(
    names: NameList, folder: Path, faces: Faces, schema: Schema = ABAW
) -> tuple[pl.DataFrame, list[Finding]]:
    """The frames that `names` asks for as rows of split test, each once, and what is odd about the list.

    Raises:
        ValueError: none of the videos of a list of videos has a face.
    """
    found: list[Finding] = []
    rows = names.rows.select("path", *KEY)
    if names.kind == "videos":
        rows, found = _of_videos(names, folder, faces)
    distinct = rows.unique(KEY, keep="first", maintain_order=True)
    again = [
        f"{video} frame {frame}" for video, frame in rows.filter(~pl.struct(KEY).is_first_distinct()).select(KEY).rows()
    ]
    message = f"{plural(len(again), 'row')} of {names.path} repeated for the same frame"
    remedy = "nothing: each frame is predicted once, and a submission has every row"
    found = [*found, *report("list_rows_repeated", "info", again, message, remedy)]
    return conform(distinct.with_columns(split=pl.lit("test")), str(names.path), schema), found


def _of_videos(names: NameList, folder: Path, faces: Faces) -> tuple[pl.DataFrame, list[Finding]]:
    """Every face of the videos that a list names."""
    videos = names.rows.select(spelt(pl.col("video"))).unique(maintain_order=True)
    rows = faces.table.drop_nulls().join(videos, on="video", how="semi")
    if rows.is_empty():
        raise ValueError(
            f"{folder}: none of the {videos.height:,} videos of {names.path} has a face here; check the faces folder"
        )
    absent = videos.join(rows, on="video", how="anti")["video"].to_list()
    message = f"{plural(len(absent), 'video')} of {names.path} without a face"
    remedy = "nothing, where the face detector found none; otherwise check the faces folder"
    return rows, report("videos_without_face", "warning", absent, message, remedy)
