"""Rows of annotations and faces of a folder brought together by (video, frame), whatever the files are called.

`1.jpg`, `00001.JPG` and `frame_1.png` are one frame; a video's name is compared in one spelling of Unicode. Place:
above `extract.annotations.readers` and `extract.faces.listing`, below `extract.annotations.gather`.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from extract.annotations.checks import Finding, plural, report
from extract.annotations.columns import RULES, spelt
from extract.annotations.readers import KEY, face_path, faces_of, refuse_twins
from extract.faces.listing import Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """`frames` with the path of the file where there is one; `has_face` [N rows] bool."""

    frames: pl.DataFrame
    has_face: pl.Series
    findings: list[Finding]


def match_faces(frames: pl.DataFrame, folder: Path, listing: Listing) -> Matched:
    """The rows of `frames`, in their order, with the paths of the faces of `folder` that are theirs.

    A row whose own path is a face's keeps it. A row without a face keeps its path too, so that a message can name it.

    Raises:
        ValueError: two files of `folder` are the same frame of a video that `frames` has.
    """
    faces = faces_of(listing)
    faces = faces.join(frames.select("video").unique(), on="video", how="semi")
    refuse_twins(folder, faces)
    own = pl.Series(listing.paths, dtype=pl.String)
    found = frames.select("path", *KEY).join(
        faces.drop_nulls("frame").rename({"path": "face"}), on=KEY, how="left", maintain_order="left"
    )
    found = found.join(_unopened(listing), on="video", how="left", maintain_order="left")
    face = found.select(
        pl.when(pl.col("path").is_in(own.implode()))
        .then(pl.col("path"))
        .otherwise(pl.coalesce("face", face_path(pl.col("container"), pl.col("frame"))))
    ).to_series()
    renamed = found.select("path", face=face).filter(pl.col("face") != pl.col("path"))
    return Matched(
        frames=frames.with_columns(path=pl.coalesce(face, frames["path"])),
        has_face=face.is_not_null(),
        findings=[*_renamed(renamed), *_without_number(faces)],
    )


def _unopened(listing: Listing) -> pl.DataFrame:
    """(video, container): video files whose frames were not counted, so that any frame may be there."""
    table = pl.DataFrame({"container": listing.unopened}, schema={"container": pl.String})
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
