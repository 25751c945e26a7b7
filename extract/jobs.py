"""What an extraction has to do: streams opened or made, precision settled, shards missing, faces that failed.

Letters: N frames, R rows of a shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch

from cache.frames import frames_digest
from cache.store import Cache
from cache.stream import BASE_VIEW, Stream
from extract.backbones import Backbone
from extract.faces import face_digest, read_face_bytes
from extract.runtime import Precision, choose_precision

SAMPLE = 64  # faces looked for before the first is decoded
VERSIONS = ("torch", "timm", "simplejpeg", "pillow", "zarr")


class Failure(NamedTuple):
    """A face without an embedding."""

    video: str
    frame: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One backbone, its stream and the shards to do."""

    backbone: Backbone
    stream: Stream
    precision: Precision
    missing: frozenset[int]


def open_stream(
    cache: Cache,
    backbone: Backbone,
    frames: pl.DataFrame,
    faces: Path,
    device: torch.device,
    batch_size: int,
    shard_rows: int,
    precision: Literal["auto", "float32", "bfloat16"],
) -> Stream:
    """The backbone's stream; made, with its precision settled for good, where there is none.

    Raises:
        ValueError: the stream there was made from something else; or there is none, and no faces folder either.
    """
    identity = backbone.identity(frames_digest(frames), len(frames))
    if (backbone.name, BASE_VIEW) in cache.streams():
        return cache.stream(backbone.name, expected=identity)
    _require_folder(faces)
    chosen = choose_precision(backbone, len(frames), device) if precision == "auto" else precision
    provenance = {
        "model": backbone.config.model,
        "weights": backbone.config.weights,
        "precision": chosen,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "batch_size": batch_size,
        "versions": {name: version(name) for name in VERSIONS},
    }
    return cache.create(backbone.name, identity, shard_rows, provenance)


def _require_folder(faces: Path) -> None:
    if not faces.is_dir():
        raise ValueError(f"{faces}: no such folder of faces; set faces under [data] in mtl.toml")


def forget_repaired(stream: Stream, frames: pl.DataFrame, faces: Path) -> None:
    """Unmarks shards with a failed face whose file has changed since: put right, it is extracted like any other."""
    failed = stream.failed()
    if not failed or not faces.is_dir():
        return
    digests, paths = stream.face_digests(), frames["path"]
    forgotten = set()
    for row in sorted(failed):
        shard = row // stream.shard_rows
        if shard not in forgotten and _digest_now(faces, paths[row], digests.shape[1]) != digests[row].tobytes():
            stream.forget(shard)
            forgotten.add(shard)


def _digest_now(faces: Path, path: str, num_bytes: int) -> bytes:
    """The digest of the face's file as it is, zeros where it cannot be read: as streams keep it."""
    try:
        return face_digest(read_face_bytes(faces, path))[:num_bytes]
    except ValueError:
        return bytes(num_bytes)


def job_of(backbone: Backbone, stream: Stream, asked: str) -> Job:
    """What is left to do of a stream, in the precision it was begun with.

    Raises:
        ValueError: another precision is `asked` for ("auto" is not).
    """
    precision = stream.provenance.get("precision", "float32")
    missing = frozenset(stream.missing_shards())
    if missing and asked not in ("auto", precision):
        raise ValueError(
            f"{stream.where} was begun with precision {precision}, not {asked}; go on without --precision, "
            f"or type {stream.remake_hint}"
        )
    return Job(backbone=backbone, stream=stream, precision=precision, missing=missing)


def count_rows(jobs: Sequence[Job], frames: pl.DataFrame, faces: Path) -> int:
    """Number of frames that some stream lacks.

    Raises:
        ValueError: there is no faces folder, or of a sample of those frames not one face is in it.
    """
    missing = np.zeros(len(frames), bool)
    for job in jobs:
        for shard in job.missing:
            missing[slice(*job.stream.rows(shard))] = True
    rows = np.flatnonzero(missing)
    if not len(rows):
        return 0
    _require_folder(faces)
    paths = frames["path"][rows[:: -(-len(rows) // SAMPLE)]].to_list()
    if not any((faces / path).exists() for path in paths):
        raise ValueError(
            f"{faces}: has none of {len(paths)} faces looked for, such as {paths[0]}; "
            "set faces under [data] in mtl.toml to the folder that the paths of the frames table start from"
        )
    return len(rows)


def failures_of(streams: Sequence[Stream], frames: pl.DataFrame) -> list[Failure]:
    """Every failed face of the streams, in the frames table's order; one entry a reason."""
    reasons = sorted({(row, reason) for stream in streams for row, reason in stream.failed().items()})
    rows = frames[[row for row, _ in reasons]].select("video", "frame", "path").rows() if reasons else []
    return [Failure._make((*key, reason)) for key, (_, reason) in zip(rows, reasons, strict=True)]
