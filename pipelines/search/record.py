"""Optuna's record of a study: one Optuna trial for each finished or failed one, so that optuna-dashboard opens it.

An embedded journal file: 14 ms an entry, against 49 ms in SQLite. It is written from the run folders and can be
written again from them.
"""

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipelines.search.study import FieldValue, Result, Study, Trial, choice_of


class Record:
    """The journal of the study `study`, held by one process (`open_study` sees to it)."""

    def __init__(self, study: Study, fields: Sequence[str], storage_url: str = "") -> None:
        """Writes to the journal in the study's folder, or to the database at `storage_url`.

        Raises:
            ValueError: the database cannot be had; says why.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = _database(storage_url) if storage_url else _journal(study.path / "study.journal")
        self.study = study
        self.optuna = optuna.create_study(
            storage=storage, study_name=study.path.name, direction="maximize", load_if_exists=True
        )
        self.distributions = _distributions(study.trials.values(), fields)
        self.known = {(one.user_attrs["digest"], one.state) for one in self.optuna.get_trials(deepcopy=False)}

    def catch_up(self) -> None:
        """Adds what the run folders and failed.json have and the journal lacks."""
        for result in self.study.results():
            self.add_finished(result)
        for digest, entry in self.study.failures().items():
            if digest in self.study.trials:
                self.add_failed(self.study.trials[digest], entry["reason"])

    def add_finished(self, result: Result) -> None:
        """Value: the selection score. The held-out score stands beside it as an attribute, never as the value."""
        attributes = {
            "run": str(result.folder.relative_to(self.study.path)),
            "held_out_P": result.metrics["report"]["P"],
            "seconds": result.seconds,
        }
        self._add(result.trial, TrialState.COMPLETE, attributes, result.metrics["select"]["P"], result.seconds)

    def add_failed(self, trial: Trial, reason: str) -> None:
        self._add(trial, TrialState.FAIL, {"reason": reason})

    def _add(
        self,
        trial: Trial,
        state: TrialState,
        attributes: Mapping[str, Any],
        value: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        if (trial.digest, state) in self.known:
            return
        flat = {key: choice_of(item) for key, item in trial.strategy.values(self.distributions).items()}
        streams = sorted({name for used in trial.streams.values() for name in used})
        entry: FrozenTrial = optuna.trial.create_trial(
            state=state,
            value=value,
            params=flat,
            distributions={key: self.distributions[key] for key in flat},
            user_attrs={"digest": trial.digest, "streams_used": ",".join(streams), **attributes},
        )
        if entry.datetime_complete is not None:
            entry.datetime_start = entry.datetime_complete - timedelta(seconds=seconds)
        self.optuna.add_trial(entry)
        self.known.add((trial.digest, state))


def _distributions(trials: Any, fields: Sequence[str]) -> dict[str, CategoricalDistribution]:
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


def _database(url: str) -> BaseStorage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's, of its own next version
            return RDBStorage(with_driver(url))
    except Exception as error:  # the drivers, SQLAlchemy and Optuna each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        scheme = url.partition(":")[0]  # what stands behind it may hold a password
        raise ValueError(
            f"[study] storage {scheme}:...: {reason}; PostgreSQL needs `pip install 'mtl-affect[postgres]'`; or leave "
            "storage out for a journal in the study's folder"
        ) from None


def with_driver(url: str) -> str:
    """`url` with the driver that the extra `postgres` brings: SQLAlchemy's own choice differs by its version."""
    scheme, colon, rest = url.partition(":")
    return f"postgresql+psycopg{colon}{rest}" if scheme in ("postgres", "postgresql") else url


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
