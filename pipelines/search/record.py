"""Optuna's record of a study: one Optuna trial for each finished or failed one, so that optuna-dashboard opens it.

An embedded journal file: 14 ms an entry, against 49 ms in SQLite. It is written from the run folders and can be
written again from them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from heads.ranges import split_annotation
from pipelines.search.study import FieldValue, Result, Study, Trial, choice_of
from pipelines.strategy import flat_fields
from pipelines.task_fields import split_field


class Record:
    """The journal of the study `study`, held by one process (`open_study` sees to it)."""

    def __init__(self, study: Study, fields: Sequence[str]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = study
        self.optuna = optuna.create_study(
            storage=_journal(study.path / "study.journal"),
            study_name=study.path.name,
            direction="maximize",
            load_if_exists=True,
        )
        self.entries = Entries(study.path, fields, distributions_of(study.trials.values(), fields))
        self.known = {(one.user_attrs["digest"], one.state) for one in self.optuna.get_trials(deepcopy=False)}

    def catch_up(self) -> None:
        """Adds what the run folders and failed.json have and the journal lacks."""
        for result in self.study.results():
            self.add_finished(result)
        for digest, entry in self.study.failures().items():
            if digest in self.study.trials:
                self.add_failed(self.study.trials[digest], entry["reason"])

    def add_finished(self, result: Result) -> None:
        self._add(result.trial, TrialState.COMPLETE, lambda: self.entries.finished(result))

    def add_failed(self, trial: Trial, reason: str) -> None:
        self._add(trial, TrialState.FAIL, lambda: self.entries.failed(trial, reason))

    def _add(self, trial: Trial, state: TrialState, make: Callable[[], FrozenTrial]) -> None:
        if (trial.digest, state) not in self.known:
            self.optuna.add_trial(make())
            self.known.add((trial.digest, state))


@dataclass(frozen=True, slots=True)
class Entries:
    """Makes Optuna trials of the trials of a study in the folder `path`: of `fields`, those that have a distribution
    are parameters, the others attributes."""

    path: Path
    fields: Sequence[str]
    distributions: Mapping[str, BaseDistribution]

    def finished(self, result: Result) -> FrozenTrial:
        """Value: the selection score. The held-out score stands beside it as an attribute, never as the value."""
        attributes = {
            "run": str(result.folder.relative_to(self.path)),
            "held_out_P": result.metrics["report"]["P"],
            "seconds": result.seconds,
        }
        entry = self._make(result.trial, TrialState.COMPLETE, attributes, result.metrics["select"]["P"])
        if entry.datetime_complete is not None:
            entry.datetime_start = entry.datetime_complete - timedelta(seconds=result.seconds)
        return entry

    def failed(self, trial: Trial, reason: str) -> FrozenTrial:
        return self._make(trial, TrialState.FAIL, {"reason": reason})

    def waiting(self, trial: Trial, stack: Sequence[str]) -> FrozenTrial:
        """The first trial of a stack that is to be trained."""
        return self._make(trial, TrialState.WAITING, {"stack": list(stack)})

    def _make(
        self, trial: Trial, state: TrialState, attributes: Mapping[str, Any], value: float | None = None
    ) -> FrozenTrial:
        values = {key: choice_of(item) for key, item in trial.strategy.values(self.fields).items()}
        params = {key: value for key, value in values.items() if self._has(key, value)}
        others = {key: value for key, value in values.items() if key not in params}
        streams = sorted({name for used in trial.streams.values() for name in used})
        return optuna.trial.create_trial(
            state=state,
            value=value,
            params=params,
            distributions={key: self.distributions[key] for key in params},
            user_attrs={**others, "digest": trial.digest, "streams_used": ",".join(streams), **attributes},
        )

    def _has(self, name: str, value: FieldValue) -> bool:
        """Whether `value` is one of the distribution of `name`: a task without a model has no number of its own."""
        found = self.distributions.get(name)
        return isinstance(found, CategoricalDistribution) or (found is not None and value is not None)


def fixed_distributions(fields: Iterable[str]) -> dict[str, BaseDistribution]:
    """Of those of `fields` whose values are known without a grid, numbers by their range and choices: a database takes
    no other choices of a parameter than those it was begun with, and a grid may grow."""
    found: dict[str, BaseDistribution] = {}
    for name in fields:
        task, key = split_field(name)
        kind, limits = split_annotation(flat_fields()[key][1])
        choices = get_args(kind) if get_origin(kind) is Literal else (False, True) if kind is bool else ()
        if choices:
            found[name] = CategoricalDistribution((*choices, None) if task else choices)
        elif kind in (int, float):
            (ends,) = limits
            low = ends.gt if ends.ge is None else ends.ge
            high = ends.lt if ends.le is None else ends.le
            found[name] = IntDistribution(low, high) if kind is int else FloatDistribution(low, high)
    return found


def distributions_of(trials: Iterable[Trial], fields: Sequence[str]) -> dict[str, BaseDistribution]:
    """The values each of `fields` takes among `trials`."""
    values: dict[str, dict[FieldValue, None]] = {name: {} for name in fields}
    for trial in trials:
        flat = trial.strategy.values(fields)
        for name in fields:
            values[name][choice_of(flat[name])] = None
    return {name: CategoricalDistribution(tuple(found)) for name, found in values.items() if found}


def _journal(path: Path) -> BaseStorage:
    _heal(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _heal(path: Path) -> None:
    """Undoes what a killed writer leaves: its lock, which Optuna would wait on for 30 s, and half a last line."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
