"""A bundle against torch, on made faces and embeddings: what a bundle is checked by before it gets its name.

N rows, D width, S side of a face in pixels, K outputs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from cache.frames import conform, frames_digest
from cache.identity import NO_ROW
from extract.backbones.build import Backbone
from extract.crops import CropEmbedder
from extract.view_names import BASE, stream_title
from pipelines.export.streams import StreamKey
from pipelines.metrics.predictions import Probabilities
from pipelines.predict.predictor import FramePredictions, Predictor, predict_frames
from pipelines.training.dataset import make_dataset
from pipelines.training.resident import Resident
from runtime.mtl_runtime import Bundle

LARGEST = 1e-4  # difference that is let pass: of predictions, and of embeddings by the largest value among them
LONGEST = 200  # steps of a window that the check goes round
NUM_FACES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeRows:
    """Rows of made videos, sorted: `frames` (video, frame), an embedding `values` [N, D] per stream, and where it has
    one `valid` [N]."""

    frames: pl.DataFrame
    values: Mapping[StreamKey, np.ndarray]
    valid: Mapping[StreamKey, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Between a bundle and torch: the largest of predictions, raw and processed, how many decisions differ that no
    rounding explains, and the largest of each stream's embeddings, by the largest value among them."""

    predictions: float
    decisions: int
    embeddings: Mapping[str, float]

    @property
    def are_small(self) -> bool:
        """Whether they are those of rounding."""
        return max([self.predictions, *self.embeddings.values()]) <= LARGEST and not self.decisions

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"let_pass": LARGEST}


def made_rows(predictor: Predictor, seed: int = 0) -> MadeRows:
    """Videos of 1, 2, and about one and several windows of steps, with gaps of every length, rows without an embedding,
    and one video without any."""
    rng = np.random.default_rng(seed)
    window = min(max(one.run.window for one in predictor.runs), LONGEST)
    gap = max(one.run.strategy.train.max_gap for one in predictor.runs)
    lengths = [1, 2, max(window - 1, 1), window, window + 1, 3 * window + 5, 4]
    tables, missing = [], []
    for number, length in enumerate(lengths):
        steps = rng.integers(1, 5, length)
        steps[length // 2 :: window] = gap + 1
        tables.append(pl.DataFrame({"video": [f"made{number}"] * length, "frame": np.cumsum(steps)}))
        missing.append(
            np.ones(length, bool) if number == len(lengths) - 1 else rng.random(length) < 0.15 * (length > 2)
        )
    without = np.concatenate(missing)
    values, valid = {}, {}
    for key, (_, identity) in predictor.identities.items():
        values[key] = rng.normal(size=(len(without), identity.width)).astype(identity.dtype)
        if identity.has_age:
            values[key][:, -1] = rng.integers(int(NO_ROW), LONGEST, len(without))
        valid[key] = ~without & (rng.random(len(without)) < 0.98)
        values[key][~valid[key]] = np.nan
    return MadeRows(frames=pl.concat(tables), values=values, valid=valid)


def torch_predictions(predictor: Predictor, rows: MadeRows) -> FramePredictions:
    """What the runs themselves predict of the rows."""
    table = rows.frames.with_columns(path=pl.format("{}/{}", "video", "frame"))
    table = conform(table, "made rows", predictor.schema)
    digest, device = frames_digest(table), next(predictor.runs[0].run.models[0][1].parameters()).device
    resident = Resident(
        streams={key: torch.from_numpy(values).to(device) for key, values in rows.values.items()},
        valid=rows.valid,
        identities={
            key: dataclasses.replace(identity, frames=digest, num_frames=len(table))
            for key, (_, identity) in predictor.identities.items()
        },
        device=device,
    )
    dataset = make_dataset(table, resident, predictor.schema)
    return predict_frames(predictor, dataset, np.ones(len(table), dtype=bool))


def check_bundle(bundle: Bundle, predictor: Predictor, backbones: Mapping[StreamKey, Backbone]) -> Differences:
    """The largest differences between the bundle and torch."""
    rows = made_rows(predictor)
    wanted = torch_predictions(predictor, rows)
    embeddings = {stream_title(*key): values for key, values in rows.values.items()}
    found = bundle.predict(rows.frames["video"].to_list(), rows.frames["frame"].to_numpy(), embeddings)
    pairs = [(found.raw, wanted.raw), (found.processed, wanted.probabilities)]
    return Differences(
        predictions=max(_largest(ours, theirs) for ours, theirs in pairs),
        decisions=num_unexplained(found.decided, wanted),
        embeddings=_of_embeddings(bundle, backbones),
    )


def _largest(ours: Mapping[str, np.ndarray], theirs: Probabilities) -> float:
    return max(float(np.abs(ours[name] - values).max(initial=0)) for name, values in theirs.parts.items())


def num_unexplained(decided: Mapping[str, np.ndarray], wanted: FramePredictions) -> int:
    """Decisions that differ though torch's own was not within `LARGEST` of another."""
    count = 0
    clear = _clear_of(wanted)
    for name, values in wanted.decide().parts.items():
        if wanted.probabilities.schema.scored([name])[0].group.kind != "continuous":
            count += int(((values != decided[name]) & clear[name]).sum())
    return count


def _clear_of(wanted: FramePredictions) -> dict[str, np.ndarray]:
    """By task where a decision is not a matter of rounding: [N] for classes, [N, K] for binary columns."""
    parameters, found = wanted.parameters, {}
    for task in wanted.probabilities.tasks:
        values, name = wanted.probabilities.parts[task.name], task.group.name
        if task.group.kind == "classes":
            weighed = values * np.exp(np.asarray(parameters.offsets.get(name, np.zeros(values.shape[1]))))
            last = np.sort(weighed, axis=1)[:, -2:]
            found[task.name] = last[:, 1] - last[:, 0] > 2 * LARGEST * last[:, 1]
        elif task.group.kind == "binary":
            found[task.name] = np.abs(values - np.asarray(parameters.thresholds.get(name, 0.5))) > LARGEST
    return found


def made_faces(face_px: int, num: int = NUM_FACES, seed: int = 0) -> np.ndarray:
    """[n, S, S, 3] uint8: noise, and noise in black and white alone."""
    faces = np.random.default_rng(seed).integers(0, 256, (num, face_px, face_px, 3), dtype=np.uint8)
    faces[1::2] = np.where(faces[1::2] > 127, 255, 0)
    return faces


def _of_embeddings(bundle: Bundle, backbones: Mapping[StreamKey, Backbone]) -> dict[str, float]:
    if not backbones:
        return {}
    assert bundle.face_px is not None
    faces = made_faces(bundle.face_px)
    exact = {key: dataclasses.replace(each, dtype="float32") for key, each in backbones.items()}
    embedder = CropEmbedder(exact, torch.device("cpu"), len(faces))
    found = bundle.embed(faces, rounded=False)
    differences = {}
    for key, values in embedder(list(faces), [BASE] * len(faces)).items():
        scale = max(float(np.abs(values).max()), 1e-12)
        differences[stream_title(*key)] = float(np.abs(found[stream_title(*key)] - values).max()) / scale
    return differences


def about(differences: Differences) -> Sequence[str]:
    """The differences in words."""
    streams = [f"embeddings of {name} {value:.1e}" for name, value in differences.embeddings.items()]
    return [f"predictions {differences.predictions:.1e}", *streams]
