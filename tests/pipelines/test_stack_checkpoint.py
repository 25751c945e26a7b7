"""A training that was stopped resumes where it was, bit for bit: alone, in stacks, in searches, by command."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from pipelines.cli import app
from pipelines.config import Config, SplitConfig, read_config
from pipelines.json_files import read_json
from pipelines.search.loop import one_at_a_time, run_trials
from pipelines.search.record import Record
from pipelines.search.search_plan import make_grouping, make_plan, make_trainer, read_strategies
from pipelines.search.study import open_study
from pipelines.strategy import Strategy, strategy_of
from pipelines.training import run as run_module
from pipelines.training.dataset import Dataset
from pipelines.training.halving import Halving
from pipelines.training.run import train_run
from pipelines.training.stack_checkpoint import FOLDER, StackCheckpoint
from pipelines.training.train import Trained, TrainRequest, train_strategies

METHODS = {
    "joint": {"temporal": "gru"},
    "separate": {"method": "separate", "streams": "own", "temporal": "tcn"},
    "progressive": {"method": "progressive", "streams": "own", "frozen_steps": 6},
    "self-training": {"method": "self-training", "temporal": "none", "teachers": 2},
    "learned weights": {"weighting": "learned", "temporal": "none"},
}
# Of other data orders, folds and ends: the stack shrinks on its way.
MEMBERS = ({"seed": 0}, {"seed": 1, "lr": 3e-3}, {"seed": 0, "patience": 6, "lr": 1e-9}, {"seed": 2, "fold": 1})


class Stop:
    """Raises KeyboardInterrupt at the call `after`; calls are counted in `calls`."""

    def __init__(self, after: int) -> None:
        self.after, self.calls = after, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.after:
            raise KeyboardInterrupt


def strategies_of(small: Config, values: dict) -> tuple[Config, list[Strategy]]:
    config = dataclasses.replace(small, split=SplitConfig(num_folds=3))
    base = strategy_of(config).replace({"fold": 0, "steps": 24, "patience": 54, **values}, "test")
    return config, [base.replace(each, "test") for each in MEMBERS]


def train(
    config: Config, dataset: Dataset, strategies: list[Strategy], folder: Path, poll: Callable[[], None], **more: float
) -> list[Trained]:
    checkpoint = StackCheckpoint(folder, poll=poll, **more)
    checkpoint.open([str(number) for number in range(len(strategies))], [one.digest for one in strategies])
    found = train_strategies(
        config, dataset, [TrainRequest(strategy=one) for one in strategies], Halving(2, 2), checkpoint=checkpoint
    )
    assert all(isinstance(one, Trained) for one in found)
    return [one for one in found if isinstance(one, Trained)]


def assert_same(one: Trained, other: Trained) -> None:
    def plain(trained: Trained) -> list[object]:
        return [dataclasses.replace(note, duration_s=0.0) for note in trained.history]

    assert plain(one) == plain(other)
    assert one.metrics == other.metrics
    for mine, theirs in zip(one.models, other.models, strict=True):
        for (name, value), wanted in zip(
            mine.module.state_dict().items(), theirs.module.state_dict().values(), strict=True
        ):
            assert torch.equal(value, wanted), name


@pytest.mark.parametrize("name", METHODS)
def test_stopped_twice_is_as_undisturbed(small: Config, made, tmp_path: Path, name: str) -> None:
    dataset = made.dataset()
    config, strategies = strategies_of(small, METHODS[name])
    count = Stop(0)
    undisturbed = train(config, dataset, strategies, tmp_path / "none", count)
    assert not (tmp_path / "none").exists(), "a short training writes nothing"
    for after in (count.calls // 3, count.calls // 3):
        with pytest.raises(KeyboardInterrupt):
            train(config, dataset, strategies, tmp_path / "kept", Stop(after))
    rest = Stop(0)
    resumed = train(config, dataset, strategies, tmp_path / "kept", rest)
    assert rest.calls <= count.calls - 2 * (count.calls // 3), "nothing is trained twice"
    for one, other in zip(resumed, undisturbed, strict=True):
        assert_same(one, other)


def test_any_step_is_a_place_to_stop(small: Config, made, tmp_path: Path) -> None:
    dataset = made.dataset()
    config, strategies = strategies_of(small, {"temporal": "none", "steps": 12})
    count = Stop(0)
    undisturbed = train(config, dataset, strategies[:2], tmp_path / "none", count)
    for after in range(1, count.calls + 1):
        with pytest.raises(KeyboardInterrupt):
            train(config, dataset, strategies[:2], tmp_path / str(after), Stop(after))
        resumed = train(config, dataset, strategies[:2], tmp_path / str(after), lambda: None)
        for one, other in zip(resumed, undisturbed, strict=True):
            assert_same(one, other)


def test_what_was_kept_of_another_stack_or_is_damaged_is_not_used(small: Config, made, tmp_path: Path) -> None:
    dataset = made.dataset()
    config, strategies = strategies_of(small, {"temporal": "none"})
    alone = train(config, dataset, strategies[:1], tmp_path / "none", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        train(config, dataset, strategies, tmp_path / "kept", Stop(5))
    assert_same(train(config, dataset, strategies[:1], tmp_path / "kept", lambda: None)[0], alone[0])
    with pytest.raises(KeyboardInterrupt):
        train(config, dataset, strategies[:1], tmp_path / "kept", Stop(5))
    state = tmp_path / "kept" / "joint.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    assert_same(train(config, dataset, strategies[:1], tmp_path / "kept", lambda: None)[0], alone[0])


def test_saved_by_the_clock_and_removed_in_the_end(small: Config, made, tmp_path: Path) -> None:
    dataset, strategy = made.dataset(), strategy_of(small)
    seen: list[bool] = []
    checkpoint = StackCheckpoint(tmp_path / "kept", every_s=0.0, poll=lambda: seen.append((tmp_path / "kept").exists()))
    checkpoint.open(["one"], ["digest"])
    train_strategies(small, dataset, [TrainRequest(strategy=strategy)], checkpoint=checkpoint)
    assert True in seen
    folder = tmp_path / "runs" / "one"
    with pytest.raises(KeyboardInterrupt):
        train_run(small, dataset, strategy, folder, poll=Stop(2))
    assert (tmp_path / "runs" / f"{FOLDER}-one" / "about.json").is_file()
    train_run(small, dataset, strategy, folder)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]
    assert read_json(folder / "run.json")["seconds"] > 0


GRID = """
[set]
steps = 18
patience = 18
[product]
lr = [1e-3, 2e-3, 3e-3]
seed = [0, 1]
"""


def search(folder: Path, stop: Callable[[], None], limit: int | None = None) -> tuple[str, list[str]]:
    """Why a search of at most `limit` trials ended, and the names of the runs that are there."""
    config, grid, strategies = read_strategies(read_config(folder / "mtl.toml"), folder / "grid.toml")
    plan = make_plan(config, grid, strategies, folder / "study")
    trainer = make_trainer(plan, "cpu")

    def stopping(stack, advance):
        def poll(count: int) -> None:
            stop()
            advance(count)

        return trainer(stack, poll)

    with open_study(plan.folder, grid, plan.inputs, plan.trials) as study:
        engine, grouping = one_at_a_time(study, stopping), make_grouping(plan, "cpu")
        record = Record(study, grid.fields)
        outcome = run_trials(study, plan.trials, engine, record, grouping=grouping, limit=limit)
    return outcome.stopped, sorted(path.parent.name for path in (folder / "study" / "runs").glob("*/run.json"))


def test_a_search_resumes_the_stack_it_was_stopped_in(made, tmp_path: Path) -> None:
    """Also where the grid has grown meanwhile and fewer trials are asked for than the stack has."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name)
        (tmp_path / name / "grid.toml").write_text(GRID)
    count = Stop(0)
    assert search(tmp_path / "whole", count)[0] == ""
    why, runs = search(tmp_path / "stopped", Stop(count.calls // 2))
    assert (why, runs) == ("Ctrl-C", [])
    shutil.copytree(tmp_path / "stopped", tmp_path / "grown")
    (tmp_path / "grown" / "grid.toml").write_text(GRID.replace("lr = [", "lr = [5e-4, "))
    for name, limit in (("stopped", None), ("grown", 2)):
        rest = Stop(0)
        why, runs = search(tmp_path / name, rest, limit)
        assert (why, len(runs)) == ("", 6), name
        assert rest.calls == count.calls - count.calls // 2, name
    for run in runs:
        tables = [
            pl.read_parquet(tmp_path / name / "study" / "runs" / run / "predictions.parquet")
            for name in ("whole", "stopped", "grown")
        ]
        assert tables[0].equals(tables[1]), run
        assert tables[0].equals(tables[2]), run


def test_what_is_kept_of_a_stack_goes_when_its_runs_are_there(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write(tmp_path)
    (tmp_path / "grid.toml").write_text(GRID)

    def killed(checkpoint: StackCheckpoint) -> None:
        if (checkpoint.folder / "about.json").exists():
            raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(StackCheckpoint, "remove", killed)
        with pytest.raises(SystemExit):
            search(tmp_path, Stop(0))
    runs = tmp_path / "study" / "runs"
    assert any(path.name.startswith(FOLDER) for path in runs.iterdir())
    assert search(tmp_path, Stop(0))[0] == ""
    assert not any(path.name.startswith(FOLDER) for path in runs.iterdir())


def test_a_kill_while_run_folders_are_written_costs_no_training(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of the six in turn; with them the rest is written, to the bit what an undisturbed search writes."""
    for name in ("whole", *map(str, range(6))):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name)
        (tmp_path / name / "grid.toml").write_text(GRID)
    assert search(tmp_path / "whole", count := Stop(0))[0] == ""
    write = run_module.write_run
    for number in range(6):
        written: list[Path] = []

        def killed(folder: Path, *arguments, at: int = number, done: list[Path] = written, **options) -> None:
            if len(done) == at:
                raise SystemExit(137)
            write(folder, *arguments, **options)
            done.append(folder)

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "write_run", killed)
            with pytest.raises(SystemExit):
                search(tmp_path / str(number), Stop(0))
        stood = {folder: folder.joinpath("run.json").is_file() for folder in written}
        assert len(stood) == number
        assert all(stood.values())
        rest = Stop(0)
        why, runs = search(tmp_path / str(number), rest)
        assert (why, len(runs)) == ("", 6)
        assert rest.calls < count.calls / 10, "trained again"
        for run in runs:
            one, other = (
                (tmp_path / name / "study" / "runs" / run / "predictions.parquet").read_bytes()
                for name in ("whole", str(number))
            )
            assert one == other


def test_train_head_is_stopped_by_ctrl_c_and_resumes(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.write(tmp_path)
    words = ["train-head", "--temporal", "gru", "--config", str(tmp_path / "mtl.toml"), "--name", "one"]
    save, calls = StackCheckpoint.save, []

    def ctrl_c(self: StackCheckpoint, model: str, state: Callable[[], dict]) -> None:
        calls.append(model)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        save(self, model, state)

    monkeypatch.setattr(StackCheckpoint, "save", ctrl_c)
    assert run([*words, "--quiet"]) == 130
    assert capsys.readouterr().err == "mtl: stopped; the same command resumes\n"
    assert len(calls) == 3
    assert run(words) in (0, None)
    whole = len(calls)
    assert run([*words, "--force"]) in (0, None)
    assert len(calls) - whole == whole, "nothing was trained twice"


def run(words: list[str]) -> int | None:
    try:
        return app(words, standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
