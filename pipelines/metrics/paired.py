"""Two strategies on the same held-out faces: their difference, its interval, and how often chance does as much.

P is no mean over videos, so no test that averages per-video differences fits it. Here whole groups (subjects where
known, else videos) are swapped between the two strategies and both are scored anew (approximate randomisation: Noreen,
"Computer-Intensive Methods", 1989; for F scores Yeh, COLING 2000, arXiv cs/0008005). Where the strategies are equally
good, their predictions of a group are exchangeable, so the p-value holds for any score and for few groups, where a
bootstrap's p is too small. The interval is the bootstrap's: groups are drawn with replacement, the same ones for both.
G groups, R swaps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.folds import Fold
from pipelines.metrics.intervals import (
    NUM_RESAMPLES,
    Groups,
    Runs,
    Sample,
    by_fold,
    drawn,
    groups_of_runs,
    keys_of,
    mean_of_runs,
    middle,
    pick,
    resampled,
)
from pipelines.metrics.sums import scores

NUM_SWAPS = 1000
NUM_PAIR_SWAPS = 10_000
NUM_PAIR_RESAMPLES = 2000
LIMIT = 0.05
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second, with its 95 % interval and the share of swaps that give as much."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Differences by task and under "P"; scores of each side; on what and over how many pairs of runs."""

    first: Mapping[str, float]
    second: Mapping[str, float]
    differences: Mapping[str, Difference]
    sample: Sample
    num_pairs: int


@dataclass(frozen=True, slots=True)
class Versus:
    """A strategy against the first of its ranking: first minus this one. `p_adjusted` is over all that are compared."""

    difference: Difference
    p_adjusted: float

    @property
    def significant(self) -> bool:
        return self.p_adjusted < LIMIT


def compare(
    first: Runs,
    second: Runs,
    tasks: Sequence[str],
    *,
    num_resamples: int = NUM_PAIR_RESAMPLES,
    num_swaps: int = NUM_PAIR_SWAPS,
    seed: int = 0,
) -> Paired:
    """`first` against `second` over the mean of their paired runs.

    Raises:
        ValueError: they have no fold in common.
    """
    first, second = paired(first, second)
    groups = groups_of_runs([first, second])
    draws = drawn(groups, num_resamples, seed)
    sides = [resampled(runs, groups, draws, tasks) for runs in (first, second)]
    means = [
        {key: float(v[0]) for key, v in _scored(runs, first, groups, None, tasks).items()} for runs in (first, second)
    ]
    swapped = _differences(first, second, groups, _swaps(groups, num_swaps, seed), tasks)
    differences = {}
    for key in keys_of(first, tasks):
        low, high = middle(sides[0][key] - sides[1][key])
        differences[key] = Difference(float(swapped[key][0]), low, high, _p(swapped[key]))
    num_pairs = sum(map(len, first.values()))
    return Paired(
        first=means[0],
        second=means[1],
        differences=differences,
        sample=groups.sample,
        num_pairs=num_pairs,
    )


def versus_first(
    strategies: Sequence[Runs],
    tasks: Sequence[str],
    *,
    num: int = NUM_SWAPS,
    seed: int = 0,
    chosen_here: bool = False,
) -> list[Versus | None]:
    """Each of `strategies` from the second on against the first, by P; None where they share no fold.

    Many strategies are compared with one, and some would seem different by chance: the p-values are adjusted so that
    with at most 5 % chance any strategy that is equal to the first is called different. By the step-down largest
    statistic over the same swaps (Westfall and Young, "Resampling-Based Multiple Testing", 1993), which knows that
    strategies are alike. Holm's rule over 199 tests of 1,000 swaps each could never call one different.

    `chosen_here` says that these very groups selected the first, as they do over folds: then its lead is optimistic and
    must also exceed the range that equal strategies have (`by_range`).
    """
    groups = groups_of_runs(strategies)
    swaps, draws = _swaps(groups, num, seed), drawn(groups, NUM_RESAMPLES, seed)
    pairs = [paired(strategies[0], other) if set(strategies[0]) & set(other) else None for other in strategies[1:]]
    known = [pair for pair in pairs if pair]
    swapped = [_differences(one, two, groups, swaps, tasks)["P"] for one, two in known]
    resampled_p = _Resampled(groups, draws, tasks)
    leads = [(resampled_p.of(one), resampled_p.of(two)) for one, two in known]
    adjusted = step_down(np.array(swapped))
    if chosen_here and known:
        found = np.array([values[0] for values in swapped])
        adjusted = np.maximum(adjusted, by_range(found, np.array([leads[0][0], *(two for _, two in leads)])))
    tested = iter(
        [
            Versus(Difference(float(values[0]), *middle(one - two), _p(values)), float(p))
            for values, (one, two), p in zip(swapped, leads, adjusted, strict=True)
        ]
    )
    return [next(tested) if pair else None for pair in pairs]


