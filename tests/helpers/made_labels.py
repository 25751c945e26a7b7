"""Labels and decisions of the challenge's schema, from arrays as one thinks of them: classes without a second axis."""

import numpy as np

from heads.labels import Labels
from pipelines.metrics.predictions import Decisions, Probabilities

SHAPES = {"va": 2, "expr": 1, "au": 12}


def abaw_labels(num: int, masks: dict[str, np.ndarray] | None = None, **values: np.ndarray) -> Labels:
    """Labels [num] of "va", "expr" and "au": the `values`, where their `masks` say so or else everywhere; nothing of
    the others."""
    masks = masks or {}
    found, known = {}, {}
    for name, width in SHAPES.items():
        empty = np.zeros((num, width), np.int64 if name == "expr" else np.float32)
        found[name] = np.asarray(values[name], empty.dtype).reshape(empty.shape) if name in values else empty
        everywhere = np.full(num, name in values)
        mask = np.asarray(masks.get(name, everywhere))
        known[name] = np.broadcast_to(mask.reshape(num, -1), (num, width)).copy()
    return Labels(found, known)


def decided(**parts: np.ndarray) -> Decisions:
    """Decisions by task."""
    return Decisions(parts=parts)


def probable(**parts: np.ndarray) -> Probabilities:
    """Probabilities by task."""
    return Probabilities(parts=parts)
