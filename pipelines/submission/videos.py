"""The per-video form of ABAW3: a list of videos, one text file each with one row per frame, without names.

Row n is frame n, counted from 1, so the file must have exactly as many rows as the video has
frames. No list and no frames table says how many these are: the last crop is only the last frame with a face. So they
come from a table of their own (`--num-frames`), as `ffprobe -count_frames` gives them, and nothing is guessed.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from cache.durable import sync, sync_tree, temporary_beside
from extract.annotations.lists import NameList
from extract.annotations.sheets import read_rows
from pipelines.predict.listed import with_keys
from pipelines.submission.checking import check_rows
from pipelines.submission.formats import Track
from pipelines.submission.writing import write_lines

MOST_FRAMES = 10_000_000
HEADER = ["video", "num_frames"]


def expand(names: NameList, counts: Path | None, frames: pl.DataFrame) -> NameList:
    """The list of videos `names` as a list of all their frames, from 1 on, by the table of `counts`.

    Raises:
        ValueError: no table, a video named twice or not in it, or one with a later frame in the frames table `frames`.
    """
    if counts is None:
        raise ValueError(
            f"{names.at(0)}: a list of videos: each is handed in as a file with one row per frame, and how many frames "
            "a video has is not known here (its last frames may have no crop); give --num-frames FILE, a table "
            "video,num_frames of the videos themselves"
        )
    number = read_counts(counts)
    last = dict(
        with_keys(frames.select(pl.col("video").cast(pl.String), "frame"))
        .group_by("key")
        .agg(pl.col("frame").max())
        .iter_rows()
    )
    keys = with_keys(names.rows)["key"].to_list()
    for row, (key, video) in enumerate(zip(keys, names.rows["video"], strict=True)):
        if key in keys[:row]:
            raise ValueError(f"{names.at(row)}: video {video!r} is named a second time; remove one of the rows")
        if key not in number:
            raise ValueError(f"{names.at(row)}: video {video!r} is not in {counts}; add how many frames it has")
        if number[key] < last.get(key, 0):
            raise ValueError(
                f"{counts}: video {video!r} has {number[key]:,} frames, but the frames table has its frame "
                f"{last[key]:,}; count the frames of the video itself"
            )
    rows = names.rows.with_columns(frame=pl.Series([range(1, number[key] + 1) for key in keys])).explode("frame")
    return NameList(path=names.path, header=names.header, kind="frames", rows=rows.cast({"frame": pl.Int64}))


def read_counts(path: Path) -> dict[str, int]:
    """How many frames each video of the table `video,num_frames` at `path` has; a header or none.

    Raises:
        ValueError: a bad row, as `file:line: what; remedy`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    found: dict[str, int] = {}
    for line, cells in read_rows(path).iter_rows():
        cells = [cell.strip(" \t\r") for cell in cells]
        if not found and cells == HEADER:
            continue
        video = pl.select(pl.lit(cells[0]).str.normalize("NFC")).item()
        is_number = len(cells) == 2 and cells[1].isascii() and cells[1].isdigit() and len(cells[1]) < 9
        if not video or not is_number or not 1 <= int(cells[1]) <= MOST_FRAMES:
            raise ValueError(f"{path}:{line}: {','.join(cells)[:60]!r}; expected video,num_frames such as 140,2675")
        if video in found:
            raise ValueError(f"{path}:{line}: video {cells[0]!r} is named a second time; remove one of the rows")
        found[video] = int(cells[1])
    return found


def check_new_folder(folder: Path) -> None:
    """Raises `ValueError` where something is at `folder`: a folder is never replaced, not even with --force."""
    if os.path.lexists(folder):
        raise ValueError(
            f"{folder} is there already; a list of videos is answered with a folder of files, which replaces nothing: "
            "name a new one with --out"
        )


def write_videos(folder: Path, track: Track, videos: pl.Series, cells: Sequence[str]) -> None:
    """The files `folder`/VIDEO.txt: `cells` [R], row by row of its `videos` [R]; each is read back; all or none."""
    assert track.video_header is not None
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_beside(folder)
    made.mkdir()
    try:
        rows = pl.DataFrame({"video": videos, "cells": list(cells)})
        for (video,), part in rows.group_by("video", maintain_order=True):
            path = made / f"{video}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_lines(path, [track.video_header, *part["cells"]], folder / f"{video}.txt")
            check_rows(path, track, track.video_header, None, part.height)
        sync_tree(made)
        made.rename(folder)  # fails where a folder with something in it came meanwhile
        sync(folder.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)
