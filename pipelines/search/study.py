"""A study's folder: what was planned, what is finished, what failed. The run folders are the truth.

study.json    data, streams and splits the study is bound to     grid.toml   the grid file of the latest search
trials.json   every strategy ever planned, by its digest         failed.json reasons of failed trials
runs/DIGEST/  one run folder per finished trial (run.json last)   study.journal  Optuna's record
leaderboard.csv, leaderboard.json, report.html                   the results, rewritten by every search
"""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache.durable import TEMPORARY, write_durably
from cache.labels import ABAW, Schema, schema_of
from cache.locks import WHOLE, Part, in_turn_by, locked, writing
from cache.seals import read_sealed_json, sealed_json
from pipelines.config import Config
from pipelines.folds import NO_FOLD, Fold
from pipelines.json_files import write_text
from pipelines.run_files import damage, read_manifest, read_metrics
from pipelines.search.grid import Grid
from pipelines.strategy import Strategy, class_embeddings_of, run_digest, streams_of
from pipelines.training.stack_checkpoint import begun_stacks, folder_of

FORMAT = 1
LOCK, TURN, SHARDS = ".lock", ".turn", ".shards"
# Of trials.json: run folders are found again by the digests of their strategies.
REMEDY = "move it away and type the same search again, which finds the runs of its grid"
FieldValue = None | bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyInputs:
    """The data a study is made from. If any of it changes, scores no longer compare.

    `frames` and `labels` are digests over `num_rows` rows; `streams` maps a stream's label to {"identity" (a digest),
    "width", "backbone"}; `splits` a fold to its description.
    """

    frames: str
    labels: str
    num_rows: int
    streams: Mapping[str, Mapping[str, Any]]
    splits: Mapping[Fold, Mapping[str, Any]]
    schema: Schema = ABAW


@dataclass(frozen=True, slots=True)
class Trial:
    """One strategy over one set of inputs. `streams` are those each of its models reads."""

    strategy: Strategy
    streams: Mapping[str, tuple[str, ...]]
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {"strategy": self.strategy.flat(), "streams": {name: list(used) for name, used in self.streams.items()}}


@dataclass(frozen=True, slots=True)
class Result:
    """A finished trial: `metrics` {"select": flat keys, "report": flat keys}, and how long it took."""

    trial: Trial
    metrics: Mapping[str, Any]
    seconds: float
    folder: Path


