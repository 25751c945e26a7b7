"""The search: resumes after a kill, never repeats, records failures, and keeps Optuna's record in step."""

import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cache import durable
from helpers import stub_study as stub
from helpers.processes import start
from pipelines.folds import NO_FOLD, Fold
from pipelines.search.database import open_database
from pipelines.search.estimate import from_results, measure, work
from pipelines.search.grid import expand
from pipelines.search.loop import SearchSummary, one_at_a_time, run_trials
from pipelines.search.record import Entries, Record, fixed_distributions
from pipelines.search.stack_queue import pending
from pipelines.search.study import Study, StudyInputs, make_trials, open_study, read_study
from pipelines.strategy import Strategy, strategy_of

GRID = {"product": {"temporal": ["gru", "tcn"], "seed": [0, 1, 2]}}
FRAMES, CONFIG = stub.make_frames(), stub.make_config()
INPUTS = stub.make_inputs(FRAMES, CONFIG)


class Calls(list):
    """Remembers which strategies were trained; `fail` says which raise."""

    def __init__(self, fail=lambda strategy: False) -> None:
        super().__init__()
        self.fail = fail

    def __call__(self, strategy: Strategy) -> None:
        self.append((strategy.head.temporal, strategy.train.seed))
        if self.fail(strategy):
            raise RuntimeError("the loss\nis not finite")


def search(folder: Path, calls, document=GRID, inputs: StudyInputs = INPUTS, **options) -> tuple[Study, SearchSummary]:
    grid = stub.make_grid(document)
    trials = make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, inputs)
    trainer = stub.make_trainer(FRAMES, CONFIG, calls)
    with open_study(folder, grid, inputs, trials) as study:
        return study, run_trials(study, trials, one_at_a_time(study, trainer), Record(study, grid.fields), **options)


def recorded(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).trials


def test_every_trial_runs_once_and_a_second_search_runs_none(tmp_path: Path) -> None:
    study, outcome = search(tmp_path / "s", calls := Calls())
    assert (outcome.num_done, outcome.num_left, outcome.failed) == (6, 0, ())
    assert calls == [(temporal, seed) for temporal in ("gru", "tcn") for seed in (0, 1, 2)]
    assert len(study.results()) == 6
    _, again = search(tmp_path / "s", calls := Calls())
    assert (again.num_done, again.num_before, calls) == (0, 6, [])
    assert len(recorded(tmp_path / "s")) == 6


@pytest.mark.parametrize("step", ["trials.json", "grid.toml", "study.json"])
def test_stopped_before_it_was_a_study_the_same_search_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write = durable.write_durably

    def killed(path: Path, data: bytes) -> None:
        if path.name == step:
            (path.parent / f"{durable.TEMPORARY}{path.name}-x-1-y").write_bytes(b"half")
            raise SystemExit(137)
        write(path, data)

    with monkeypatch.context() as patch:
        for module in ("pipelines.json_files", "pipelines.search.study"):
            patch.setattr(f"{module}.write_durably", killed)
        with pytest.raises(SystemExit):
            search(tmp_path / "s", Calls())
    assert not (tmp_path / "s" / "study.json").exists()
    _, outcome = search(tmp_path / "s", calls := Calls())
    assert (outcome.num_done, len(calls)) == (6, 6)


