"""The per-track folders of Aff-Wild2: three sets of text files, one file per video, merged on the frame.

Place: beside `extract.annotations.readers`. The layout is that of the ABAW challenges (the folder's middle name differs
by year):

    VA_Estimation_Challenge/{Train_Set,Validation_Set}/VIDEO.txt      first line `valence,arousal`
    EXPR_Recognition_Challenge/{Train_Set,Validation_Set}/VIDEO.txt   first line the class names
    AU_Detection_Challenge/{Train_Set,Validation_Set}/VIDEO.txt       first line the action units

Row i below the first line is frame i, `VIDEO/%05d.jpg`. VIDEO may end in `_left` or `_right`: two faces of one video.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cache.frames import conform
from cache.labels import ABAW
from cache.names import TASKS
from extract.annotations.readers import face_path
from extract.annotations.sheets import parse_sheet, read_sheet

SPLIT_FOLDERS = {
    "train_set": "train",
    "training_set": "train",
    "validation_set": "val",
    "val_set": "val",
    "test_set": "test",
}
# A video that one track validates on must not train another: the later split of this list wins.
SPLIT_ORDER = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class TrackFile:
    """One video's labels of one task."""

    video: str
    task: str
    split: str
    path: Path


def list_tracks(root: Path) -> list[TrackFile]:
    """Every annotation file below `root`, sorted by video and task.

    Raises:
        ValueError: no such folder, no track in it, or two files for one video and task.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; name the folder that holds VA_Estimation_Challenge and its like")
    files = [
        TrackFile(path.stem, task, split, path)
        for track in _folders(root)
        for task in TASKS
        if track.name.lower().startswith(f"{task}_")
        for folder in _folders(track)
        if (split := SPLIT_FOLDERS.get(folder.name.lower()))
        for path in folder.glob("*.txt")
        if not path.name.startswith(".")
    ]
    if not files:
        raise ValueError(
            f"{root}: no annotations here; expected VA_..., EXPR_... or AU_... folders with Train_Set and "
            f"Validation_Set, each with one text file per video"
        )
    files.sort(key=lambda file: (file.video, file.task, str(file.path)))
    for first, second in itertools.pairwise(files):
        if (first.video, first.task) == (second.video, second.task):
            raise ValueError(
                f"{second.path}: video {second.video!r} stands also in {first.path}; remove one of the files"
            )
    return files


def settle(files: Sequence[TrackFile]) -> tuple[list[TrackFile], list[TrackFile]]:
    """(files kept, files left out), so that no video is in two splits.

    The tracks are cut differently: a video may train one task and validate another. Its validation labels are kept,
    which leaves every official validation set whole, and its training labels are left out, so that no shared part of
    a model has seen it.
    """
    last: dict[str, str] = {}
    for file in files:
        last[file.video] = max(last.get(file.video, "train"), file.split, key=SPLIT_ORDER.index)
    kept = [file for file in files if file.split == last[file.video]]
    return kept, [file for file in files if file.split != last[file.video]]


def read_per_track(root: Path) -> pl.DataFrame:
    """The per-track folders below `root` as one frames table; see `settle` for videos in two splits.

    Frames without a face crop have rows too: the annotation does not say which frames these are.

    Raises:
        ValueError: the first bad row, as `file:line: what; remedy`.
    """
    kept, _ = settle(list_tracks(root))
    videos: dict[str, list[TrackFile]] = {}
    for file in kept:
        videos.setdefault(file.video, []).append(file)
    return conform(pl.concat([_read_video(files) for files in videos.values()], how="diagonal"), str(root))


def _read_video(files: list[TrackFile]) -> pl.DataFrame:
    """One video's frames from 1 to the last row of its longest file; a shorter file leaves nulls."""
    tracks = [_read_track(file).with_row_index("frame", offset=1) for file in files]
    labels = pl.concat(tracks, how="align").with_columns(pl.col("frame").cast(pl.Int64))
    table = labels.with_columns(video=pl.lit(files[0].video), split=pl.lit(files[0].split))
    return table.with_columns(path=face_path(pl.col("video"), pl.col("frame")))


def _read_track(file: TrackFile) -> pl.DataFrame:
    sheet = read_sheet(file.path)
    expected = ABAW.group(file.task).columns
    if set(sheet.columns) != set(expected):
        found = ", ".join(sheet.columns)
        raise ValueError(f"{file.path}:1: columns {found}; expected a first line that names {', '.join(expected)}")
    expected_lines = pl.int_range(2, len(sheet.lines) + 2, eager=True)
    if (sheet.lines != expected_lines).any():
        line = expected_lines.filter(sheet.lines != expected_lines)[0]
        raise ValueError(f"{file.path}:{line}: an empty line; a row's frame is counted by lines, so remove or fill it")
    return parse_sheet(sheet, empty_is_missing=False).select(expected)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())
