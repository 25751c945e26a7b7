"""From observed faces to the table of predictions: tracks over real time, heads, one row per face.

N frames of all units, R faces in them, S distinct steps of tracks, T rows of the table, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cache.labels import Schema
from pipelines.metrics.predictions import Probabilities, prediction_columns
from pipelines.predict.compound import basic_group, compounds_of
from pipelines.predict.face_model import FaceModel, PredictedSteps
from pipelines.predict.observed import UNKNOWN, Unit
from pipelines.predict.work import Chunk, UnitWork

BOX_COLUMNS = ("x0", "y0", "x1", "y1")
PLACE_COLUMNS = ("video", "frame", "time_s", "face", *BOX_COLUMNS, "detection_score", "valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedFaces:
    """`table` [T]: one row per face and one per frame without any, in the order of the source; `PLACE_COLUMNS`, then
    what is predicted. `raw` [T] is the same before smoothing. `faults` are why faces could not be read."""

    table: pl.DataFrame
    raw: pl.DataFrame
    num_tracks: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observed:
    """All chunks of all units. By frame [N]: `units`, `videos`, `frames`, `times_s`, `steps`. By face [R]: `of`, the
    number of its frame, `faces`, `boxes` [R, 4], `scores`, `valid`, and `embeddings` [R, D] by stream; no stream where
    no face has one."""

    units: np.ndarray
    videos: list[str]
    frames: np.ndarray
    times_s: np.ndarray
    steps: np.ndarray
    of: np.ndarray
    faces: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    valid: np.ndarray
    embeddings: Mapping[str, np.ndarray]
    faults: tuple[str, ...]


def predict_faces(
    model: FaceModel, units: Sequence[Unit], works: Sequence[UnitWork], fps: float, box: int | None = None
) -> PredictedFaces:
    """The predictions of all that is in `works`; `fps` is the rate at which the heads count time. With `box` the table
    has compound expressions too, averaged over so many steps on each side.

    A track of a face is a video to the heads, whose steps are its frames at `fps`; of several frames on one step the
    first is the step, and the others take its prediction.
    """
    seen = _observed(units, works, fps)
    codes = pl.Series(seen.videos, dtype=pl.String).rank("dense").to_numpy()
    keys = np.stack([seen.units[seen.of], codes[seen.of], seen.faces], axis=1)
    distinct, track = np.unique(keys, axis=0, return_inverse=True)
    track, step = track.reshape(-1), seen.steps[seen.of]
    order = np.lexsort((~seen.valid, step, track))  # stable: of equal ones the first
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(track[order]) != 0) | (np.diff(step[order]) != 0)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(is_first) - 1
    chosen = order[is_first]
    smooth, raw = _predicted(model, track[chosen], step[chosen], seen, chosen, box)

    lonely = np.setdiff1d(np.arange(len(seen.frames)), seen.of)
    of = np.concatenate([seen.of, lonely])
    face = np.concatenate([np.arange(len(seen.of)), np.full(len(lonely), UNKNOWN)])
    rows = np.argsort(of, kind="stable")
    of, face = of[rows], face[rows]
    head_row = np.where(face == UNKNOWN, UNKNOWN, np.append(place, UNKNOWN)[face])
    places = _places(seen, of, face)
    return PredictedFaces(
        table=places.with_columns(_taken(smooth, head_row)),
        raw=places.with_columns(_taken(raw, head_row)),
        num_tracks=int((distinct[:, 2] != UNKNOWN).sum()),
        faults=seen.faults,
    )


def _predicted(
    model: FaceModel, track: np.ndarray, step: np.ndarray, seen: _Observed, chosen: np.ndarray, box: int | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Columns [S] of the predictions of steps, post-processed and raw; null where a track has no embedding at all.
    Those of compounds are among the former."""
    if seen.embeddings:
        embeddings = {name: values[chosen] for name, values in seen.embeddings.items()}
        found = model.predict(track, step, embeddings, seen.valid[chosen])
    else:
        track = step = np.zeros(0, np.int64)
        nothing = _no_columns(model)
        found = PredictedSteps(columns=nothing, raw=nothing, known=np.zeros(0, dtype=bool))
    smooth, raw = (_columns(columns, found.known, model.schema) for columns in (found.columns, found.raw))
    if box is not None:
        group = basic_group(model.schema, model.tasks, str(model.folder))
        basic = np.stack([found.columns[name] for name in group.output_columns], axis=1)
        made = compounds_of(group, basic, track, step, box)
        more = _columns(prediction_columns(made, made.decide()), found.known, made.schema)
        smooth = pl.concat([smooth, more], how="horizontal")
    return smooth, raw


def _no_columns(model: FaceModel) -> dict[str, np.ndarray]:
    """The columns of predictions of no step at all."""
    tasks = model.schema.scored(list(model.tasks))
    parts = {task.name: np.zeros((0, task.num_outputs), np.float32) for task in tasks}
    nothing = Probabilities(parts=parts, schema=model.schema)
    return prediction_columns(nothing, nothing.decide())


