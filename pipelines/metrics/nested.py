"""Nested selection: in each outer fold the strategy is selected on that fold's inner rows and scored once on the fold.

Where a fold has several inner parts (`[split] inner_folds`), a strategy has a run for each: it is chosen by the mean of
their selection scores, and the fold's score is the mean of the chosen one's runs.

Over all folds the inner rows together are the very videos that are held out, so the held-out mean of a strategy that
was chosen by its mean over folds is not honest; this estimate is (Varma and Simon, BMC Bioinformatics 7:91, 2006).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.folds import NO_FOLD, Fold
from pipelines.metrics.intervals import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """The nested estimate of P. `chosen` maps an outer fold to the rank of the strategy selected in it by
    the mean over `num_inner` inner parts.

    `naive` is the highest mean over the outer folds of any strategy: selected and scored on the same rows.
    """

    score: float
    chosen: Mapping[int, int]
    naive: float
    naive_rank: int
    num_strategies: int
    num_inner: int = 1
    interval: Interval | None = None


FoldScores = Mapping[Fold, float]


def nested(select: Sequence[FoldScores], report: Sequence[FoldScores], ranks: Sequence[int]) -> Nested | None:
    """The estimate from scores by fold of every strategy (in the order of their `ranks`), means over its seeds.

    Only strategies compare that have every fold with every inner part. None with fewer than two outer folds, or where
    no strategy has them all.
    """
    scored = sorted({fold for scores in report for fold in scores if fold != NO_FOLD})
    folds = sorted({fold.outer for fold in scored})
    whole = [k for k in range(len(ranks)) if all(fold in select[k] and fold in report[k] for fold in scored)]
    if len(folds) < 2 or not whole:
        return None
    inner, outer = ({k: _means(part[k], scored) for k in whole} for part in (select, report))
    chosen = {fold: max(whole, key=lambda k: inner[k][fold]) for fold in folds}
    means = {k: sum(outer[k].values()) / len(folds) for k in whole}
    best = max(whole, key=lambda k: means[k])
    return Nested(
        score=sum(outer[k][fold] for fold, k in chosen.items()) / len(folds),
        chosen={fold: ranks[k] for fold, k in chosen.items()},
        naive=means[best],
        naive_rank=ranks[best],
        num_strategies=len(whole),
        num_inner=max(fold.inner for fold in scored) + 1,
    )


def _means(scores: FoldScores, folds: Sequence[Fold]) -> dict[int, float]:
    """Outer fold -> the mean of `scores` over its inner parts."""
    found: dict[int, list[float]] = {}
    for fold in folds:
        found.setdefault(fold.outer, []).append(scores[fold])
    return {outer: sum(values) / len(values) for outer, values in found.items()}
