"""Rows of annotations and faces of a folder brought together by (video, frame), whatever the files are called.

`1.jpg`, `00001.JPG` and `frame_1.png` are one frame; a video's name is compared in one spelling of Unicode. Place:
above `extract.annotations.readers` and `extract.faces.listing`, below `extract.annotations.gather`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from extract.annotations.checks import Finding, plural, report
from extract.annotations.columns import RULES, spelt
from extract.annotations.readers import KEY, Faces, face_path, refuse_twins


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """`frames` with the path of the file where there is one; `has_face` [N rows] bool."""

    frames: pl.DataFrame
    has_face: pl.Series
    findings: list[Finding]


def match_faces(frames: pl.DataFrame, folder: Path, faces: Faces) -> Matched:
    """The rows of `frames`, in their order, with the paths of the faces of `folder` that are theirs.

    A row whose own path is a face's keeps it. A row without a face keeps its path too, so that a message can name it.

    Raises:
        ValueError: two files of `folder` are the same frame of a video that `frames` has.
    """
    annotated = _of_videos(faces.table, frames["video"])
    refuse_twins(folder, annotated)
    # Most tables name every face as it is, and a join of all rows takes 300 bytes per row.
    is_own = _are_in(frames["path"], faces.table["path"])
    others = (~is_own).arg_true()
    found = _found_by_number(frames.select("path", *KEY)[others], annotated, faces.unopened)
    named = found.select(pl.coalesce("face", "path")).to_series()
    return Matched(
        frames=frames.with_columns(path=frames["path"].scatter(others, named)),
        has_face=is_own.scatter(others, found["face"].is_not_null()).alias("face"),
        findings=[*_renamed(found.filter(pl.col("face") != pl.col("path"))), *_without_number(annotated)],
    )


def _of_videos(faces: pl.DataFrame, videos: pl.Series) -> pl.DataFrame:
    """The rows of `faces` with one of `videos`; no copy where that is all."""
    videos = videos.unique()
    is_all = faces["video"].unique().is_in(videos.implode()).fill_null(False).all()
    return faces if is_all else faces.join(videos.to_frame(), on="video", how="semi")


def _are_in(values: pl.Series, ordered: pl.Series) -> pl.Series:
    """Which of `values` are in the sorted `ordered`, without a set of them."""
    if ordered.is_empty():
        return pl.repeat(False, len(values), eager=True)
    places = ordered.search_sorted(values).clip(0, len(ordered) - 1)
    return ordered.gather(places) == values


def _found_by_number(rows: pl.DataFrame, faces: pl.DataFrame, unopened: Sequence[str]) -> pl.DataFrame:
    """(path, face) of `rows` (path, video, frame), in their order: the path of the face, null where there is none."""
    numbered = _of_videos(faces, rows["video"]).drop_nulls("frame").rename({"path": "face"})
    found = rows.join(numbered, on=KEY, how="left", maintain_order="left")
    found = found.join(_unopened(unopened), on="video", how="left", maintain_order="left")
    return found.select("path", face=pl.coalesce("face", face_path(pl.col("container"), pl.col("frame"))))


def _unopened(videos: Sequence[str]) -> pl.DataFrame:
    """(video, container): video files whose frames were not counted, so that any frame may be there."""
    table = pl.DataFrame({"container": videos}, schema={"container": pl.String})
    return table.with_columns(video=spelt(pl.col("container"))).unique("video")


def _renamed(rows: pl.DataFrame) -> list[Finding]:
    examples = [f"{row['face']} for {row['path']}" for row in rows.head(5).iter_rows(named=True)]
    message = f"{plural(rows.height, 'face')} found by video and frame number under another file name"
    remedy = "nothing: the table names the files as they are"
    return report("faces_under_other_names", "info", examples, message, remedy, count=rows.height)


def _without_number(faces: pl.DataFrame) -> list[Finding]:
    paths = faces.filter(pl.col("frame").is_null())["path"].to_list()
    why = [f"{path}: {RULES['path'].explain(path)}" for path in paths[:5]]
    message = f"{plural(len(paths), 'face file')} of annotated videos without a clear frame number, left out"
    return report(
        "faces_without_number", "warning", why, message, "name each after its frame: 00001.jpg", count=len(paths)
    )
