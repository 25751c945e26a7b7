"""Reads the scores of an outside classifier from the cache."""

import numpy as np

from cache.frames import Frames, frames_digest
from extract.view_names import BASE
from pipelines.config import Config
from pipelines.needed_streams import open_cache
from pipelines.postprocess.outside import OutsideScores, class_probabilities, outside_groups


def read_outside(config: Config, stream: str, frames: Frames) -> OutsideScores:
    """The stream of an outside classifier in the cache of `config`.

    Raises:
        ValueError: no such stream, one of another frame list, one without names of classes, or none of them is a class
            of the labels.
    """
    found = open_cache(config, [(stream, BASE)]).stream(stream, BASE)
    if found.identity.frames != frames_digest(frames):
        raise ValueError(f"stream {stream} was extracted for another frame list; type {found.remake_hint}")
    values, valid = np.asarray(found.read(), dtype=np.float32), found.valid()
    names, groups = outside_groups(stream, found.identity, config.schema)
    return OutsideScores(
        stream=stream,
        identity=found.identity,
        probabilities={group.name: class_probabilities(values, valid, names, group) for group in groups},
    )
