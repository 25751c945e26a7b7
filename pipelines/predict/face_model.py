"""A model over faces in memory: crops to embeddings by the backbones of its streams, embeddings to predictions by its
heads. N crops, S steps of tracks, D width.

Runs and ensembles are a `TrainedFaceModel`, a bundle is a `BundleFaceModel`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch

from cache.frames import conform, frames_digest
from cache.identity import SOUND, StreamIdentity
from cache.labels import Schema, schema_of
from extract.backbones.build import Backbone, load_backbone
from extract.config import FOLLOWED, ORIENTATION, SCORES_SUFFIX, BackboneConfig
from extract.crops import CropEmbedder, StreamKey
from extract.jobs import identity_of
from pipelines.config import Config
from pipelines.metrics.predictions import prediction_columns
from pipelines.postprocess.affine import IDENTITY
from pipelines.postprocess.apply import Parameters, components
from pipelines.postprocess.outside import Outside
from pipelines.postprocess.smoothing import Smoothing
from pipelines.predict.predictor import Predictor, find_predictor, load_predictor, predict_frames
from pipelines.training.dataset import make_dataset
from pipelines.training.resident import Resident
from pipelines.training.run import Run
from runtime.mtl_runtime import Bundle, is_bundle

# An EfficientNet-B0 at 112 px beside the detector, on two cores: 17.0 ms of CPU per frame in batches of 16, 18.7 in
# batches of 32, 17.9 in batches of 8.
BATCH_SIZES = {"cuda": 256, "cpu": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSteps:
    """The columns of `prediction_columns` [S], post-processed in `columns` and before that in `raw`. `known` [S] is
    False where a track has no embedding at all: nothing is predicted there."""

    columns: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]
    known: np.ndarray


class FaceModel(Protocol):
    """What predicts faces. `post` is its post-processing as JSON values, None where there is none. `made_by` says, as
    JSON values, what decides an embedding; `alignment` how the crops that it was trained on were made, None where that
    is not known. `window` is the number of steps of the longest window of its heads, `lookahead` how many later steps
    a prediction takes in: a window, but for causal heads only the reach of the smoothing."""

    folder: Path
    kind: str
    schema: Schema
    tasks: tuple[str, ...]
    post: Mapping[str, Any] | None
    alignment: Mapping[str, Any] | None
    made_by: Mapping[str, Any]
    follow_orientation: bool
    batch_size: int
    window: int
    lookahead: int

    def embed(self, crops: Sequence[np.ndarray], videos: Sequence[str]) -> dict[str, np.ndarray]:
        """Embeddings [N, D] by stream of N crops [H, W, 3] uint8, crop i of the video `videos[i]`; at most `batch_size`
        of them."""

    def predict(
        self, tracks: np.ndarray, steps: np.ndarray, embeddings: Mapping[str, np.ndarray], valid: np.ndarray
    ) -> PredictedSteps:
        """Predictions of the `steps` [S] of `tracks` [S], sorted by both and distinct; those that are not `valid` [S]
        have no embedding."""


class TrainedFaceModel:
    """A run or an ensemble, with the backbones that mtl.toml names for its streams."""

    def __init__(self, predictor: Predictor, config: Config, device: torch.device) -> None:
        """
        Raises:
            ValueError: mtl.toml lacks a backbone of it, its weights are gone, or it is another than the stream's.
        """
        self.folder, self.kind = predictor.folder, predictor.kind
        self.schema, self.tasks = predictor.schema, predictor.tasks
        self.post: Mapping[str, Any] | None = None if predictor.parameters is None else predictor.parameters.to_json()
        self.batch_size = BATCH_SIZES[device.type]
        self._predictor, self._device = predictor, device
        self.alignment = common_alignment(predictor)
        self.window = max(one.run.window for one in predictor.runs)
        is_causal = all(one.run.is_causal for one in predictor.runs)
        self.lookahead = _lookahead(self.window, is_causal, predictor.parameters)
        trained = predictor.identities
        for (name, _), (run, identity) in trained.items():  # before any weights are loaded
            section_of_faces(run, name, identity, config)
        self.follow_orientation = follows_orientation(predictor)
        loaded: dict[tuple[str, str], Backbone] = {}
        backbones = {
            key: trained_backbone(run, key, identity, config, self.follow_orientation, loaded)
            for key, (run, identity) in trained.items()
        }
        self._identities = {key: identity for key, (_, identity) in trained.items()}
        self._embedder = CropEmbedder(backbones, device, self.batch_size)
        self.made_by: Mapping[str, Any] = {
            "streams": {_name(key): _made_by(identity) for key, identity in self._identities.items()},
            "device": device.type,
            "batch_size": self.batch_size,
        }

    def embed(self, crops: Sequence[np.ndarray], videos: Sequence[str]) -> dict[str, np.ndarray]:
        return {_name(key): values for key, values in self._embedder(crops, videos).items()}

    def predict(
        self, tracks: np.ndarray, steps: np.ndarray, embeddings: Mapping[str, np.ndarray], valid: np.ndarray
    ) -> PredictedSteps:
        # Names of equal length, so that they sort as the numbers do.
        names = pl.Series(tracks).cast(pl.String).str.zfill(12)
        named = pl.DataFrame({"video": names, "frame": steps}).with_columns(path=pl.format("{}/{}", "video", "frame"))
        table = conform(named, str(self.folder), self.schema)
        digest = frames_digest(table)
        resident = Resident(
            streams={key: torch.from_numpy(embeddings[_name(key)]).to(self._device) for key in self._identities},
            valid=dict.fromkeys(self._identities, valid),
            identities={
                key: dataclasses.replace(identity, frames=digest, num_frames=len(table))
                for key, identity in self._identities.items()
            },
            device=self._device,
        )
        dataset = make_dataset(table, resident, self.schema)
        found = predict_frames(self._predictor, dataset, np.ones(len(table), dtype=bool))
        plain = Parameters(schema=self.schema).decide(found.raw)
        return PredictedSteps(
            columns=prediction_columns(found.probabilities, found.decide()),
            raw=prediction_columns(found.raw, plain),
            known=found.known,
        )


class BundleFaceModel:
    """A bundle of `mtl export`, which brings its backbones; mtl.toml is not needed."""

    kind = "bundle"
    batch_size = BATCH_SIZES["cpu"]

    def __init__(self, path: Path, *, post: bool = True) -> None:
        """
        Raises:
            ValueError: it is damaged, of a newer version, or has no backbones.
        """
        self.folder, self._is_post = path, post
        self._bundle = Bundle(path)
        if self._bundle.face_px is None:
            raise ValueError(f"{path}: this bundle has heads alone and takes embeddings, so it predicts no faces")
        self.face_px = self._bundle.face_px
        self.follow_orientation = self._bundle.follow_orientation
        self.schema = schema_of(self._bundle.schema, str(path))
        self.tasks: tuple[str, ...] = tuple(task["name"] for task in self._bundle.tasks)
        parameters = _parameters(self._bundle, self.schema)
        found = parameters.to_json()
        self.post: Mapping[str, Any] | None = found if post and components(found) else None
        self.alignment = self._bundle.alignment
        record = self._bundle.record
        self.window = max(model["window"] for model in record["models"])
        is_causal = all(model["causal"] for model in record["models"])
        self.lookahead = _lookahead(self.window, is_causal, parameters if post else None)
        self.made_by: Mapping[str, Any] = {"streams": record["streams"], "files": record["files"]}

    def embed(self, crops: Sequence[np.ndarray], videos: Sequence[str]) -> dict[str, np.ndarray]:
        side = self.face_px
        for crop, video in zip(crops, videos, strict=True):
            if crop.shape != (side, side, 3):
                raise ValueError(
                    f"{self.folder}: takes faces of {side} x {side} px, but one of {video} has {crop.shape[1]} x "
                    f"{crop.shape[0]}; align them again for it (`mtl align`, [faces] size_px)"
                )
        return self._bundle.embed(np.stack(crops), batch_size=self.batch_size)

    def predict(
        self, tracks: np.ndarray, steps: np.ndarray, embeddings: Mapping[str, np.ndarray], valid: np.ndarray
    ) -> PredictedSteps:
        found = self._bundle.predict(tracks, steps, embeddings, valid, post=self._is_post)
        return PredictedSteps(columns=found.columns(), raw=found.columns(raw=True), known=found.known)


def _parameters(bundle: Bundle, schema: Schema) -> Parameters:
    """The post-processing in a bundle."""

    def cuts(kind: str) -> dict[str, tuple[float, ...]]:
        return {task["group"]: tuple(task["cuts"]) for task in bundle.tasks if task["kind"] == kind}

    affine = {}
    for task in (each for each in bundle.tasks if each["affine"]):
        found = dict(zip(task["columns"], map(tuple, task["affine"]), strict=True))
        affine[task["group"]] = tuple(found.get(name, IDENTITY) for name in schema.group(task["group"]).columns)
    identities = {name: each["identity"] for name, each in bundle.record["streams"].items()}
    outside = {
        task["group"]: Outside(
            stream=task["outside"]["stream"],
            threshold=task["outside"]["threshold"],
            identity=StreamIdentity.from_json(identities[task["outside"]["stream"]]),
        )
        for task in bundle.tasks
        if task["outside"]
    }
    return Parameters(
        outside=outside,
        smoothing={task["group"]: Smoothing(**task["smoothing"]) for task in bundle.tasks},
        affine=affine,
        thresholds=cuts("binary"),
        offsets=cuts("classes"),
        schema=schema,
    )


def _lookahead(window: int, is_causal: bool, parameters: Parameters | None) -> int:
    smoothings = () if parameters is None else parameters.smoothing.values()
    return max([0 if is_causal else window, *(smoothing.reach for smoothing in smoothings)])


def load_face_model(given: Path, config: Config, device: torch.device, *, post: bool = True) -> FaceModel:
    """The run, ensemble or bundle `given`, ready for faces; with `post` its stored post-processing.

    Raises:
        ValueError: there is none, or its backbones are not to be had.
    """
    if given.is_file() or is_bundle(given):
        if config.predict.views:
            raise ValueError(f"{given}: a bundle predicts the views it was exported with; leave out --views")
        return BundleFaceModel(given, post=post)
    predictor = load_predictor(find_predictor(given, config), device, post=post, views=config.predict.views)
    return TrainedFaceModel(predictor, config, device)


def follows_orientation(predictor: Predictor) -> bool:
    """Whether its faces were turned as their EXIF orientation or rotation says.

    Raises:
        ValueError: those of some streams were, and of others not.
    """
    identities = [identity for _, identity in predictor.identities.values()]
    found = {identity.preprocessing.get(ORIENTATION) for identity in identities if identity.sees_faces}
    if len(found) > 1:
        raise ValueError(
            f"{predictor.folder}: some of its streams took faces upright, others as stored; extract them alike and "
            "train again"
        )
    return found == {FOLLOWED}


def common_alignment(predictor: Predictor) -> Mapping[str, Any] | None:
    """The alignment of the crops that all its runs were trained on; None where one does not say, or they differ."""
    found = [one.run.manifest.get("alignment") for one in predictor.runs]
    return found[0] if all(each == found[0] for each in found) else None


def section_of_faces(run: Run, name: str, trained: StreamIdentity, config: Config) -> BackboneConfig:
    """The section of mtl.toml that makes the run's stream `name` from faces.

    Raises:
        ValueError: there is none, or the stream was not made from faces.
    """
    section = config.backbone_of(name)
    if section is None:
        title = name.removesuffix(SCORES_SUFFIX)
        needed = f"[backbones.{title}]" + (' with "scores" among its outputs' if title != name else "")
        raise ValueError(
            f"{run.folder}: reads the stream {name}, but {config.folder / 'mtl.toml'} has no {needed}; add the section "
            "that it was extracted with"
        )
    if section.is_audio or trained.pooling == SOUND:
        raise ValueError(
            f"{run.folder}: its stream {name} was made from sound tracks, and only faces are read here; `mtl predict` "
            "with --split or --list predicts frames of the cache"
        )
    if section.is_imported or trained.is_imported:
        raise ValueError(
            f"{run.folder}: its stream {name} was imported, so its backbone cannot be run on faces; `mtl predict` "
            "with --split or --list predicts frames of the cache; or train on an extracted stream"
        )
    return section


def trained_backbone(
    run: Run,
    key: StreamKey,
    trained: StreamIdentity,
    config: Config,
    follow_orientation: bool,
    loaded: dict[tuple[str, str], Backbone] | None = None,
) -> Backbone:
    """The backbone of the stream `key`, which must be the one that the run's stream was made with; in `loaded` are
    those that were loaded before, by section and dtype."""
    name, view = key
    section = section_of_faces(run, name, trained, config)
    title = config.streams[name]
    loaded = {} if loaded is None else loaded
    if (title, trained.dtype) not in loaded:
        backbone = load_backbone(title, section, config.folder)
        loaded[title, trained.dtype] = dataclasses.replace(backbone, dtype=trained.dtype)
    backbone = loaded[title, trained.dtype]
    found = identity_of(backbone, view, trained.frames, trained.num_frames, follow_orientation, name)
    if differences := trained.differences(found, "in the run", "in mtl.toml"):
        raise ValueError(
            f"{run.folder}: [backbones.{title}] is not the backbone of its stream {name}: {'; '.join(differences)}"
        )
    return backbone


def _made_by(identity: StreamIdentity) -> str:
    return dataclasses.replace(identity, frames="", num_frames=0).digest


def _name(key: StreamKey) -> str:
    return "/".join(key)