def _columns(predicted: Mapping[str, np.ndarray], known: np.ndarray, schema: Schema) -> pl.DataFrame:
    """The columns, and behind them the name of each class as COLUMN_name; null where nothing is known."""
    columns = {name: pl.Series(name, values) for name, values in predicted.items()}
    for group in schema:
        column = group.columns[0]
        if group.kind == "classes" and column in columns:
            names = pl.Series(group.classes, dtype=pl.String).gather(columns[column].cast(pl.Int64))
            columns[f"{column}_name"] = names.alias(f"{column}_name")
    is_known = pl.Series(known, dtype=pl.Boolean)
    return pl.DataFrame(list(columns.values())).select(pl.when(is_known).then(pl.all()))


def _taken(columns: pl.DataFrame, rows: np.ndarray) -> list[pl.Series]:
    """The columns at `rows` [T], null where there is none."""
    places = pl.Series(np.where(rows == UNKNOWN, -1, rows))
    places = pl.select(pl.when(places >= 0).then(places).cast(pl.UInt32)).to_series()
    return [column.gather(places) for column in columns]


def _places(seen: _Observed, of: np.ndarray, face: np.ndarray) -> pl.DataFrame:
    """`PLACE_COLUMNS` of the table's rows: the frames `of` [T] and the faces `face` [T] in them, UNKNOWN for none."""
    there = face != UNKNOWN
    at = np.where(there, face, 0) if len(seen.of) else np.zeros(len(face), np.int64)

    def of_face(values: np.ndarray, dtype: pl.DataType, missing: np.ndarray) -> pl.Series:
        if not len(seen.of):
            return pl.repeat(None, len(face), dtype=dtype, eager=True)
        found = pl.Series(values[at]).cast(dtype, strict=False)
        return pl.select(pl.when(pl.Series(there & ~missing[at])).then(found)).to_series()

    is_boxless = np.isnan(seen.boxes[:, 0]) if len(seen.of) else np.zeros(0, dtype=bool)
    time_s = seen.times_s[of]
    columns: dict[str, pl.Series] = {
        "video": pl.Series(seen.videos, dtype=pl.String).gather(of),
        "frame": pl.Series(seen.frames[of]),
        "time_s": pl.Series(time_s).fill_nan(None),
        "face": of_face(seen.faces, pl.Int32(), seen.faces == UNKNOWN),
        **{name: of_face(seen.boxes[:, i], pl.Float32(), is_boxless) for i, name in enumerate(BOX_COLUMNS)},
        "detection_score": of_face(seen.scores, pl.Float32(), np.isnan(seen.scores)),
        "valid": of_face(seen.valid, pl.Boolean(), np.zeros(len(seen.of), dtype=bool)).fill_null(False),
    }
    return pl.DataFrame({name: values.alias(name) for name, values in columns.items()})


def _observed(units: Sequence[Unit], works: Sequence[UnitWork], fps: float) -> _Observed:
    chunks: list[tuple[int, Chunk]] = [
        (number, chunk) for number, work in enumerate(works) for chunk in work.chunks() if len(chunk.frames)
    ]
    sizes = [len(chunk.frames) for _, chunk in chunks]
    starts = np.cumsum([0, *sizes])[:-1]
    frames, times_s = (_joined([getattr(c, name) for _, c in chunks], kind) for name, kind in _BY_FRAME)
    numbers = np.repeat([number for number, _ in chunks], sizes).astype(np.int64)
    in_seconds = np.array([unit.time_unit == "seconds" for unit in units], dtype=bool)[numbers]
    steps = np.where(in_seconds, np.round(np.nan_to_num(times_s) * fps).astype(np.int64), frames)
    faults = [
        f"{chunk.videos[chunk.of[face]]} frame {chunk.frames[chunk.of[face]]}: {why}"
        for _, chunk in chunks
        for face, why in chunk.faults.items()
    ]
    return _Observed(
        units=numbers,
        videos=[video for _, chunk in chunks for video in chunk.videos],
        frames=frames,
        times_s=times_s,
        steps=_from_zero(steps, numbers),
        of=_joined([chunk.of + start for (_, chunk), start in zip(chunks, starts, strict=True)], np.int64),
        faces=_joined([chunk.faces for _, chunk in chunks], np.int64),
        boxes=_joined([chunk.boxes for _, chunk in chunks], np.float32).reshape(-1, 4),
        scores=_joined([chunk.scores for _, chunk in chunks], np.float32),
        valid=_joined([chunk.valid for _, chunk in chunks], np.bool_),
        embeddings=_embeddings([chunk for _, chunk in chunks]),
        faults=tuple(faults),
    )


_BY_FRAME = (("frames", np.int64), ("times_s", np.float64))


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, kind)


def _from_zero(steps: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Steps without a negative one: a video's first time may be below 0, and only differences count."""
    least = np.zeros(int(units.max(initial=0)) + 1, np.int64)
    np.minimum.at(least, units, steps)
    return steps - least[units]


def _embeddings(chunks: Sequence[Chunk]) -> dict[str, np.ndarray]:
    """[R, D] by stream, zeros for faces of chunks in which none was embedded."""
    like = next((chunk.embeddings for chunk in chunks if chunk.embeddings), {})

    def of(chunk: Chunk, name: str) -> np.ndarray:
        found = chunk.embeddings.get(name)
        return np.zeros((len(chunk.of), like[name].shape[1]), like[name].dtype) if found is None else found

    return {name: np.concatenate([of(chunk, name) for chunk in chunks]) for name in like}
