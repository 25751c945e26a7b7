"""How strong the members of an ensemble are, and how alike their errors, by task, on the selection rows.

An ensemble's squared error is the mean of its members' less their spread around it, so it gains from members of equal
strength whose errors differ (Krogh and Vedelsby, "Neural network ensembles, cross validation, and active learning",
NeurIPS 1994). M members of a task.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.ensemble.members import Library, Mix, scorer_of
from pipelines.metrics.correlation import error_targets, mean_correlation


@dataclass(frozen=True, slots=True)
class Diversity:
    """Of a task's members `runs` [M], the heaviest first: their `scores` [M] alone, and the correlation of their
    `errors` [M, M]; NaN where a member's error is constant."""

    runs: np.ndarray
    scores: np.ndarray
    errors: np.ndarray

    @property
    def correlation(self) -> np.ndarray:
        """[M] mean correlation of each member's errors with those of the others; NaN of a single member."""
        others = ~np.eye(len(self.runs), dtype=bool) & np.isfinite(self.errors)
        count = others.sum(axis=1)
        return np.where(count > 0, np.where(others, self.errors, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def diversity_of(library: Library, mix: Mix) -> dict[str, Diversity]:
    """By task that of the runs with a weight in `mix`."""
    found = {}
    for name, counts in mix.counts.items():
        runs = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        predicted = library.predicted[name][np.searchsorted(library.has[name], runs)]
        target, mask = error_targets(library.select.task(name), library.select.labels)
        score = scorer_of(library.select, name)(predicted, library.select.labels)
        found[name] = Diversity(
            runs=runs,
            scores=score(np.zeros(len(runs), dtype=np.int64), np.arange(len(runs))),
            errors=mean_correlation(predicted - target, mask),
        )
    return found
