"""`mtl predict MODEL SOURCE`: faces of a source observed, embedded and predicted, as one table in a file.

What was observed and embedded lies in a work folder beside the result until that is written, so that the same command
resumes after a kill. An incomplete source gives an incomplete table, and `incomplete` of the result says why.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from extract.video.finder import FaceFinder
from pipelines.config import Config
from pipelines.outfile import check_format, check_place, replaceable_table, table_bytes, write_new
from pipelines.postprocess.apply import components
from pipelines.predict.alignments import alignment_notes, alignment_of
from pipelines.predict.compound import basic_group
from pipelines.predict.detected import PictureFaces, VideoFaces
from pipelines.predict.face_model import FaceModel
from pipelines.predict.observe import observe
from pipelines.predict.observed import Unit
from pipelines.predict.pictures import check_overlay, check_timeline, write_overlay, write_timeline
from pipelines.predict.sources import Source
from pipelines.predict.tables import PredictedFaces, predict_faces
from pipelines.predict.units import AlignedFaces
from pipelines.predict.work import UnitWork, WorkFolder
from pipelines.progress import progress, total_of

NUM_NAMED = 5  # faults that are written out


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The files to write: the table, and where wanted a video with the predictions drawn into it and a timeline. With
    `box` the table has compound expressions too: see `predict_faces`."""

    table: Path
    overlay: Path | None = None
    timeline: Path | None = None
    box: int | None = None
    force: bool = False


def default_table(config: Config, model: str, source: str) -> Path:
    return config.at(Path("predictions")) / f"{model}-{source}.parquet"


def check_outputs(outputs: Outputs, source: Source) -> None:
    """Raises `ValueError` where a file cannot be written, before anything is done."""
    check_format(outputs.table)
    check_place(outputs.table, force=outputs.force, is_ours=replaceable_table)
    if outputs.overlay is not None:
        if source.kind != "videos" or len(source.paths) != 1:
            raise ValueError(f"--overlay draws into one video, and {source.given} is {source.why}; name a video")
        check_overlay(outputs.overlay, force=outputs.force)
    if outputs.timeline is not None:
        check_timeline(outputs.timeline, force=outputs.force)


def predict_source(
    model: FaceModel, source: Source, config: Config, outputs: Outputs, finder: FaceFinder | None
) -> dict[str, Any]:
    """Predicts the faces of `source` and writes what `outputs` names; returns what was done, in numbers. `finder` looks
    for faces in a source that is not aligned; it is None for one that is.

    Raises:
        ValueError: nothing of the source can be read, or another process writes the same.
    """
    started_s = time.monotonic()
    if outputs.box is not None:
        basic_group(model.schema, model.tasks, str(model.folder))
    units = units_of(source, model, finder)
    notes = alignment_notes(model, alignment_of(source) if finder is None else finder.alignment)
    with WorkFolder(outputs.table.with_name(f".{outputs.table.name}.work")) as folder:
        works = [
            folder.unit(number, {"unit": unit.origin, "model": model.made_by}) for number, unit in enumerate(units)
        ]
        num_resumed = sum(work.num_frames for work in works)
        total = total_of(unit.num_frames for unit in units)
        with progress(f"predict {source.given.name}", total, "frames", num_resumed) as advance:
            failed = _observe_all(units, works, model, advance)
        seconds = time.monotonic() - started_s
        found = predict_faces(model, units, works, config.data.fps, outputs.box)
        notes += _write_pictures(model, source, units, found, outputs)
        write_new(outputs.table, table_bytes(found.table, outputs.table.suffix), force=outputs.force)
        folder.remove()
    return _done(model, source, units, works, found, failed) | {
        "out": str(outputs.table),
        "box": outputs.box,
        "overlay": None if outputs.overlay is None else str(outputs.overlay),
        "timeline": None if outputs.timeline is None else str(outputs.timeline),
        "num_resumed": num_resumed,
        "seconds": seconds,
        "notes": notes,
    }


def _write_pictures(
    model: FaceModel, source: Source, units: Sequence[Unit], found: PredictedFaces, outputs: Outputs
) -> list[str]:
    """The files that are wanted beside the table; returns what there is to say of them."""
    notes = []
    if outputs.timeline is not None:
        raw, faces = found.raw, None
        (unit, *_) = units
        if isinstance(unit, AlignedFaces) and (source.folder / unit.rows["path"][0]).is_file():
            raw, faces = raw.with_columns(unit.rows["path"]), source.folder
        shown = write_timeline(
            outputs.timeline,
            source.given.name,
            found.table.with_columns(raw.select(pl.col("^path$"))),
            raw,
            model.schema,
            whose=f"the {model.kind} {model.folder.name}",
            is_post=bool(model.post and components(model.post)),
            faces=faces,
            force=outputs.force,
        )
        if shown:
            notes.append(f"{outputs.timeline} shows {shown}; a .html shows all")
    if outputs.overlay is not None:
        video = source.folder / source.paths[0]
        with progress(f"draw {outputs.overlay.name}", found.table["frame"].n_unique(), "frames") as advance:
            write_overlay(
                outputs.overlay,
                video,
                found.table,
                model.schema,
                follow_orientation=model.follow_orientation,
                force=outputs.force,
                advance=advance,
            )
    return notes


def units_of(source: Source, model: FaceModel, finder: FaceFinder | None) -> list[Unit]:
    """What `source` is observed and resumed by."""
    follow = model.follow_orientation
    if finder is None:
        return [AlignedFaces(source, follow)]
    if source.kind == "pictures":
        return [PictureFaces(source, finder, follow)]
    return [VideoFaces(source.folder / path, name, finder, follow) for path, name in _video_names(source).items()]


def _video_names(source: Source) -> dict[str, str]:
    """What each video is called in the table: its path without the ending, but where two would be called alike."""
    stems = {path: os.path.splitext(path)[0] for path in source.paths}
    count = Counter(stems.values())
    return {path: stem if count[stem] == 1 else path for path, stem in stems.items()}


def _observe_all(
    units: Sequence[Unit], works: Sequence[UnitWork], model: FaceModel, advance: Callable[[int], None]
) -> dict[int, str]:
    """Observes every unit; why some could not be, by their number. Raises where none could."""
    failed: dict[int, str] = {}
    for number, (unit, work) in enumerate(zip(units, works, strict=True)):
        try:
            observe(unit, work, model, advance)
        except ValueError as error:
            if len(units) == 1:
                raise
            failed[number] = str(error)
    if len(failed) == len(units):
        raise ValueError(f"none of {len(units)} files can be read; the first: {next(iter(failed.values()))}")
    return failed


def _done(
    model: FaceModel,
    source: Source,
    units: Sequence[Unit],
    works: Sequence[UnitWork],
    found: PredictedFaces,
    failed: dict[int, str],
) -> dict[str, Any]:
    table = found.table
    ended = {unit.name: work.why_ended for unit, work in zip(units, works, strict=True)}
    incomplete = [f"{name}: {why}" for name, why in ended.items() if why]
    return {
        model.kind: str(model.folder),
        "source": str(source.given),
        "source_kind": source.kind,
        "why": source.why,
        "tasks": list(model.tasks),
        "post": model.post,
        "num_frames": int(table.select(pl.struct("video", "frame").n_unique()).item()),
        "num_videos": table["video"].n_unique(),
        "num_tracks": found.num_tracks,
        "num_faces": int(table["valid"].sum()),
        "num_unreadable": len(found.faults),
        "unreadable": list(found.faults[:NUM_NAMED]),
        "incomplete": [*incomplete, *failed.values()],
    }
