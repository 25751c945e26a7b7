"""Annotations as frames tables: the s-Aff-Wild2 file, the challenge's test list, plain tables, folders of faces.

Place: above `extract.annotations.sheets` (a file's cells) and below the command `mtl prepare`. The per-track folders of
Aff-Wild2 are in `extract.annotations.tracks`. Every table here has the columns of `cache.frames` for a schema of
labels; a missing label is null.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cache.frames import conform, is_in_order
from cache.labels import ABAW, Schema
from cache.names import LABEL_COLUMNS
from extract.annotations.checks import Finding, plural, report
from extract.annotations.columns import RULES, frame_in, video_in
from extract.annotations.duplicates import OnConflict, settle_duplicates
from extract.annotations.label_rules import has_challenge_columns
from extract.annotations.sheets import Sheet, parse_sheet, read_sheet
from extract.faces.listing import Listing, list_faces

# A file without a header is the whole s-Aff-Wild2 row or a bare list of faces.
HEADERLESS = (("path", *LABEL_COLUMNS), ("path",))
KEY = ["video", "frame"]
RUN_COLUMNS = r"part|valid|p_.+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """The faces of a folder: `table` (path, video, frame) sorted by path, where `video` is null at the folder's top and
    `frame` where no number is clear; `faults` and `unopened` as in `Listing`."""

    table: pl.DataFrame
    faults: tuple[str, ...]
    unopened: tuple[str, ...]


def read_annotations(
    path: Path, split: str, on_conflict: OnConflict = "error", schema: Schema = ABAW
) -> tuple[pl.DataFrame, list[Finding]]:
    """An s-Aff-Wild2 file or a list of faces as the rows of one split, and findings about duplicate rows.

    With a header, columns of the schema are found by their names, in any order; without one, the row is the official
    `image,valence,arousal,expression,AU1,...,AU26`, or a face alone, and the schema one with these columns.

    Raises:
        ValueError: the first bad row, as `file:line: what; remedy`.
    """
    sheet = read_sheet(path, HEADERLESS, schema=schema)
    if "split" in sheet.columns:
        raise ValueError(f"{path}: the file has a column 'split' of its own; give it with --table")
    is_official = path.suffix.lower() == ".txt" and has_challenge_columns(schema)
    values = parse_sheet(sheet, empty_is_missing=not is_official)
    return _frames(sheet, values, split, on_conflict)


def read_table(
    path: Path, on_conflict: OnConflict = "error", schema: Schema = ABAW
) -> tuple[pl.DataFrame, list[Finding]]:
    """A CSV or Parquet table in the columns of `schema`; an empty cell is a missing label, a missing `split` is "none".

    A face is named by `image` or `path`, or by `video` and `frame` (then its path is `video/00001.jpg`).

    Raises:
        ValueError: the first bad row, as `file:line: what; remedy`.
    """
    sheet = read_sheet(path, HEADERLESS, schema=schema)
    frames, found = _frames(sheet, parse_sheet(sheet, empty_is_missing=True), "none", on_conflict)
    return frames, [*found, *([] if "split" in sheet.columns else _in_no_split(frames, path, schema))]


def _in_no_split(frames: pl.DataFrame, path: Path, schema: Schema) -> list[Finding]:
    """Says that labels of a table without a column `split` serve nothing."""
    num = frames.filter(pl.any_horizontal(pl.col(schema.columns).is_not_null())).height
    message = f"{plural(num, 'labelled row')} of {path} in no split, so nothing trains on them or is scored by them"
    remedy = "add a column split (train, val or test), or give a file per split: --train, --val, --test"
    return report("labels_in_no_split", "warning", [str(path)] if num else [], message, remedy, num)


def read_labels(path: Path, on_conflict: OnConflict = "error", schema: Schema = ABAW) -> pl.DataFrame:
    """Labels or predictions of any layout of `read_annotations` or `read_table`, for scoring; one row per frame.

    What our own runs write beside the labels (`part`, `valid`, and probabilities `p_...`) is left out.

    Raises:
        ValueError: the first bad row, as `file:line: what; remedy`.
    """
    sheet = read_sheet(path, HEADERLESS, RUN_COLUMNS, schema)
    return _frames(sheet, parse_sheet(sheet, empty_is_missing=True), "none", on_conflict)[0]


def _frames(
    sheet: Sheet, values: pl.DataFrame, split: str, on_conflict: OnConflict
) -> tuple[pl.DataFrame, list[Finding]]:
    """`values` [R rows] with path, video, frame and split completed, checked, one row per frame, sorted."""
    if values.is_empty():
        raise ValueError(f"{sheet.path}: no rows below the header; expected one row per frame")
    columns = set(values.columns)
    if not ({"path"} <= columns or {"video", "frame"} <= columns):
        raise ValueError(f"{sheet.path}: no column names the faces; add 'image', or 'video' and 'frame'")
    if "path" not in columns:
        values = values.with_columns(path=face_path(pl.col("video"), pl.col("frame")))
    if "video" not in columns:
        values = values.with_columns(video=video_in(pl.col("path")))
    if "frame" not in columns:
        values = values.with_columns(frame=frame_in(pl.col("path")))
    if "split" not in columns:
        values = values.with_columns(split=pl.lit(split))
    values, found = settle_duplicates(sheet, values, on_conflict)
    return conform(values.with_columns(pl.col("split").fill_null("none")), str(sheet.path), sheet.schema), found


def face_path(video: pl.Expr, frame: pl.Expr) -> pl.Expr:
    """The challenge's name of a face: `video/00001.jpg`."""
    return pl.concat_str(video, pl.lit("/"), frame.cast(pl.String).str.zfill(5), pl.lit(".jpg"))


