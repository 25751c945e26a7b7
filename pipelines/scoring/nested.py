"""Nested selection: in each outer fold the strategy is chosen on that fold's inner rows and scored once on the fold.

Over all folds the inner rows together are the very videos that are held out, so the held-out mean of a strategy that
was chosen by its mean over folds is not honest; this estimate is (Varma and Simon, BMC Bioinformatics 7:91, 2006).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.scoring.intervals import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """What choosing by the selection score earns. `chosen` maps a fold to the rank of the strategy chosen in it.

    `naive` is the highest mean over the outer folds of any strategy: chosen and scored on the same rows.
    """

    score: float
    chosen: Mapping[int, int]
    naive: float
    naive_rank: int
    num_strategies: int
    interval: Interval | None = None


FoldScores = Mapping[int, float]


def nested(select: Sequence[FoldScores], report: Sequence[FoldScores], ranks: Sequence[int]) -> Nested | None:
    """The estimate from scores by fold of every strategy (in the order of their `ranks`), means over its seeds.

    Only strategies compare that have every fold. None with fewer than two folds, or where no strategy has them all.
    """
    folds = sorted({fold for scores in report for fold in scores if fold >= 0})
    whole = [k for k in range(len(ranks)) if all(fold in select[k] and fold in report[k] for fold in folds)]
    if len(folds) < 2 or not whole:
        return None
    chosen = {fold: max(whole, key=lambda k: select[k][fold]) for fold in folds}
    means = {k: sum(report[k][fold] for fold in folds) / len(folds) for k in whole}
    best = max(whole, key=lambda k: means[k])
    return Nested(
        score=sum(report[k][fold] for fold, k in chosen.items()) / len(folds),
        chosen={fold: ranks[k] for fold, k in chosen.items()},
        naive=means[best],
        naive_rank=ranks[best],
        num_strategies=len(whole),
    )
