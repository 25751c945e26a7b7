"""`mtl submit`: one list of the challenge answered by a run or an ensemble, written, read back, renamed.

Every row of the list gets its row, in the list's order, duplicates too. R rows of the list, Q different frames.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from extract.annotations.lists import NameList, read_list
from pipelines.config import Config
from pipelines.device import resolve_device
from pipelines.outfile import check_place
from pipelines.predict.compound import basic_group, compound_frames
from pipelines.predict.listed import Listed, first_crop_without_row, match_list
from pipelines.predict.predictor import (
    Predictor,
    check_tasks,
    find_predictor,
    load_predictor,
    num_trained_on,
    predict_frames,
)
from pipelines.submission.answer import Answer, answer_list
from pipelines.submission.filling import FILLS
from pipelines.submission.formats import TRACKS, Track, track_of
from pipelines.submission.videos import check_new_folder, expand, write_videos
from pipelines.submission.writing import is_submission, write_list
from pipelines.training.dataset import load_dataset
from pipelines.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRequest:
    """What to hand in: the `track`, the challenge's list of `names`, and the file `out`; and how.

    `num_frames` is a table video,num_frames for a list of videos. `box` is how many frames on each side a compound
    expression is averaged over. `fill_empty_videos` answers videos without any crop
    neutrally; `fill_unprepared` fills frames that have a crop, but no row in the frames table.
    """

    model: Path
    track: str
    names: Path
    out: Path
    fill: str = "interpolate"
    num_frames: Path | None = None
    box: int = 0
    fill_empty_videos: bool = False
    fill_unprepared: bool = False
    post: bool = True
    force: bool = False


def submit(config: Config, request: SubmissionRequest, device: str) -> dict[str, Any]:
    """Writes the submission that `request` asks for; returns what was done, in numbers.

    Raises:
        ValueError: a list that does not fit the track or the frames table, a model that lacks a task, a place that is
            taken, or a file that, read back, is not what it should be.
    """
    track, names = _track(request), read_list(request.names)
    _check_names(track, names)
    is_videos = names.kind == "videos"
    if request.num_frames is not None and not is_videos:
        raise ValueError(f"--num-frames is for a list of videos, but {names.path} names frames; leave it out")
    if is_videos:
        check_new_folder(request.out)
    else:
        check_place(request.out, force=request.force, is_ours=is_submission)
    folder, views = find_predictor(request.model, config), config.predict.views
    predictor = load_predictor(folder, resolve_device(device), post=request.post, views=views)
    if track.name == "ce":
        basic = basic_group(predictor.schema, predictor.tasks, str(predictor.folder))
    else:
        check_tasks(predictor, track.tasks, f"the track {track.name}")
    dataset = load_dataset(config, predictor.streams, resolve_device(device))
    if is_videos:
        names = expand(names, request.num_frames, dataset.frames)
    table = config.at(config.data.frames)
    listed = match_list(names, dataset.frames, table)
    faces = config.at(config.data.faces)
    if not request.fill_unprepared:
        _check_crops(names, listed, faces, table)
    found = predict_frames(predictor, dataset, listed.part)
    if track.name == "ce":
        found = compound_frames(found, basic, request.box)
    answer = answer_list(track, names, found, request.fill)
    if not request.fill_empty_videos:
        _check_empty(names, answer.filled.empty[answer.index], listed, table)
    if is_videos:
        write_videos(request.out, track, names.rows["video"], answer.cells)
    else:
        write_list(request.out, track, names.rows["path"].to_list(), answer.cells, force=request.force)
    return {
        **_counts(request, predictor, names, listed, answer),
        "num_seen": num_trained_on(predictor, dataset, listed.rows),
        "box": request.box if track.name == "ce" else None,
        "crops_looked_for": faces.is_dir() and not request.fill_unprepared,
    }


def _track(request: SubmissionRequest) -> Track:
    if request.track not in TRACKS:
        raise ValueError(f"--track {request.track}: unknown track; known: {', '.join(TRACKS)}")
    if request.fill not in FILLS:
        raise ValueError(f"--fill {request.fill}: unknown rule; known: {', '.join(FILLS)}")
    if request.box and request.track != "ce":
        raise ValueError("--box averages compound expressions (--track ce); leave it out")
    return TRACKS[request.track]


def _check_names(track: Track, names: NameList) -> None:
    """Raises where the list is another track's, or cannot be written without quotes."""
    other = track_of(names.header or "")
    if other not in (None, track.name):
        raise ValueError(f"{names.path}:1: the header is that of the track {other}, not {track.name}; check --track")
    if names.kind == "videos" and track.video_header is None:
        raise ValueError(
            f"{names.at(0)}: a list of videos, but the track {track.name} is handed in by a list of frames "
            "(video/00001.jpg); give the challenge's list of that track"
        )
    bad = names.rows.filter(pl.coalesce("path", "video").str.contains('[",]')).head(1)
    if bad.height:
        name = bad.select(pl.coalesce("path", "video")).item()
        raise ValueError(f"{names.path}:{bad['line'][0]}: {name!r} has a comma or a quote, which the format cannot say")


