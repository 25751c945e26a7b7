"""Labels of any schema for what happens in a made video: every value follows from movements that are drawn.

A column named after a drawn action unit is that unit, `valence` and `arousal` are the annotators' traces, and classes
named after expressions are those of the face. Any other column follows two movements, chosen by its name, and any other
class an expression, by its number. Letters: L real frames of a video, N listed frames, A movements, C columns of a
group.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from cache.labels import Group
from cache.names import ACTION_UNITS, EXPRESSIONS, VA_COLUMNS
from extract.annotations.label_rules import is_word_for
from extract.made.signal import (
    AFFECT_LAG,
    AFFECT_SMOOTHING,
    EXPRESSION_LAG,
    INDEX,
    UNIT_LAG,
    UNIT_THRESHOLD,
    Floats,
    Ints,
    Traces,
    late,
    smooth,
)

MISSING_CONTINUOUS, MISSING_CLASS, MISSING_ONE_UNIT = 0.12, 0.40, 0.04
WIDE = 0.7  # intensity of AU25 from which lips are far apart
DIGITS = 3  # of a continuous label in a range of 1 to 10


def group_labels(group: Group, traces: Traces, frames: Ints) -> Floats:
    """[N, C] labels of a group at the listed `frames`; NaN where a face shows none of its classes."""
    return _OF_KIND[group.kind](group, traces)[frames]


def hide(rng: Generator, group: Group, labels: Floats, *, without_units: bool) -> None:
    """Makes some of `labels` [N, C] missing (NaN); `without_units` all of a binary group."""
    if group.kind == "binary":
        if without_units:
            labels[:] = np.nan
        labels[rng.random(labels.shape) < MISSING_ONE_UNIT] = np.nan
    else:
        rate = MISSING_CONTINUOUS if group.kind == "continuous" else MISSING_CLASS
        labels[_runs(rng, len(labels), rate)] = np.nan


def _runs(rng: Generator, count: int, rate: float, length: float = 12.0) -> np.ndarray:
    """[N] True in runs of about `length` rows, at `rate` on average: labels go missing for a while, not for a row."""
    leave, enter = 1 / length, rate / (1 - rate) / length
    draws = rng.random(count)
    missing = np.zeros(count, dtype=bool)
    now = bool(rng.random() < rate)
    for row in range(count):
        now = bool(draws[row] > leave) if now else bool(draws[row] < enter)
        missing[row] = now
    return missing


def _continuous(group: Group, traces: Traces) -> Floats:
    digits = max(0, DIGITS - math.floor(math.log10(group.high - group.low)))
    values = np.stack([_in_range(column, group, traces) for column in group.columns], axis=1)
    return np.clip(values.round(digits) + 0.0, group.low, group.high)  # no -0.0


def _in_range(column: str, group: Group, traces: Traces) -> Floats:
    """[L] a trace of the face, from its own range to the group's."""
    low, high = 0.0, 1.0
    if column in VA_COLUMNS:
        low, high, trace = -1.0, 1.0, traces.valence_arousal[:, VA_COLUMNS.index(column)]
    elif column in INDEX:
        trace = late(traces.intensity[:, INDEX[column]], UNIT_LAG)
    else:
        trace = smooth(late(movement(column, traces.intensity)[:, None], AFFECT_LAG), AFFECT_SMOOTHING)[:, 0]
    if (low, high) == (group.low, group.high):
        return trace
    return group.low + (trace - low) * (group.high - group.low) / (high - low)


def _binary(group: Group, traces: Traces) -> Floats:
    shown = np.stack([movement(column, traces.intensity) for column in group.columns], axis=1)
    return (late(shown, UNIT_LAG) > UNIT_THRESHOLD).astype(np.float64)


def _classes(group: Group, traces: Traces) -> Floats:
    """The class of the expression; of several that share it, one by how far the lips are parted."""
    labels = np.full(len(traces.expression), np.nan)
    parted = late(traces.intensity[:, INDEX["AU25"]], EXPRESSION_LAG) / WIDE
    for expression, classes in enumerate(classes_of_expressions(group.classes)):
        rows = traces.expression == expression
        if classes:
            step = (parted[rows] * len(classes)).astype(np.int64).clip(0, len(classes) - 1)
            labels[rows] = np.array(classes)[step]
    return labels[:, None]


def classes_of_expressions(classes: tuple[str, ...]) -> list[list[int]]:
    """The classes that share each of EXPRESSIONS; none where frames of it have no label.

    Classes that are no expressions stand beside Other where at least two are, and else for the expressions in turn: the
    first for Neutral, the rest for the others.
    """
    named = {
        index: expression
        for index, name in enumerate(classes)
        for expression, word in enumerate(EXPRESSIONS)
        if is_word_for(name, word)
    }
    if len(named) > 1:
        of = {index: named.get(index, EXPRESSIONS.index("Other")) for index in range(len(classes))}
        return [[index for index in of if of[index] == expression] for expression in range(len(EXPRESSIONS))]
    moving, rest = len(EXPRESSIONS) - 1, len(classes) - 1
    shared = [[index for index in range(1, len(classes)) if (index - 1) % moving == each] for each in range(moving)]
    return [[0], *(found or [1 + each % rest] for each, found in enumerate(shared))]


def movement(name: str, intensity: Floats) -> Floats:
    """[L] the drawn unit of that name in `intensity` [L, A], else the stronger of two units that the name decides."""
    if name in INDEX:
        return intensity[:, INDEX[name]]
    first, step, *_ = hashlib.blake2b(name.encode(), digest_size=2).digest()
    count = len(ACTION_UNITS)
    one, other = first % count, (first + 1 + step % (count - 1)) % count
    return np.maximum(intensity[:, INDEX[ACTION_UNITS[one]]], intensity[:, INDEX[ACTION_UNITS[other]]])


_OF_KIND: dict[str, Callable[[Group, Traces], Floats]] = {
    "continuous": _continuous,
    "classes": _classes,
    "binary": _binary,
}
