"""What the timeline shows of a video: predictions, labels, faces by frame. n frames of a video, R rows of a table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl

from cache.labels import Schema

KEY = ["video", "frame"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineVideo:
    """One video, or one face's track in it. Columns are those of `prediction_columns`; NaN means none.

    Args:
        name: what readers choose it by; any text.
        frames: [n] int64, ascending.
        predicted: by column, [n].
        smoothed: the same after post-processing; None where there is none.
        labels: by label column, [n].
        valid: [n] bool, False where the frame has no embedding of its own; None where all have.
        time_s: [n] seconds; None where unknown.
        faces: [n] addresses of face crops as `face_address` gives them, "" where there is none; None without faces.
        part: "select", "report" or "".
    """

    name: str
    frames: np.ndarray
    predicted: Mapping[str, np.ndarray]
    smoothed: Mapping[str, np.ndarray] | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    valid: np.ndarray | None = None
    time_s: np.ndarray | None = None
    faces: Sequence[str] | None = None
    part: str = ""

    def __post_init__(self) -> None:
        columns = [*self.predicted.values(), *(self.smoothed or {}).values(), *self.labels.values()]
        optional = [each for each in (self.valid, self.time_s, self.faces) if each is not None]
        assert all(len(each) == len(self.frames) for each in [*columns, *optional])
        assert (np.diff(self.frames) > 0).all()

    @property
    def shown(self) -> Mapping[str, np.ndarray]:
        """The predictions after post-processing where there is one."""
        return self.predicted if self.smoothed is None else self.smoothed


def videos_of(
    table: pl.DataFrame,
    schema: Schema,
    *,
    smoothed: pl.DataFrame | None = None,
    labels: pl.DataFrame | None = None,
    faces: str | None = None,
) -> list[TimelineVideo]:
    """The videos of a table of predictions, in the order of their names.

    Args:
        table: `video`, `frame` and the columns of `prediction_columns`; where there are: `face` (the number of a
            track), `time_s`, `valid`, `part`, `path`.
        schema: what its columns are.
        smoothed: the same rows in the same order, post-processed.
        labels: a frames table, matched on video and frame.
        faces: the folder that `path` of either table is relative to, as `relative_folder` gives it; None: no faces.
    """
    table = _tracks(table.with_row_index("row_number"))
    if labels is not None:
        table = _with_labels(table, labels, schema)
    table, smoothed = _as_numbers(table, schema), None if smoothed is None else _as_numbers(smoothed, schema)
    keys = [name for name in ("part", "video", "face") if name in table.columns]
    videos = []
    for _, rows in table.sort([*keys, "frame"]).group_by(keys, maintain_order=True):
        rows = rows.unique("frame", keep="first", maintain_order=True)
        after = None if smoothed is None else smoothed[rows["row_number"]]
        videos.append(_video(rows, after, schema, faces))
    return videos


def relative_folder(folder: Path, page: Path) -> str:
    """`folder` as a page at `page` writes it: relative, with "/"."""
    return Path(os.path.relpath(folder.absolute(), page.absolute().parent)).as_posix()


def face_address(folder: str, path: str) -> str:
    """The address of the face at `path` below `folder`: each part is escaped, so that it is always a place beside the
    page and never a scheme or a host."""
    whole = f"{folder}/{path}" if folder else path
    begin = "/" if whole.startswith("/") else "./"
    return begin + quote(whole.lstrip("/"), errors="surrogatepass")


def gap_limit(frames: np.ndarray) -> float:
    """The widest step between frames that is no gap: 1 where most frames follow each other, else three of the median
    step."""
    if len(frames) < 2:
        return 1.0
    median = float(np.median(np.diff(frames)))
    return 1.0 if median <= 1 else 3 * median


def has_numbers(columns: Mapping[str, np.ndarray], name: str) -> bool:
    """Whether there is a number in the column `name`."""
    return name in columns and bool(np.isfinite(columns[name]).any())


def _tracks(table: pl.DataFrame) -> pl.DataFrame:
    """`table` without the rows that have no face, but for videos in which there is none at all."""
    if "face" not in table.columns:
        return table
    return table.filter(pl.col("face").is_not_null() | pl.col("face").is_null().all().over("video"))


def _with_labels(table: pl.DataFrame, labels: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """`table` with the label columns as `label:NAME`, and with `path` where it has none."""
    columns = [pl.col(name).alias(f"label:{name}") for name in schema.columns if name in labels.columns]
    columns += [pl.col("path")] if "path" in labels.columns and "path" not in table.columns else []
    known = labels.select(*KEY, *columns).unique(KEY, keep="first", maintain_order=True)
    return table.join(known, on=KEY, how="left", maintain_order="left")


def _as_numbers(table: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """`table`, its labels, predictions and times as float64, NaN for null: of all videos at once."""
    names = [name for group in schema for name in (*group.columns, *group.output_columns)]
    names += [*(f"label:{name}" for name in schema.columns), "time_s"]
    found = [name for name in dict.fromkeys(names) if name in table.columns]
    return table.with_columns(pl.col(found).cast(pl.Float64).fill_null(np.nan))


def _video(rows: pl.DataFrame, smoothed: pl.DataFrame | None, schema: Schema, faces: str | None) -> TimelineVideo:
    face = rows["face"][0] if "face" in rows.columns else None
    labels = {one: rows[f"label:{one}"].to_numpy() for one in schema.columns if f"label:{one}" in rows.columns}
    valid = rows["valid"].fill_null(False).to_numpy() if "valid" in rows.columns else None
    addresses = None
    if faces is not None and "path" in rows.columns:
        addresses = [face_address(faces, path) if path else "" for path in rows["path"].to_list()]
    return TimelineVideo(
        name=rows["video"][0] + ("" if face is None else f", face {face}"),
        frames=rows["frame"].to_numpy(),
        predicted=_predicted(rows, schema),
        smoothed=None if smoothed is None else _predicted(smoothed, schema),
        labels=labels,
        valid=valid,
        time_s=rows["time_s"].to_numpy() if "time_s" in rows.columns else None,
        faces=addresses,
        part=rows["part"][0] if "part" in rows.columns else "",
    )


def _predicted(rows: pl.DataFrame, schema: Schema) -> dict[str, np.ndarray]:
    names = [name for group in schema for name in dict.fromkeys((*group.columns, *group.output_columns))]
    return {name: rows[name].to_numpy() for name in names if name in rows.columns}