def scan_faces(folder: Path, faces: Faces | None = None, schema: Schema = ABAW) -> pl.DataFrame:
    """All faces below `folder` as rows without labels, split "none"; `faces` where they are listed already.

    Raises:
        ValueError: no such folder, no face in it, a face without a frame number, or two faces of one frame.
    """
    faces = faces or faces_of(list_faces(folder))
    table = faces.table
    if table.is_empty() and faces.faults:
        raise ValueError(f"{folder}/{faces.faults[0]}")
    if table.is_empty():
        raise ValueError(f"{folder}: no faces in this folder; expected files such as video/00001.jpg")
    rule = RULES["path"]
    wrong = table.filter(rule.value(pl.col("path")).is_null())["path"]
    if len(wrong):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(f"{folder}/{wrong[0]}: {rule.explain(wrong[0])}; expected {rule.expected}{more}")
    refuse_twins(folder, table)
    return conform(table.with_columns(split=pl.lit("none")), str(folder), schema)


def faces_of(listing: Listing) -> Faces:
    """Every face of `listing` with its video and frame."""
    table = pl.DataFrame({"path": listing.paths}, schema={"path": pl.String})
    table = table.with_columns(video=video_in(pl.col("path")), frame=frame_in(pl.col("path")))
    return Faces(table=table, faults=listing.faults, unopened=listing.unopened)


def refuse_twins(folder: Path, faces: pl.DataFrame) -> None:
    """Raises a `ValueError` naming two of `faces` (path, video, frame) that are the same frame of one video."""
    if is_in_order(faces):
        return
    twins = faces.drop_nulls().filter(pl.struct(KEY).is_duplicated()).sort(*KEY, "path")
    if twins.is_empty():
        return
    (first, video, frame), (second, *_) = twins.rows()[:2]
    num = twins.select(KEY).n_unique()
    more = f" ({plural(num, 'frame')} with several files)" if num > 1 else ""
    raise ValueError(
        f"{folder}: {first} and {second} are the same frame: video {video!r}, number {frame}; rename or remove one of "
        f"them{more}"
    )


def add_context(frames: pl.DataFrame, faces: pl.DataFrame, schema: Schema = ABAW) -> pl.DataFrame:
    """`frames` and those rows of `faces` that it does not have, without labels, as temporal context.

    A row of context takes its video's split where the video is in one split only, else "none".
    """
    extra = faces.join(frames, on=["video", "frame"], how="anti")
    splits = frames.group_by("video").agg(pl.col("split").first(), num_splits=pl.col("split").n_unique())
    splits = splits.filter(pl.col("num_splits") == 1).drop("num_splits")
    subjects = [frames.select("video", "subject").unique("video")] if "subject" in frames.columns else []
    extra = extra.drop("split", "subject", strict=False).join(splits, on="video", how="left")
    for table in subjects:
        extra = extra.join(table, on="video", how="left")
    extra = extra.with_columns(pl.col("split").fill_null("none"))
    return conform(pl.concat([frames, extra], how="diagonal_relaxed"), "faces", schema)