@pytest.mark.parametrize("name", ["mine.txt", "grid.toml", "runs/a/weights.bin"])
def test_a_folder_of_ones_own_is_no_study_that_was_stopped(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    if name != "grid.toml":
        (tmp_path / "s" / ".lock").touch()
    with pytest.raises(ValueError, match="not a study, and not empty"):
        search(tmp_path / "s", Calls())
    assert path.read_text() == "mine"


def test_a_grown_grid_runs_only_what_is_new(tmp_path: Path) -> None:
    search(tmp_path / "s", Calls())
    grown = {"product": {"temporal": ["none", "gru", "tcn"], "seed": [0, 1, 2]}}
    study, _ = search(tmp_path / "s", calls := Calls(), grown)
    assert calls == [("none", 0), ("none", 1), ("none", 2)]
    assert len(study.results()) == len(recorded(tmp_path / "s")) == 9


def test_an_unfinished_run_folder_is_done_again(tmp_path: Path) -> None:
    study, _ = search(tmp_path / "s", Calls())
    folder = next((tmp_path / "s" / "runs").iterdir())
    (folder / "run.json").unlink()
    (folder / "left.txt").write_text("by a killed search")
    study, outcome = search(tmp_path / "s", calls := Calls())
    assert (len(calls), outcome.num_before, len(study.results())) == (1, 5, 6)
    assert not (folder / "left.txt").exists()
    assert len(recorded(tmp_path / "s")) == 6


def test_a_failed_trial_is_recorded_and_the_next_one_begins(tmp_path: Path) -> None:
    calls = Calls(fail=lambda one: (one.head.temporal, one.train.seed) == ("gru", 1))
    study, outcome = search(tmp_path / "s", calls)
    assert (len(calls), outcome.num_done, outcome.num_left) == (6, 5, 0)
    ((trial, reason),) = outcome.failed
    assert (trial.strategy.train.seed, reason) == (1, "the loss is not finite")
    assert not study.run_folder(trial).exists()
    _, outcome = search(tmp_path / "s", calls := Calls())
    assert (calls, len(outcome.failed)) == ([], 1)
    _, outcome = search(tmp_path / "s", calls := Calls(), retry_failed=True)
    assert (calls, outcome.failed) == ([("gru", 1)], ())
    assert study.failures() == {}
    states = [(one.user_attrs["digest"], one.state.name) for one in recorded(tmp_path / "s")]
    assert len(states) == len(set(states)) == 7
    assert sum(state == "FAIL" for _, state in states) == 1


def test_reasons_of_failures_that_were_damaged_are_one_line_with_the_remedy(tmp_path: Path) -> None:
    calls = Calls(fail=lambda one: one.train.seed == 1)
    search(tmp_path / "s", calls)
    path = tmp_path / "s" / "failed.json"
    whole = path.read_bytes()
    for damaged in (whole.replace(b"not finite", b"not Finite"), whole[:-50], b"{"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"failed\.json: .*; remove it: trials that failed are tried again$"):
            search(tmp_path / "s", calls)
    path.unlink()
    _, outcome = search(tmp_path / "s", again := Calls())
    assert (len(again), outcome.failed) == (2, ())


def test_a_full_disk_stops_the_search_and_marks_no_trial(tmp_path: Path) -> None:
    def fill(strategy: Strategy) -> None:
        if strategy.train.seed == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")

    with pytest.raises(OSError, match="No space left"):
        search(tmp_path / "s", fill)
    _, outcome = search(tmp_path / "s", calls := Calls())
    assert (len(calls), outcome.failed) == (5, ())


def test_limits_end_a_search_between_trials(tmp_path: Path) -> None:
    _, outcome = search(tmp_path / "s", calls := Calls(), limit=2)
    assert (len(calls), outcome.num_left, outcome.stopped) == (2, 4, "")
    _, outcome = search(tmp_path / "s", lambda one: time.sleep(0.02), time_limit_s=0.01)
    assert (outcome.num_done, outcome.num_left) == (1, 3)
    assert "time limit" in outcome.stopped


def test_ctrl_c_ends_the_epoch_and_leaves_the_trial_to_be_done_again(tmp_path: Path) -> None:
    def interrupt(strategy: Strategy) -> None:
        if strategy.train.seed == 2:
            os.kill(os.getpid(), signal.SIGINT)

    _, outcome = search(tmp_path / "s", interrupt)
    assert (outcome.num_done, outcome.num_left, outcome.stopped, outcome.failed) == (2, 4, "Ctrl-C", ())
    _, outcome = search(tmp_path / "s", calls := Calls())
    assert calls[0] == ("gru", 2)
    assert outcome.num_left == 0


@pytest.mark.parametrize("kills", [2])
def test_after_sigkill_only_the_trial_in_flight_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    folder = tmp_path / "s"
    for number in range(kills):
        assert start(stub.main, folder, 3).end()[0] == -signal.SIGKILL
        (folder / "study.journal.lock").symlink_to("left by a killed writer")
        with (folder / "study.journal").open("a") as journal:
            journal.write('{"op_code":4,"wor')
        assert len(read_study(folder).results()) == 2 * (number + 1)
    grid = stub.make_grid({"product": {"seed": list(range(12))}})
    trials = make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, INPUTS)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited for a dead writer's lock"))
    with open_study(folder, grid, INPUTS, trials) as study:
        finished = [trial for trial in trials if study.is_finished(trial)]
        calls = Calls()
        engine = one_at_a_time(study, stub.make_trainer(FRAMES, CONFIG, calls))
        run_trials(study, trials, engine, Record(study, grid.fields))
    assert len(finished) == 2 * kills
    assert len(calls) == 12 - len(finished)
    digests = [one.user_attrs["digest"] for one in recorded(folder)]
    assert sorted(digests) == sorted(trial.digest for trial in trials)


