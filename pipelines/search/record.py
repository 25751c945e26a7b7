"""Optuna's record of a study: one Optuna trial for each finished or failed one, so that optuna-dashboard opens it.

An embedded journal file: 14 ms an entry, against 49 ms in SQLite. It is written from the run folders and can be
written again from them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipelines.search.database import open_database
from pipelines.search.study import FieldValue, Result, Study, Trial, choice_of


class Record:
    """The journal of the study `study`, held by one process (`open_study` sees to it)."""

    def __init__(self, study: Study, fields: Sequence[str], storage_url: str = "") -> None:
        """Writes to the journal in the study's folder, or to the database at `storage_url`.

        Raises:
            ValueError: the database cannot be had; says why.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_database(storage_url) if storage_url else _journal(study.path / "study.journal")
        self.study = study
        self.optuna = optuna.create_study(
            storage=storage, study_name=study.path.name, direction="maximize", load_if_exists=True
        )
        self.entries = Entries(study.path, distributions_of(study.trials.values(), fields))
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
    """Makes Optuna trials of the trials of a study in the folder `path`."""

    path: Path
    distributions: Mapping[str, CategoricalDistribution]

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
        flat = {key: choice_of(item) for key, item in trial.strategy.values(self.distributions).items()}
        streams = sorted({name for used in trial.streams.values() for name in used})
        return optuna.trial.create_trial(
            state=state,
            value=value,
            params=flat,
            distributions={key: self.distributions[key] for key in flat},
            user_attrs={"digest": trial.digest, "streams_used": ",".join(streams), **attributes},
        )


def distributions_of(trials: Iterable[Trial], fields: Sequence[str]) -> dict[str, CategoricalDistribution]:
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