def read_subjects(path: Path) -> pl.DataFrame:
    """A table `video,subject`, one row per video; further columns are attributes of the subjects, and left out here.

    Raises:
        ValueError: neither column, an empty cell, or a video named twice; says file and line.
    """
    sheet = read_sheet(path, ignored=r"(?!video$|subject$).*")
    if missing := [name for name in ("video", "subject") if name not in sheet.columns]:
        raise ValueError(f"{path}: has no column {missing[0]}; expected the header video,subject")
    table = parse_sheet(sheet, empty_is_missing=False)
    repeated = (~table["video"].is_first_distinct()).arg_true()
    if len(repeated):
        video = table["video"][repeated[0]]
        raise ValueError(f"{sheet.at(repeated[0])}: video {video!r} is named a second time; remove one of the rows")
    return table.select("video", "subject")


def merge(
    tables: Sequence[pl.DataFrame],
    subjects: pl.DataFrame | None = None,
    names: Sequence[str] | None = None,
    schema: Schema = ABAW,
) -> pl.DataFrame:
    """One frames table from several; a frame that several tables hold takes its labels from all of them.

    `names` are the tables' names in errors. `subjects` (video, subject) overrides nothing: it must agree.

    Raises:
        ValueError: two tables give one frame different labels, splits, paths or subjects.
    """
    if not tables:
        raise ValueError("no annotation and no faces: nothing to merge")
    names = names or [f"table {index + 1}" for index in range(len(tables))]
    parts = [table.with_columns(source=pl.lit(index, dtype=pl.Int32)) for index, table in enumerate(tables)]
    rows = pl.concat(parts, how="diagonal_relaxed")
    if len(tables) > 1:
        rows = _merge_twins(rows, names)
    merged = conform(rows.drop("source"), " and ".join(names), schema)
    return merged if subjects is None else _with_subjects(merged, subjects, schema)


def _merge_twins(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """`rows` with the rows of one (video, frame) made one."""
    is_twin = pl.struct(KEY).is_duplicated()
    twins = rows.filter(is_twin).with_columns(pl.col("split").replace("none", None))
    if twins.is_empty():
        return rows
    others = [name for name in rows.columns if name not in (*KEY, "source")]
    groups = twins.group_by(KEY, maintain_order=True)
    low, high = groups.agg(pl.col(others).min()), groups.agg(pl.col(others).max())
    for name in others:
        clash = (low[name] != high[name]).fill_null(False)
        if name == "path":  # other names of one frame are none
            clash &= pl.select(_other_frame(low[name], high[name])).to_series()
        if clash.any():
            _raise_clash(twins, low.row(clash.arg_max() or 0, named=True), name, names)
    return pl.concat(
        [rows.filter(~is_twin), high.with_columns(pl.col("split").fill_null("none"))], how="diagonal_relaxed"
    )


def _other_frame(first: pl.Series, second: pl.Series) -> pl.Expr:
    """Whether two paths are of different frames."""
    one, other = pl.lit(first), pl.lit(second)
    return (video_in(one) != video_in(other)) | frame_in(one).ne_missing(frame_in(other))


def _raise_clash(twins: pl.DataFrame, twin: dict[str, object], name: str, names: Sequence[str]) -> None:
    video, frame = twin["video"], twin["frame"]
    both = twins.filter((pl.col("video") == video) & (pl.col("frame") == frame), pl.col(name).is_not_null())
    both = both.unique(name, keep="first", maintain_order=True)
    described = " and ".join(
        f"{value!r} in {names[source]}" for value, source in both.select(name, "source").head(2).rows()
    )
    raise ValueError(f"video {video!r}, frame {frame}: {name} is {described}; correct or remove one of the two rows")


def _with_subjects(frames: pl.DataFrame, subjects: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """`frames` with the subject of each video, checked against the subjects it may have already."""
    joined = frames.join(subjects.rename({"subject": "named"}), on="video", how="left")
    if "subject" in frames.columns:
        clash = joined.filter(pl.col("subject") != pl.col("named"))
        if clash.height:
            video, old, new = clash.select("video", "subject", "named").row(0)
            raise ValueError(f"video {video!r}: the table names subject {old!r}, --subjects names {new!r}; correct one")
        joined = joined.with_columns(pl.coalesce("named", "subject").alias("named")).drop("subject")
    return conform(joined.rename({"named": "subject"}), "subjects", schema)
