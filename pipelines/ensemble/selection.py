"""Greedy forward selection with replacement (Caruana et al., "Ensemble selection from libraries of models", ICML 2004).

An ensemble is a count a member; it says the mean of what its members say, counted. One scorer a task makes the score of
adding any member cheap. M members, R rows, K outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cache.names import EXPRESSIONS
from pipelines.labels import Labels
from pipelines.postprocess.parts import task_score

NUM_START = 5
# (counts [M], members [C]) -> [C]: the task's score after adding one more of each of these members.
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Selection:
    """`counts` [M] of the best ensemble on the way, its `score`, and the score of every member `alone` [M]."""

    counts: np.ndarray
    score: float
    alone: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """[M], summing to 1."""
        return self.counts / self.counts.sum()


def select_greedily(scorer: Scorer, num_members: int, size: int) -> Selection:
    """The best ensemble of at most `size` draws, found by adding the member that helps most, again and again.

    It begins with the best few members, as many of the ranking's first 5 as score best together: begun with the best
    alone, the search overfits more. Adding goes on to `size` though the score falls, and the best point on the way is
    what is returned; of equals the smaller.
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


def mean_of(weights: np.ndarray, said: np.ndarray) -> np.ndarray:
    """[R, K] float64: the weighted mean over the members of `said` [M, R, K]."""
    used = np.flatnonzero(weights)
    total = np.zeros(said.shape[1:])
    for member in used:
        total += weights[member] * said[member]
    return total


def va_scorer(said: np.ndarray, labels: Labels) -> Scorer:
    """Of `said` [M, R, 2]: mean CCC. From products of members with each other, so no row is looked at again."""
    grams, means = [], []
    for column in range(2):
        rows = labels.va_mask[:, column]
        x, y = said[:, rows, column].astype(np.float64), labels.va[rows, column].astype(np.float64)
        grams.append(x @ x.T)
        means.append((x.sum(axis=1), x @ y, float(y.sum()), float(y @ y), float(len(y))))

    def added(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
        moments, size = np.zeros((len(members), 2, 6)), counts.sum() + 1
        for column, (gram, (sums, cross, y, yy, n)) in enumerate(zip(grams, means, strict=True)):
            x = (counts @ sums + sums[members]) / size
            xy = (counts @ cross + cross[members]) / size
            xx = (counts @ gram @ counts + 2 * (gram[members] @ counts) + gram[members, members]) / size**2
            moments[:, column] = np.stack(np.broadcast_arrays(n, x, y, xx, yy, xy), axis=-1)
        return task_score("va", moments)

    return added


def expr_scorer(said: np.ndarray, labels: Labels) -> Scorer:
    """Of `said` [M, R, 8]: macro F1 of the class with the highest summed probability."""
    rows, num = labels.expr_mask, len(EXPRESSIONS)
    traces = np.ascontiguousarray(said[:, rows].transpose(0, 2, 1))
    offset = labels.expr[rows] * num
    true = np.bincount(labels.expr[rows], minlength=num)

    def added(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
        total, sums = _total(counts, traces), np.zeros((len(members), num, 3))
        for place, member in enumerate(members):
            table = np.bincount(offset + _most(total + traces[member]), minlength=num * num).reshape(num, num)
            sums[place] = np.stack([table.diagonal(), table.sum(axis=0), true], axis=-1)
        return task_score("expr", sums)

    return added


def au_scorer(said: np.ndarray, labels: Labels) -> Scorer:
    """Of `said` [M, R, 12]: mean F1 of the AUs whose mean probability is at least 0.5."""
    mask = np.ascontiguousarray(labels.au_mask.T)
    on = np.ascontiguousarray((labels.au > 0.5).T) & mask
    traces = np.ascontiguousarray(said.transpose(0, 2, 1))

    def added(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
        missing, sums = 0.5 * (counts.sum() + 1) - _total(counts, traces), np.zeros((len(members), len(mask), 3))
        sums[:, :, 2] = on.sum(axis=1)
        for place, member in enumerate(members):
            passed = traces[member] >= missing
            sums[place, :, 0] = _counted(passed & on)
            sums[place, :, 1] = _counted(passed & mask)
        return task_score("au", sums)

    return added


def _most(values: np.ndarray) -> np.ndarray:
    """[R] the class of the highest of `values` [8, R], the first of equals; 13 times as fast as NumPy's argmax here."""
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
    """[K, R]: what the members say, each as often as it counts."""
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


SCORERS: dict[str, Callable[[np.ndarray, Labels], Scorer]] = {"va": va_scorer, "expr": expr_scorer, "au": au_scorer}