def test_the_record_is_written_again_from_the_run_folders(tmp_path: Path) -> None:
    search(tmp_path / "s", Calls())
    (tmp_path / "s" / "study.journal").unlink()
    study, _ = search(tmp_path / "s", Calls())
    found = recorded(tmp_path / "s")
    assert {one.user_attrs["digest"] for one in found} == set(study.trials)
    for one in found:
        metrics = study.result(study.trials[one.user_attrs["digest"]]).metrics
        assert one.value == metrics["select"]["P"]
        assert one.user_attrs["held_out_P"] == metrics["report"]["P"]
        assert set(one.params) == {"temporal", "seed"}
        assert (tmp_path / "s" / one.user_attrs["run"] / "run.json").exists()


@pytest.mark.parametrize("what", ["frames", "labels", "streams", "splits"])
def test_other_data_are_refused_with_the_command_for_a_new_study(tmp_path: Path, what: str) -> None:
    search(tmp_path / "s", Calls())
    changes = {
        "frames": {"frames": "others"},
        "labels": {"labels": "others"},
        "streams": {"streams": {**INPUTS.streams, "va": {**INPUTS.streams["va"], "identity": "other"}}},
        "splits": {"splits": {NO_FOLD: {**INPUTS.splits[NO_FOLD], "hash": "other"}}},
    }
    values = {name: getattr(INPUTS, name) for name in StudyInputs.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"other data .*--study \S+s-2`"):
        search(tmp_path / "s", Calls(), inputs=StudyInputs(**values | changes[what]))
    study, _ = search(tmp_path / "s-2", calls := Calls(), inputs=StudyInputs(**values | changes[what]))
    assert len(calls) == 6
    assert not set(study.trials) & set(read_study(tmp_path / "s").trials)


def test_a_study_is_searched_by_one_process(tmp_path: Path) -> None:
    grid = stub.make_grid(GRID)
    with (
        open_study(tmp_path / "s", grid, INPUTS, ()),
        pytest.raises(ValueError, match="is being written by"),
        open_study(tmp_path / "s", grid, INPUTS, ()),
    ):
        pass


def test_a_folder_that_is_no_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a study"):
        search(tmp_path, Calls())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_trial_is_told_by_strategy_streams_and_data() -> None:
    strategies = expand(stub.make_grid(GRID), strategy_of(CONFIG))
    digests = {trial.digest for trial in make_trials(strategies, CONFIG, INPUTS)}
    assert len(digests) == len(strategies)
    assert digests == {trial.digest for trial in make_trials(strategies, CONFIG, INPUTS)}


def test_pending_counts_what_a_dry_run_shows(tmp_path: Path) -> None:
    study, _ = search(tmp_path / "s", Calls(fail=lambda one: one.train.seed == 0), limit=4)
    trials = tuple(study.trials.values())
    assert len(pending(study, trials, retry_failed=False)) == 2
    assert len(pending(study, trials, retry_failed=True)) == 4


def test_time_is_estimated_from_finished_trials_by_their_work(tmp_path: Path) -> None:
    study, _ = search(tmp_path / "s", Calls())
    left = [trial for trial in study.trials.values() if trial.strategy.train.seed == 0]
    estimate = from_results(study.results(), left)
    assert estimate.seconds == pytest.approx(2 * 1.5)
    assert "6 trials finished" in estimate.how


def test_time_is_measured_from_short_trainings_when_nothing_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = make_trials(expand(stub.make_grid(GRID), strategy_of(CONFIG)), CONFIG, INPUTS)
    asked, now_s = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])

    def trainer(stack, advance) -> list[None]:
        ((strategy, _),) = stack
        asked.append((strategy.head.temporal, strategy.train.steps))
        now_s[0] += 0.01 + 0.0005 * strategy.train.steps
        return [None]

    estimate = measure(trials, trainer)
    assert asked == [("gru", 40), ("gru", 40), ("gru", 120), ("tcn", 40), ("tcn", 120)]
    assert estimate.seconds == pytest.approx(6 * (0.01 + 0.0005 * CONFIG.train.steps))
    assert "gru, tcn" in estimate.how


