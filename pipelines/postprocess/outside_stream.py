"""Reads the scores of an outside classifier from the cache."""

import numpy as np

from cache.frames import Frames, frames_digest
from cache.labels import Schema
from cache.storage.location import Location
from cache.store import Cache
from extract.view_names import BASE
from pipelines.postprocess.outside import OutsideScores, class_probabilities, outside_groups


def read_outside(location: Location, stream: str, frames: Frames, schema: Schema) -> OutsideScores:
    """The stream of an outside classifier in the cache at `location`.

    Raises:
        ValueError: no such stream, one of another frame list, one without names of classes, or none of them is a class
            of the labels.
    """
    found = Cache.open(location, read_only=True).stream(stream, BASE)
    if found.identity.frames != frames_digest(frames):
        raise ValueError(f"stream {stream} was extracted for another frame list; type {found.remake_hint}")
    values, valid = np.asarray(found.read(), dtype=np.float32), found.valid()
    names, groups = outside_groups(stream, found.identity, schema)
    return OutsideScores(
        stream=stream,
        identity=found.identity,
        probabilities={group.name: class_probabilities(values, valid, names, group) for group in groups},
    )