def _check_crops(names: NameList, listed: Listed, faces: Path, table: Path) -> None:
    """Raises where a listed frame has a crop in the folder `faces`, but no row in the frames table."""
    num, row = first_crop_without_row(faces, listed.absent) if faces.is_dir() else (0, -1)
    if num:
        video, frame = names.rows.select("video", "frame").row(row)
        raise ValueError(
            f"{names.at(row)}: video {video!r} frame {frame} has a crop in {faces}, but no row in {table} "
            f"({counted(num, 'such frame')}); add them with `mtl prepare --test-list {names.path}` and `mtl extract`, "
            "or fill them from their neighbours with --fill-unprepared"
        )


def _check_empty(names: NameList, empty: np.ndarray, listed: Listed, table: Path) -> None:
    """Raises for the first row of the list [R] whose video has no embedding at all."""
    if not empty.any():
        return
    row = int(empty.argmax())
    video, num = names.rows["video"][row], names.rows.filter(empty)["video"].n_unique()
    is_absent = video in listed.absent_videos["video"]
    why = f"has no row in {table}" if is_absent else "has no frame with an embedding"
    raise ValueError(
        f"{names.at(row)}: video {video!r} {why} ({counted(num, 'such video')}); where it has crops, "
        f"`mtl prepare --test-list {names.path}` and `mtl extract` add them; where it has none, --fill-empty-videos "
        "answers it with valence and arousal 0, Neutral and no action unit (track ce: Fearfully_Surprised)"
    )


def _counts(
    request: SubmissionRequest, predictor: Predictor, names: NameList, listed: Listed, answer: Answer
) -> dict[str, Any]:
    """What was asked for, and how much of it was filled: frames count once, however often the list has them."""
    filled, index = answer.filled, answer.index
    is_filled = ~filled.own & ~filled.empty
    is_absent = np.zeros(len(is_filled), dtype=bool)
    is_absent[index[listed.absent["row"].to_numpy()]] = True
    return {
        predictor.kind: str(predictor.folder),
        "track": request.track,
        "list": str(request.names),
        "out": str(request.out),
        "post": None if predictor.parameters is None else predictor.parameters.to_json(),
        "fill": request.fill,
        "num_rows": len(index),
        "num_frames": len(is_filled),
        "num_videos": names.rows["video"].n_unique(),
        "num_filled": int(is_filled.sum()),
        "num_filled_not_in_table": int((is_filled & is_absent).sum()),
        "num_filled_without_embedding": int((is_filled & ~is_absent).sum()),
        "num_clipped": answer.num_clipped,
        "empty_videos": names.rows.filter(filled.empty[index])["video"].unique(maintain_order=True).to_list(),
    }