@dataclass(frozen=True, slots=True)
class Study:
    """An open study folder; `trials` are all that were ever planned in it, by digest.

    `left_out` has the digests of those whose runs `damaged` found: they count as unfinished.
    """

    path: Path
    trials: Mapping[str, Trial]
    left_out: set[str] = field(default_factory=set)

    def as_planned_now(self) -> "Study":
        """With the trials that another search of a grown grid has planned since."""
        return replace(self, trials=read_study(self.path).trials)

    def run_folder(self, trial: Trial) -> Path:
        return self.path / "runs" / trial.digest

    def is_finished(self, trial: Trial) -> bool:
        """Its run folder is complete, as its manifest is written last, and not left out."""
        return trial.digest not in self.left_out and (self.run_folder(trial) / "run.json").is_file()

    def is_halted(self, trial: Trial) -> bool:
        """It is finished, but successive halving ended its training before its time."""
        folder = self.run_folder(trial)
        try:
            return self.is_finished(trial) and bool(read_metrics(folder, read_manifest(folder)).get("halted"))
        except ValueError:
            return False  # `damaged` names it

    def begun(self) -> list[tuple[str, ...]]:
        """Digests of the trials, in order, of every stack in which a search was stopped."""
        return begun_stacks(self.path / "runs")

    def remove_ended(self) -> None:
        """Removes what is kept of stacks whose runs are all there: a search was killed just before it did."""
        for digests in self.begun():
            if all((self.path / "runs" / digest / "run.json").is_file() for digest in digests):
                shutil.rmtree(folder_of(self.path / "runs" / digests[0]), ignore_errors=True)

    def damaged(self, trials: Iterable[Trial] | None = None) -> list[tuple[Trial, str]]:
        """The finished ones of `trials` (all) that cannot be used, each with what is wrong, left out from here on.

        Every file of every run is read.
        """
        among = self.trials.values() if trials is None else trials
        finished = [trial for trial in among if self.is_finished(trial)]
        found = [(trial, reason) for trial in finished if (reason := damage(self.run_folder(trial)))]
        self.left_out.update(trial.digest for trial, _ in found)
        return found

    def clear(self, trial: Trial) -> None:
        """Removes what an unfinished try left behind."""
        shutil.rmtree(self.run_folder(trial), ignore_errors=True)
        self.left_out.discard(trial.digest)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Digest -> {"reason", "when", "strategy"} of the trials whose latest try failed."""
        path = self.path / "failed.json"
        return read_sealed_json(path, "remove it: trials that failed are tried again") if path.exists() else {}

    def record_failure(self, trial: Trial, reason: str, details: str) -> None:
        """Keeps the reason; what the try left behind goes."""
        self.clear(trial)
        shutil.rmtree(folder_of(self.run_folder(trial)), ignore_errors=True)
        entry = {"reason": reason, "when": _now(), "details": details, **trial.to_json()}
        with self.turn():
            self._write_failures(self.failures() | {trial.digest: entry})

    def forget_failure(self, trial: Trial) -> None:
        """A trial that was tried again and finished is no failure."""
        if trial.digest not in self.failures():
            return
        with self.turn():
            failures = self.failures()
            failures.pop(trial.digest, None)
            self._write_failures(failures)

    def turn(self) -> AbstractContextManager[None]:
        """One process at a time, for what several rewrite that work in the study."""
        return in_turn_by(self.path / TURN)

    def _write_failures(self, failures: Mapping[str, Any]) -> None:
        write_durably(self.path / "failed.json", sealed_json(failures))

    def results(self) -> list[Result]:
        """All finished trials, in the order they were planned."""
        return [self.result(trial) for trial in self.trials.values() if self.is_finished(trial)]

    def result(self, trial: Trial) -> Result:
        """The result in the run folder of a finished trial."""
        folder = self.run_folder(trial)
        manifest = read_manifest(folder)
        return Result(trial, read_metrics(folder, manifest), float(manifest.get("seconds") or 0.0), folder)


def make_trials(strategies: Sequence[Strategy], config: Config, inputs: StudyInputs) -> tuple[Trial, ...]:
    """One trial per strategy. Its digest covers the strategy, its streams' identities, frames, labels and split."""
    return tuple(_trial(strategy, config, inputs) for strategy in strategies)


def stream_label(name: str, view: str) -> str:
    """How a stream is named in study.json: the view only where it is not the faces themselves."""
    return name if view == "base" else f"{name}@{view}"


def choice_of(value: Any) -> FieldValue:
    """A field's value as one number or text, for tables and for Optuna: a list as "va,expr", a table as "va=2"."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item:g}" for key, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


@contextmanager
def open_study(
    path: Path,
    grid: Grid,
    inputs: StudyInputs,
    trials: Sequence[Trial],
    *,
    part: Part = WHOLE,
    is_shared: bool = False,
) -> Iterator[Study]:
    """The study at `path`, made if it is not there, held by this process alone; or by several, each for another `part`
    of its trials, or for what it claims elsewhere (`is_shared`).

    Raises:
        ValueError: another process holds it, the folder is something else, or it was made from other data.
    """
    if path.exists() and any(path.iterdir()) and not (path / "study.json").exists() and not _only_begun(path):
        raise ValueError(f"{path}: not a study, and not empty; name another folder with --study")
    path.mkdir(parents=True, exist_ok=True)
    what = f"{path}: this study"
    with ExitStack() as held:
        held.enter_context(locked(path / LOCK, what, shared=is_shared or part != WHOLE))
        if part != WHOLE:
            (path / SHARDS).mkdir(exist_ok=True)
            held.enter_context(writing(path / SHARDS, what, part))
        with in_turn_by(path / TURN):
            study = _bind(path, grid, inputs, trials)
        yield study


def read_about(path: Path) -> dict[str, Any]:
    """study.json of the study at `path`.

    Raises:
        ValueError: it is missing or damaged.
    """
    return read_sealed_json(path / "study.json", "move the study away, or name another folder with --study")


def _only_begun(path: Path) -> bool:
    """Whether all that is there is of a search that was stopped before its study.json: nothing of a user's."""
    own = {LOCK, TURN, SHARDS, "trials.json", "grid.toml", "runs"}
    names = {one.name for one in path.iterdir() if not one.name.startswith(TEMPORARY)}
    return LOCK in names and names <= own and not any((path / "runs").glob("*"))