def by_range(leads: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[M] p-values of `leads`, whichever strategy was put first: the share of resamples in which the range of the
    centred `scores` [1 + M, R] is as large (Tukey's range test, with the bootstrap's distribution)."""
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    if not scores.size:
        return np.ones(len(leads))
    centred = scores - scores.mean(axis=1, keepdims=True)
    width = centred.max(axis=0) - centred.min(axis=0)
    return np.asarray((width[None, :] >= np.abs(leads)[:, None]).mean(axis=1))


@dataclass(frozen=True, slots=True)
class _Resampled:
    """Resampled P of runs; the first's is in every pair and computed once."""

    groups: Groups
    draws: Mapping[Fold, np.ndarray]
    tasks: Sequence[str]
    seen: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    def of(self, runs: Runs) -> np.ndarray:
        key = tuple(id(sums) for seeds in runs.values() for sums in seeds.values())
        if key not in self.seen:
            self.seen[key] = resampled(runs, self.groups, self.draws, self.tasks)["P"]
        return self.seen[key]


def paired(first: Runs, second: Runs) -> tuple[Runs, Runs]:
    """The runs of both with one partner each: of every fold that both have, the seeds that both have, or where there
    are none as many as both have, in order. The second's are listed under the first's seeds."""
    ones: dict[Fold, Mapping] = {}
    twos: dict[Fold, Mapping] = {}
    for fold in sorted(set(first) & set(second)):
        one, two = first[fold], second[fold]
        shared = sorted(set(one) & set(two))
        pairs = [(seed, seed) for seed in shared] or list(zip(sorted(one), sorted(two), strict=False))
        ones[fold], twos[fold] = {a: one[a] for a, _ in pairs}, {a: two[b] for a, b in pairs}
    if not ones:
        raise ValueError("the two have no fold in common: they were scored on other faces, and do not compare")
    return ones, twos


def step_down(values: np.ndarray) -> np.ndarray:
    """[M] adjusted p-values of differences [M, R] under the same R swaps, the first of which is what was found."""
    if not len(values):
        return np.zeros(0)
    spread = np.sqrt((values[:, 1:] ** 2).mean(axis=1, keepdims=True)) if values.shape[1] > 1 else 1.0
    sizes = np.abs(values) / np.maximum(spread, TINY)
    order = np.argsort(-sizes[:, 0], kind="stable")
    largest = np.maximum.accumulate(sizes[order][::-1], axis=0)[::-1]
    p = (largest >= sizes[order][:, :1] - TINY).mean(axis=1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def _swaps(groups: Groups, num: int, seed: int) -> dict[Fold, np.ndarray]:
    """Fold -> [1 + R, G]: 1 where a group keeps its side, 0 where it is swapped; the first row swaps nothing."""
    generator = np.random.default_rng([seed, 1])

    def draw(size: int) -> np.ndarray:
        kept = generator.integers(0, 2, (num + 1, size)).astype(np.float64)
        kept[0] = 1.0
        return kept

    return by_fold(groups, draw)


def _differences(
    first: Runs,
    second: Runs,
    groups: Groups,
    kept: Mapping[Fold, np.ndarray],
    tasks: Sequence[str],
) -> dict[str, np.ndarray]:
    """[1 + R] first minus second under every swap, by task and under "P"."""
    left, right = _scored(first, second, groups, kept, tasks), _scored(second, first, groups, kept, tasks)
    return {key: left[key] - right[key] for key in left}


def _scored(
    runs: Runs,
    other: Runs,
    groups: Groups,
    kept: Mapping[Fold, np.ndarray] | None,
    tasks: Sequence[str],
) -> dict[str, np.ndarray]:
    """[1 + R] mean scores of `runs` where the groups not `kept` are those of `other`; [1] its own without `kept`."""
    found: dict[Fold, dict[int, dict[str, np.ndarray]]] = {}
    for fold, seeds in runs.items():
        stay = np.ones((1, len(groups.names[fold]))) if kept is None else kept[fold]
        for seed, sums in seeds.items():
            mine, theirs = sums.over(groups.names[fold]).parts, other[fold][seed].over(groups.names[fold]).parts
            mixed = {
                name: theirs[name].sum(axis=0) + np.tensordot(stay, part - theirs[name], axes=1)
                for name, part in mine.items()
            }
            found.setdefault(fold, {})[seed] = scores(mixed, tasks, sums.schema)
    return {key: mean_of_runs(pick(found, key)) for key in keys_of(runs, tasks)}


def _p(values: np.ndarray) -> float:
    """The share of swaps, what was found among them, that differ by as much (Phipson and Smyth, 2010)."""
    return float((np.abs(values) >= abs(values[0]) - TINY).mean())
