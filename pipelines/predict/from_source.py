"""`mtl predict MODEL SOURCE`: faces of a source observed, embedded and predicted, as one table in a file.

What was observed and embedded lies in a work folder beside the result until that is written, so that the same command
resumes after a kill. An incomplete source gives an incomplete table, and `incomplete` of the result says why.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.config import Config
from pipelines.predict.face_model import FaceModel
from pipelines.predict.observe import observe
from pipelines.predict.observed import Unit
from pipelines.predict.outfile import check_format, check_place, replaceable_table, table_bytes, write_new
from pipelines.predict.sources import Source
from pipelines.predict.tables import PredictedFaces, predict_faces
from pipelines.predict.units import AlignedFaces
from pipelines.predict.work import UnitWork, WorkFolder
from pipelines.progress import progress

NUM_NAMED = 5  # faults that are written out


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The files to write."""

    table: Path
    force: bool = False


def default_table(config: Config, model: str, source: str) -> Path:
    return config.at(Path("predictions")) / f"{model}-{source}.parquet"


def check_outputs(outputs: Outputs) -> None:
    """Raises `ValueError` where a file cannot be written, before anything is done."""
    check_format(outputs.table)
    check_place(outputs.table, force=outputs.force, is_ours=replaceable_table)


def predict_source(model: FaceModel, source: Source, config: Config, outputs: Outputs) -> dict[str, Any]:
    """Predicts the faces of `source` and writes what `outputs` names; returns what was done, in numbers.

    Raises:
        ValueError: nothing of the source can be read, or another process writes the same.
    """
    started_s = time.monotonic()
    units = units_of(source, model)
    with WorkFolder(outputs.table.with_name(f".{outputs.table.name}.work")) as folder:
        works = [
            folder.unit(number, {"unit": unit.origin, "model": model.made_by}) for number, unit in enumerate(units)
        ]
        num_resumed = sum(work.num_frames for work in works)
        total = sum(unit.num_frames or 0 for unit in units)
        with progress(f"predict {source.given.name}", total, "frames", num_resumed) as advance:
            failed = _observe_all(units, works, model, advance)
        seconds = time.monotonic() - started_s
        found = predict_faces(model, units, works, config.data.fps)
        write_new(outputs.table, table_bytes(found.table, outputs.table.suffix), force=outputs.force)
        folder.remove()
    return _done(model, source, units, works, found, failed) | {
        "out": str(outputs.table),
        "num_resumed": num_resumed,
        "seconds": seconds,
    }


def units_of(source: Source, model: FaceModel) -> list[Unit]:
    """What `source` is observed and resumed by."""
    return [AlignedFaces(source, model.follow_orientation)]


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
        "post": None if model.parameters is None else model.parameters.to_json(),
        "num_frames": int(table.select(pl.struct("video", "frame").n_unique()).item()),
        "num_videos": table["video"].n_unique(),
        "num_tracks": found.num_tracks,
        "num_faces": int(table["valid"].sum()),
        "num_unreadable": len(found.faults),
        "unreadable": list(found.faults[:NUM_NAMED]),
        "incomplete": [*incomplete, *failed.values()],
    }
