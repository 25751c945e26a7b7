"""Which trials of a grid to try next: all in order, some at random, or those that a model of the results suggests.

Seeds and folds of a strategy are tried together: an arm is a strategy without them, and its value the mean over them.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.search.grid import StudyConfig
from pipelines.search.study import Result, Trial, choice_of
from pipelines.strategy import REPEATS, field_names

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ARMS_AT_ONCE = 8
WIDE = 10.0  # a range of numbers from which on steps are factors
STARTUP_ARMS = 10  # before a model is made of the results; Optuna's own default

Results = Callable[[], Sequence[Result]]
Sampler = Callable[[StudyConfig, Sequence[Trial], Sequence[Trial], Results], list[Trial]]


def next_trials(study: StudyConfig, trials: Sequence[Trial], left: Sequence[Trial], results: Results) -> list[Trial]:
    """The trials to run now; empty when the search is at its end.

    Args:
        study: the grid's section [study].
        trials: all trials of the grid, in its order.
        left: those that are neither finished nor given up.
        results: gives the finished ones of the grid.
    """
    return SAMPLERS[study.sampler](study, trials, left, results)


def in_order(study: StudyConfig, trials: Sequence[Trial], left: Sequence[Trial], results: Results) -> list[Trial]:
    """All that is left, or the first `trials` of the grid."""
    chosen = trials[: study.trials] if study.trials else trials
    return _of(chosen, left)


def at_random(study: StudyConfig, trials: Sequence[Trial], left: Sequence[Trial], results: Results) -> list[Trial]:
    """The same ones for the same seed, whatever is finished: whole arms, until there are `trials` trials."""
    arms = _arms(trials)
    order = np.random.default_rng(study.sampler_seed).permutation(len(arms))
    members = list(arms.values())
    chosen = [trial for index in order for trial in members[index]]
    return _of(chosen[: study.trials], left)


def by_model(study: StudyConfig, trials: Sequence[Trial], left: Sequence[Trial], results: Results) -> list[Trial]:
    """A few arms at a time: at random at first, then those that Optuna's TPE expects to be good."""
    finished = results()
    room = study.trials - len(finished)
    if room <= 0 or not left:
        return []
    known = {arm: [result for result in finished if result.trial.strategy.arm == arm] for arm in _result_arms(finished)}
    values = {arm: float(np.mean([one.metrics["select"]["P"] for one in found])) for arm, found in known.items()}
    open_arms = _arms(left)
    begun = [arm for arm in open_arms if arm in values]  # a kill came between the seeds of an arm
    seed = study.sampler_seed * 1000 + len(finished)
    count = min(ARMS_AT_ONCE, len(open_arms))
    fresh = {arm: found for arm, found in open_arms.items() if arm not in values}
    if len(values) < STARTUP_ARMS:
        order = np.random.default_rng(seed).permutation(len(fresh))[:count]
        asked = [list(fresh)[index] for index in order]
    else:
        asked = _suggested(trials, fresh, {arm: found[0].trial for arm, found in known.items()}, values, count, seed)
    return [trial for arm in (*begun, *asked) for trial in open_arms[arm]][:room]


def _suggested(
    trials: Sequence[Trial],
    fresh: Mapping[str, Sequence[Trial]],
    tried: Mapping[str, Trial],
    values: Mapping[str, float],
    count: int,
    seed: int,
) -> list[str]:
    """Arms of `fresh` nearest to what TPE asks for."""
    import optuna

    scales = _scales(trials)
    distributions = {key: scale.distribution() for key, scale in scales.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant_liar is called experimental; it keeps a batch from being one point
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=STARTUP_ARMS)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model = optuna.create_study(direction="maximize", sampler=sampler)
    for arm, trial in tried.items():
        params = _choices(trial, scales)
        model.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=values[arm]))
    open_arms = {arm: _choices(members[0], scales) for arm, members in fresh.items()}
    asked: list[str] = []
    for _ in range(min(count, len(open_arms))):
        wanted = model.ask(distributions).params

        def distance(arm: str, wanted: Mapping[str, Any] = wanted) -> tuple[float, str]:
            return sum(scale.distance(wanted[key], open_arms[arm][key]) for key, scale in scales.items()), arm

        asked.append(min(open_arms, key=distance))
        del open_arms[asked[-1]]
    return asked


def _arms(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Trials by arm, in their order."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.strategy.arm, []).append(trial)
    return found


def _result_arms(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.trial.strategy.arm for result in results))


def _of(chosen: Sequence[Trial], left: Sequence[Trial]) -> list[Trial]:
    """Those of `chosen` that are left."""
    digests = {trial.digest for trial in left}
    return [trial for trial in chosen if trial.digest in digests]


@dataclass(frozen=True, slots=True)
class Scale:
    """The values a field takes in a grid: numbers have an order, and a wide range of them is seen by its logarithm."""

    values: tuple[Any, ...]

    @property
    def is_number(self) -> bool:
        return len(self.values) > 2 and all(type(value) in (int, float) for value in self.values)

    @property
    def is_wide(self) -> bool:
        return min(self.values) > 0 and max(self.values) >= WIDE * min(self.values)

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if not self.is_number:
            return CategoricalDistribution(self.values)
        return FloatDistribution(float(min(self.values)), float(max(self.values)), log=self.is_wide)

    def distance(self, one: Any, other: Any) -> float:
        """From 0 to 1."""
        if not self.is_number:
            return float(one != other)
        low, high, one, other = (self._position(value) for value in (min(self.values), max(self.values), one, other))
        return abs(one - other) / (high - low)

    def _position(self, value: float) -> float:
        return math.log(value) if self.is_wide else value


def _scales(trials: Sequence[Trial]) -> dict[str, Scale]:
    """Of the fields in which the trials differ, seed and fold aside."""
    names = [name for name in field_names(trial.strategy for trial in trials) if name not in REPEATS]
    flats = [trial.strategy.values(names) for trial in trials]
    found = {key: dict.fromkeys(choice_of(flat[key]) for flat in flats) for key in names}
    return {key: Scale(tuple(values)) for key, values in found.items() if len(values) > 1}


def _choices(trial: Trial, scales: Mapping[str, Scale]) -> dict[str, Any]:
    flat = trial.strategy.values(scales)
    return {key: float(flat[key]) if scale.is_number else choice_of(flat[key]) for key, scale in scales.items()}


SAMPLERS: dict[str, Sampler] = {"grid": in_order, "random": at_random, "tpe": by_model}