def read_study(path: Path) -> Study:
    """The study at `path` as it stands, to look at.

    Raises:
        ValueError: there is none.
    """
    known = path / "trials.json"
    return Study(path, _read_trials(known) if known.exists() else {})


def _bind(path: Path, grid: Grid, inputs: StudyInputs, trials: Sequence[Trial]) -> Study:
    """Checks that the study is about `inputs`, and writes down what is new."""
    old = read_about(path) if (path / "study.json").exists() else {}
    if differences := _differences(old, inputs):
        raise ValueError(
            f"{path}: this study was made from other data ({', '.join(differences)}), and scores would not compare; "
            f"type `mtl search --grid {grid.path} --study {_free_name(path)}` for a new study"
        )
    known = read_study(path).trials
    merged = {**known, **{trial.digest: trial for trial in trials}}
    if len(merged) > len(known):
        known_now = {digest: trial.to_json() for digest, trial in merged.items()}
        write_durably(path / "trials.json", sealed_json(known_now))
    (path / "runs").mkdir(exist_ok=True)
    write_text(path / "grid.toml", grid.text)
    write_durably(path / "study.json", sealed_json(_describe(path, grid, inputs, old)))
    return Study(path, merged)


def _describe(path: Path, grid: Grid, inputs: StudyInputs, old: Mapping[str, Any]) -> dict[str, Any]:
    splits = {str(fold): dict(description) for fold, description in inputs.splits.items()}
    streams = {label: dict(stream) for label, stream in inputs.streams.items()}
    return {
        "format": FORMAT,
        "name": path.name,
        "id": old.get("id", secrets.token_hex(8)),
        "grid": str(grid.path),
        "fields": list(dict.fromkeys([*old.get("fields", []), *grid.fields])),
        "created": old.get("created", _now()),
        "frames": inputs.frames,
        "schema": inputs.schema.to_mapping(),
        "labels": inputs.labels,
        "num_rows": inputs.num_rows,
        "streams": old.get("streams", {}) | streams,
        "splits": old.get("splits", {}) | splits,
    }


def _differences(old: Mapping[str, Any], inputs: StudyInputs) -> list[str]:
    """What of an earlier search's data is no longer the same, in the user's words."""
    if not old:
        return []
    if old.get("format") != FORMAT:
        return [f"its format is {old.get('format')}, this program's is {FORMAT}"]
    before = schema_of(old["schema"], "study.json: schema")
    if differences := inputs.schema.differences(before, "in mtl.toml", "in the study", scores=True):
        return [f"labels of another schema: {'; '.join(differences)}"]
    names = {"frames": "other frames", "labels": "labels, splits or subjects changed"}
    found = [words for key, words in names.items() if old[key] != getattr(inputs, key)]
    for label, stream in inputs.streams.items():
        if label in old["streams"] and old["streams"][label]["identity"] != stream["identity"]:
            found.append(f"stream {label} was extracted anew with other settings or weights")
    for fold, split in inputs.splits.items():
        if str(fold) in old["splits"] and old["splits"][str(fold)]["hash"] != split["hash"]:
            found.append("another split" if fold == NO_FOLD else f"another fold {fold}")
    return found


def _trial(strategy: Strategy, config: Config, inputs: StudyInputs) -> Trial:
    streams = streams_of(strategy, config)
    digest = run_digest(
        strategy,
        streams,
        lambda name, view: inputs.streams[stream_label(name, view)]["identity"],
        inputs.frames,
        inputs.labels,
        inputs.splits[strategy.train.fold]["hash"],
        class_embeddings_of(strategy, config),
    )
    return Trial(strategy, streams, digest)


def _read_trials(path: Path) -> dict[str, Trial]:
    return {
        digest: Trial(
            Strategy().replace(entry["strategy"], f"{path}: {digest}"),
            {model: tuple(used) for model, used in entry["streams"].items()},
            digest,
        )
        for digest, entry in read_sealed_json(path, REMEDY).items()
    }


def _free_name(path: Path) -> Path:
    return next(name for n in range(2, 1000) if not (name := path.with_name(f"{path.name}-{n}")).exists())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
