"""What an extraction has to do: streams opened or made, their runtime settled, shards missing, faces that failed.

Letters: N frames, R rows of a shard.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from cache.frames import frames_digest
from cache.frames_file import Frames
from cache.identity import StreamIdentity
from cache.locks import WHOLE, Part, part_of
from cache.store import Cache
from cache.stream import Stream
from extract.backbones.build import Backbone
from extract.backbones.calibration import choose_runtime
from extract.backbones.origin import origin_of
from extract.backbones.runtime import Runtime
from extract.backbones.trials import Allowance
from extract.config import FOLLOWED, ORIENTATION, Preprocessing
from extract.faces.source import FaceSource
from extract.view_names import AUGMENTATION, BASE, preprocessing_of, recipe

SAMPLE = 64  # faces looked for before the first is decoded
VERSIONS = ("torch", "timm", "simplejpeg", "pillow", "zarr")
ONNX_VERSIONS = (*VERSIONS, "onnxruntime")
Transform = Literal["device", "timm"]
Precisions = Literal["auto", "float32", "bfloat16"]
Modes = Literal["auto", "eager", "compiled", "graph", "onnx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to extract. `precision`, `runtime` and `exact` hold for streams made now; one that was begun keeps its own.

    `batch_size` counts faces. `exact` resizes with timm's own transform instead of on the device. `part` (i, n) leaves
    all but the i-th of n runs of shards to others. `folder` is where the backbones' relative paths start.
    `follow_orientation` turns faces as their EXIF orientation or rotation says; it is part of a stream's identity.
    """

    device: torch.device
    batch_size: int
    num_threads: int
    shard_rows: int
    precision: Precisions = "auto"
    runtime: Modes = "auto"
    exact: bool = False
    views: tuple[str, ...] = (BASE,)
    part: Part = WHOLE
    folder: Path = Path()
    follow_orientation: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One view of one output of a backbone: its stream, how it is made, and the shards to do."""

    backbone: Backbone
    stream: Stream
    runtime: Runtime
    transform: Transform
    missing: frozenset[int]

    @property
    def key(self) -> tuple[str, str]:
        """(name, view)"""
        return self.stream.name, self.stream.view

    @property
    def columns(self) -> slice:
        """Where the stream's vectors are in what the backbone gives."""
        return self.backbone.columns(self.stream.name)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a face becomes the input of this view."""
        return preprocessing_of(self.stream.view, self.backbone.preprocessing)


def identity_of(
    backbone: Backbone,
    view: str,
    digest: str,
    num_frames: int,
    follow_orientation: bool = True,
    stream: str = "",
) -> StreamIdentity:
    """The identity of a view of `stream` (the embedding where it is not named) over the frame list with that `digest`;
    of an augmented view the recipe is a part, of a crop its share, and of upright faces that they are. Caches from
    before orientations were followed say nothing of them."""
    identity = backbone.identity(digest, num_frames, view, stream)
    added = recipe(view)
    more = ({ORIENTATION: FOLLOWED} if follow_orientation else {}) | ({AUGMENTATION: added} if added else {})
    seen = preprocessing_of(view, backbone.preprocessing)
    return dataclasses.replace(identity, preprocessing={**identity.preprocessing, **seen.to_json(), **more})


def open_streams(
    cache: Cache, backbone: Backbone, frames: Frames, settings: Settings, allowance: Allowance | None = None
) -> tuple[list[Stream], list[str]]:
    """The backbone's streams, one an output and view; those that are not there are made, with the runtime settled for
    good. `allowance` is the time that trials may take, of all backbones of the run.

    Returns:
        The streams, and notes for the user: what a trial of runtimes measured. These are not kept in the stream, whose
        bytes would else differ from one extraction to the next.

    Raises:
        ValueError: a stream there was made from something else, or the runtime asked for cannot be had here.
    """
    digest, there = frames_digest(frames), set(cache.streams())
    identities = {
        (name, view): identity_of(backbone, view, digest, len(frames), settings.follow_orientation, name)
        for name in backbone.streams
        for view in settings.views
    }
    made = identities.keys() - there
    for name, view in identities.keys() - made:  # refused before anything is made or measured
        cache.stream(name, view, expected=identities[name, view])
    provenance, notes = _settled(backbone, len(frames), settings, allowance) if made else ({}, [])
    streams = [
        cache.create(name, identity, settings.shard_rows, provenance | _origin(backbone, name, settings))
        if (name, view) in made
        else cache.stream(name, view, expected=identity)
        for (name, view), identity in identities.items()
    ]
    return streams, notes


def _settled(
    backbone: Backbone, num_frames: int, settings: Settings, allowance: Allowance | None
) -> tuple[dict[str, Any], list[str]]:
    """The provenance of a new stream, its runtime chosen, and notes on the trial."""
    runtime, measured = choose_runtime(
        backbone,
        num_frames * len(settings.views),
        settings.batch_size,
        settings.device,
        settings.precision,
        settings.runtime,
        allowance,
    )
    provenance = _provenance(backbone, runtime, settings)
    if not measured["faces_per_s"]:
        return provenance, []
    rates = ", ".join(f"{name} {rate:g} faces/s" for name, rate in measured["faces_per_s"].items())
    how = f"after a trial of {measured['trial_s']:.1f} s" if measured["trial_s"] else "by an earlier trial"
    if settings.runtime != "auto":
        how = f"its precision {how}"
    return provenance, [f"{backbone.name}: {runtime}, {how} (forward passes alone: {rates})"]


def _provenance(backbone: Backbone, runtime: Runtime, settings: Settings) -> dict[str, Any]:
    device, by_onnx = settings.device, runtime.mode == "onnx" or not backbone.is_torch
    return {
        "model": backbone.config.model,
        "weights": backbone.config.weights,
        **runtime.to_json(),
        "transform": "timm" if settings.exact else "device",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "batch_size": settings.batch_size,
        "versions": {name: version(name) for name in (ONNX_VERSIONS if by_onnx else VERSIONS)},
    }


def _origin(backbone: Backbone, stream: str, settings: Settings) -> dict[str, Any]:
    output = backbone.config.streams(backbone.name)[stream]
    return {"origin": origin_of(backbone.config, settings.folder, output)}


def require_folder(faces: Path) -> None:
    if not faces.is_dir():
        raise ValueError(f"{faces}: no such folder of faces; set faces under [data] in mtl.toml")


def job_of(backbone: Backbone, stream: Stream, settings: Settings) -> Job:
    """What is left to do of a stream, in the way it was begun.

    Raises:
        ValueError: another precision, runtime or transform is asked for.
    """
    kept = stream.provenance
    runtime = _kept_runtime(stream)
    transform: Transform = kept.get("transform", "timm")
    if transform not in get_args(Transform):
        raise ValueError(f"{stream.where}: damaged metadata: transform {transform!r}; type {stream.remake_hint}")
    missing = frozenset(stream.missing_shards()).intersection(part_of(settings.part, stream.num_shards))
    if missing:
        _refuse_change(stream, "precision", runtime.precision, settings.precision)
        _refuse_change(stream, "runtime", runtime.mode, settings.runtime)
        if settings.exact and transform != "timm":
            raise ValueError(
                f"{stream.where} was begun with faces resized on the device, not by timm's own transform; resume "
                f"without --exact, or type {stream.remake_hint}"
            )
    return Job(backbone=backbone, stream=stream, runtime=runtime, transform=transform, missing=missing)


def _kept_runtime(stream: Stream) -> Runtime:
    try:
        return Runtime.from_json(stream.provenance)
    except ValueError as error:
        raise ValueError(f"{stream.where}: damaged metadata: {error}; type {stream.remake_hint}") from None


def _refuse_change(stream: Stream, what: str, kept: str, asked: str) -> None:
    if asked not in ("auto", kept):
        raise ValueError(
            f"{stream.where} was begun with {what} {kept}, not {asked}; resume without --{what}, "
            f"or type {stream.remake_hint}"
        )


@dataclass(frozen=True, slots=True)
class Todo:
    """Rows of the frames table: `missing` [N] bool lack an embedding here, `elsewhere` are left to other parts."""

    missing: np.ndarray
    elsewhere: np.ndarray

    @property
    def num_missing(self) -> int:
        return int(self.missing.sum())

    @property
    def num_elsewhere(self) -> int:
        return int(self.elsewhere.sum())


def todo_of(jobs: Sequence[Job], num_frames: int, part: Part) -> Todo:
    missing, elsewhere = np.zeros((2, num_frames), bool)
    for job in jobs:
        own = part_of(part, job.stream.num_shards)
        for shard in job.stream.missing_shards():
            (missing if shard in own else elsewhere)[slice(*job.stream.rows(shard))] = True
    return Todo(missing, elsewhere & ~missing)


def sample_of(missing: np.ndarray, frames: Frames, faces: Path, source: FaceSource) -> list[str]:
    """Paths of some of the `missing` rows whose faces are there, from all over the table.

    Raises:
        ValueError: there is no faces folder, or not one face of the sample is in it.
    """
    rows = np.flatnonzero(missing)
    if not len(rows):
        return []
    require_folder(faces)
    paths = frames["path"][rows[:: -(-len(rows) // SAMPLE)]].to_list()
    found = [path for path in paths if source.exists(path)]
    if not found:
        raise ValueError(
            f"{faces}: has none of {len(paths)} faces looked for, such as {paths[0]}; "
            "set faces under [data] in mtl.toml to the folder that the paths of the frames table start from"
        )
    return found


def native_size(paths: Sequence[str], source: FaceSource) -> tuple[int, int] | None:
    """(H, W) of the first face among `paths` that decodes; None where none does."""
    for path in paths:
        for face in source.read([path]):
            with contextlib.suppress(ValueError):
                if not isinstance(face, ValueError):
                    height, width, _ = face.pixels().shape
                    return height, width
    return None
