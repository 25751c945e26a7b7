"""An outside classifier: where it is surer than a threshold, its class is taken.

HSEmotion's entries take the class of a network trained on other data where its probability is above 0.8 to 0.9
(Savchenko, arXiv 2403.11590); here the threshold is fitted out of fold as everything else is, and kept only where it
gains. Its scores are a stream of the cache (`outputs = ["embedding", "scores"]`). R rows, D width, K classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cache.frames import Frames, beside
from cache.identity import StreamIdentity
from cache.labels import Group, Schema
from extract.config import CLASSES

THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The classifier whose scores are `stream`, made as `identity` says; its class is taken from `threshold` on."""

    stream: str
    threshold: float
    identity: StreamIdentity

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its first columns; what further ones are is not asked."""
        return tuple(self.identity.preprocessing[CLASSES])

    def to_json(self) -> dict[str, Any]:
        return {"stream": self.stream, "threshold": self.threshold, "identity": self.identity.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Outside":
        """Raises KeyError, TypeError and ValueError where it is not what `to_json` made."""
        found = cls(
            stream=str(value["stream"]),
            threshold=float(value["threshold"]),
            identity=StreamIdentity.from_json(value["identity"]),
        )
        if not 0 < found.threshold <= 1 or not found.classes:
            raise ValueError("an outside classifier without classes, or a threshold outside 0 to 1")
        return found


def class_columns(classes: Sequence[str], group: Group) -> list[int]:
    """For each class of `group` the place of the one of that name, in whatever case, among `classes`; -1 for none."""
    places = {name.casefold(): place for place, name in enumerate(classes)}
    return [places.get(name.casefold(), -1) for name in group.classes]


def class_probabilities(scores: np.ndarray, valid: np.ndarray, classes: Sequence[str], group: Group) -> np.ndarray:
    """[R, K] float64 by the classes of `group`, from logits `scores` [R, D] of which the first are of `classes`.

    Classes that only one side has count nothing, and so do all of a row that is not `valid` [R].
    """
    logits = np.where(valid[:, None], scores[:, : len(classes)], 0).astype(np.float64)
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    found = np.append(found, np.zeros((len(found), 1)), axis=1)[:, class_columns(classes, group)]
    return np.where(valid[:, None], found, 0.0)


def take_surer(values: np.ndarray, outside: np.ndarray, threshold: float, offsets: np.ndarray) -> np.ndarray:
    """Probabilities `values` [R, K], and where those of `outside` [R, K] reach `threshold` these, so that its class is
    the most probable after `offsets` [K] of the log probabilities."""
    surer = outside.max(axis=1, initial=0.0) >= threshold
    taken = outside[surer] * np.exp(-offsets)
    result = values.astype(np.float64)
    result[surer] = taken / taken.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideScores:
    """What an outside classifier says of all rows of a frames table: `stream`, its `identity`, and by label group
    `probabilities` [N, K]."""

    stream: str
    identity: StreamIdentity
    probabilities: Mapping[str, np.ndarray]


def outside_rows(scores: OutsideScores, table: pl.DataFrame, frames: Frames) -> dict[str, np.ndarray]:
    """By label group the probabilities [R, K] of the rows of `table` (video, frame), which are rows of `frames`."""
    rows = beside(frames, table, [])["row"].to_numpy()
    return {name: values[rows] for name, values in scores.probabilities.items()}


def outside_groups(stream: str, identity: StreamIdentity, schema: Schema) -> tuple[tuple[str, ...], list[Group]]:
    """The names of the stream's classes, and the label groups that have one of them.

    Raises:
        ValueError: it has no names, no group has one of them, or several are that of one label.
    """
    names = tuple(identity.preprocessing.get(CLASSES, ()))
    if not names:
        raise ValueError(
            f"stream {stream}: its columns have no names of classes; name the scores of a backbone (NAME-scores) whose "
            "section of mtl.toml has classes = [..]"
        )
    groups = [
        group for group in schema if group.kind == "classes" and any(at >= 0 for at in class_columns(names, group))
    ]
    counts = Counter(name.casefold() for name in names)
    if twice := [name for group in groups for name in group.classes if counts[name.casefold()] > 1]:
        raise ValueError(
            f"stream {stream}: several of its classes are called {twice[0]!r}, whatever the case; rename all but one "
            "in classes, in its backbone's section of mtl.toml, and extract it again"
        )
    if not groups:
        known = ", ".join(name for group in schema for name in group.classes) or "none"
        raise ValueError(f"stream {stream}: none of its classes ({', '.join(names)}) is one of the labels ({known})")
    return names, groups