def test_methods_are_counted_by_their_models() -> None:
    counts = [work(Strategy().replace({"method": name, "steps": 60}, "here")) for name in METHODS]
    assert counts == [60, 180, 240]


METHODS = ("joint", "separate", "progressive")


def test_a_database_takes_the_trials_of_a_grid_that_has_grown(tmp_path: Path) -> None:
    """Optuna refuses choices that a parameter had not; SQLite stands for PostgreSQL, which goes the same way."""
    small = {"temporal": ["none"], "tasks": [["va"]], "lr": [1e-3], "fold": [1], "causal": [False]}
    grown = {"temporal": ["gru"], "tasks": [["va", "au"]], "lr": [3.0], "fold": ["2.1"], "causal": [True]}
    study, waiting = optuna.create_study(storage="sqlite://"), []
    for product in (small, grown):
        grid = stub.make_grid({"product": product | {"method": ["separate"], "task.va.window": [64]}})
        inputs = replace(INPUTS, splits=dict.fromkeys((Fold(1, 0), Fold(2, 1)), next(iter(INPUTS.splits.values()))))
        trials = make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, inputs)
        entries = Entries(tmp_path, grid.fields, fixed_distributions(grid.fields))
        waiting += [entries.waiting(trials[0], [trials[0].digest])]
        study.add_trial(waiting[-1])
    for entry in waiting:
        assert entry.params.keys() == {"temporal", "lr", "causal", "method", "task.va.window"}
    assert [entry.user_attrs["fold"] for entry in waiting] == ["1", "2.1"]


def test_postgresql_is_spoken_to_by_the_driver_that_the_extra_brings() -> None:
    from pipelines.search.storage_url import with_driver

    assert with_driver("postgresql://me@host/studies") == "postgresql+psycopg://me@host/studies"
    assert with_driver("postgresql+psycopg2://me@host/studies") == "postgresql+psycopg2://me@host/studies"


@pytest.mark.parametrize(
    ("url", "do"),
    [
        ("postgresql://me:secret@127.0.0.1:1/studies", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://secret:port/here", "write postgresql://USER@HOST/NAME"),
    ],
)
def test_a_database_that_is_not_there_is_one_line_without_the_password(url: str, do: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"^\[study\] storage") as refused:
        open_database(url, 90)
    assert do in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_search_that_ends_last_knows_what_a_grown_grid_has_planned(tmp_path: Path) -> None:
    grids = [stub.make_grid({"product": {"seed": list(range(num))}}) for num in (1, 2)]
    small, grown = (make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, INPUTS) for grid in grids)
    with (
        open_study(tmp_path / "s", grids[0], INPUTS, small, is_shared=True) as first,
        open_study(tmp_path / "s", grids[1], INPUTS, grown, is_shared=True) as second,
    ):
        trainer = stub.make_trainer(FRAMES, CONFIG)
        run_trials(second, grown, one_at_a_time(second, trainer), Record(second, grids[1].fields))
        assert len(first.results()) == 1
        assert [one.trial.digest for one in first.as_planned_now().results()] == [trial.digest for trial in grown]


@pytest.mark.parametrize("url", ["sqlite:///secret.db", "mysql://me:secret@host/studies", "secret"])
def test_searches_share_a_study_in_postgresql_alone(url: str) -> None:
    with pytest.raises(ValueError, match="storage: searches share a study in PostgreSQL alone") as refused:
        stub.make_grid({"product": {"seed": [0]}, "study": {"storage": url}})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("file", "says"), [("trials.json", "finds the runs of its grid"), ("study.json", "--study")])
@pytest.mark.parametrize("change", ["a bit", "half", "nothing", "no seal"])
def test_what_a_study_says_of_itself_is_proven(tmp_path: Path, file: str, says: str, change: str) -> None:
    search(tmp_path / "s", Calls())
    path = tmp_path / "s" / file
    data = path.read_bytes()
    flipped = data.replace(b'"gru"', b'"lru"', 1) if file == "trials.json" else data.replace(b"frames", b"frbmes", 1)
    path.write_bytes({"a bit": flipped, "half": data[: len(data) // 2], "nothing": b""}.get(change, b"{}"))
    with pytest.raises(ValueError, match=rf"s/{file}: damaged.*{says}"):
        search(tmp_path / "s", Calls())
    if file == "trials.json":
        path.unlink()
        _, outcome = search(tmp_path / "s", calls := Calls())
        assert (outcome.num_before, outcome.num_done, calls) == (6, 0, [])
