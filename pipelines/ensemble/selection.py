"""Greedy forward selection with replacement (Caruana et al., "Ensemble selection from libraries of models", ICML 2004).

An ensemble is a count per member; it predicts the mean of its members' predictions, weighted by count. One scorer per
task computes the score of adding each member. M members, R rows, K outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cache.labels import Task
from heads.labels import Labels
from pipelines.metrics.sums import task_score

NUM_START = 5
# (counts [M], members [C]) -> [C]: the task's score after adding one more of each of these members.
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Selection:
    """`counts` [M] of the best ensemble found, its `score`, and the score of every member `alone` [M]."""

    counts: np.ndarray
    score: float
    alone: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """[M], summing to 1."""
        return self.counts / self.counts.sum()


def select_greedily(scorer: Scorer, num_members: int, size: int) -> Selection:
    """The best ensemble of at most `size` draws, found by repeatedly adding the member that gains most.

    It begins with the best few members, as many of the ranking's first 5 as score best together: begun with the best
    alone, the search overfits more. Members are added up to `size` even if the score falls, and the best of
    these ensembles is returned; of equals the smaller.
    """
    everyone = np.arange(num_members)
    alone = scorer(np.zeros(num_members, dtype=np.int64), everyone)
    ranking = np.argsort(-alone, kind="stable")
    counts = np.zeros(num_members, dtype=np.int64)
    best = Selection(counts=counts, score=-np.inf, alone=alone)
    for member in ranking[: min(NUM_START, size)]:
        value = float(scorer(counts, np.array([member]))[0])
        counts = _with(counts, member)
        best = _better(best, counts, value)
    counts = best.counts
    while counts.sum() < size:
        values = scorer(counts, everyone)
        member = int(np.argmax(values))
        counts = _with(counts, member)
        best = _better(best, counts, float(values[member]))
    return best


def mean_of(weights: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[R, K] float64: the weighted mean over the members of `predicted` [M, R, K]."""
    used = np.flatnonzero(weights)
    total = np.zeros(predicted.shape[1:])
    for member in used:
        total += weights[member] * predicted[member]
    return total


def continuous_scorer(task: Task, predicted: np.ndarray, labels: Labels) -> Scorer:
    """Of `predicted` [M, R, K]: the mean over columns. From products of members with each other, so no row is looked at
    again."""
    grams, means = [], []
    for place, column in enumerate(task.indices):
        rows = labels.masks[task.group.name][:, column]
        x = predicted[:, rows, place].astype(np.float64)
        y = labels.values[task.group.name][rows, column].astype(np.float64)
        grams.append(x @ x.T)
        means.append((x.sum(axis=1), x @ y, float(y.sum()), float(y @ y), float(len(y))))

    def added(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
        moments, size = np.zeros((len(members), len(grams), 6)), counts.sum() + 1
        for place, (gram, (sums, cross, y, yy, n)) in enumerate(zip(grams, means, strict=True)):
            x = (counts @ sums + sums[members]) / size
            xy = (counts @ cross + cross[members]) / size
            xx = (counts @ gram @ counts + 2 * (gram[members] @ counts) + gram[members, members]) / size**2
            moments[:, place] = np.stack(np.broadcast_arrays(n, x, y, xx, yy, xy), axis=-1)
        return task_score(task, moments)

    return added


def class_scorer(task: Task, predicted: np.ndarray, labels: Labels) -> Scorer:
    """Of `predicted` [M, R, K]: the score of the class with the highest summed probability."""
    rows, num = labels.masks[task.group.name][:, 0], task.num_outputs
    label = labels.values[task.group.name][rows, 0]
    traces = np.ascontiguousarray(predicted[:, rows].transpose(0, 2, 1))
    offset = label * num
    true = np.bincount(label, minlength=num)

    def added(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
        total, sums = _total(counts, traces), np.zeros((len(members), num, 3))
        for place, member in enumerate(members):
            table = np.bincount(offset + _most(total + traces[member]), minlength=num * num).reshape(num, num)
            sums[place] = np.stack([table.diagonal(), table.sum(axis=0), true], axis=-1)
        return task_score(task, sums)

    return added


def binary_scorer(task: Task, predicted: np.ndarray, labels: Labels) -> Scorer:
    """Of `predicted` [M, R, K]: mean F1 of the columns, positive where the mean probability is at least 0.5."""
    mask = np.ascontiguousarray(labels.masks[task.group.name].T)
    on = np.ascontiguousarray((labels.values[task.group.name] > 0.5).T) & mask
    traces = np.ascontiguousarray(predicted.transpose(0, 2, 1))

    def added(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
        missing, sums = 0.5 * (counts.sum() + 1) - _total(counts, traces), np.zeros((len(members), len(mask), 3))
        sums[:, :, 2] = on.sum(axis=1)
        for place, member in enumerate(members):
            passed = traces[member] >= missing
            sums[place, :, 0] = _counted(passed & on)
            sums[place, :, 1] = _counted(passed & mask)
        return task_score(task, sums)

    return added


def _most(values: np.ndarray) -> np.ndarray:
    """[R] the class of the highest of `values` [K, R], the first of equals; 13 times as fast as NumPy's argmax here."""
    best, place = values[0].copy(), np.zeros(values.shape[1], dtype=np.int8)
    for index in range(1, len(values)):
        higher = (values[index] > best).view(np.int8)
        np.maximum(best, values[index], out=best)
        np.maximum(place, higher * np.int8(index), out=place)
    return place


def _counted(rows: np.ndarray) -> list[int]:
    """[K] True values in each row of `rows` [K, R]; over an axis NumPy would count them as numbers, and slowly."""
    return [int(np.count_nonzero(row)) for row in rows]


def _total(counts: np.ndarray, traces: np.ndarray) -> np.ndarray:
    """[K, R]: the members' predictions, each as often as it counts."""
    total = np.zeros(traces.shape[1:], dtype=traces.dtype)
    for member in np.flatnonzero(counts):
        total += counts[member].astype(traces.dtype) * traces[member]
    return total


def _with(counts: np.ndarray, member: int) -> np.ndarray:
    more = counts.copy()
    more[member] += 1
    return more


def _better(best: Selection, counts: np.ndarray, value: float) -> Selection:
    return Selection(counts, value, best.alone) if value > best.score + 1e-12 else best


SCORERS: dict[str, Callable[[Task, np.ndarray, Labels], Scorer]] = {
    "continuous": continuous_scorer,
    "classes": class_scorer,
    "binary": binary_scorer,
}
