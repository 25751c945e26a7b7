"""`--track`: a tracker gets a copy of what our own files say, and nothing happens without its package."""

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from helpers.cli import call, refused
from pipelines import studies
from pipelines.json_files import read_json
from pipelines.trackers import TRACKERS, Tracked, check_tracker, config_of, open_tracker


class FakeRun:
    """A run of a made wandb: what it is given."""

    def __init__(self, **begun: Any) -> None:
        self.begun, self.logged, self.metrics, self.summary, self.num_ended = begun, [], [], {}, 0

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: Mapping[str, float]) -> None:
        self.logged.append(dict(values))

    def finish(self) -> None:
        self.num_ended += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs that a made wandb has begun."""
    runs: list[FakeRun] = []
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.Settings = dict  # type: ignore[attr-defined]
    module.init = lambda **begun: runs.append(FakeRun(**begun)) or runs[-1]  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def history(run: Path) -> list[dict[str, Any]]:
    return pl.read_csv(run / "history.csv").to_dicts()


def test_a_head_is_tracked_while_it_trains(project: Path, wandb: list[FakeRun]) -> None:
    call("train-head", "--name", "apart", "--method", "separate", "--track", "wandb")
    (run,) = wandb
    assert (run.begun["name"], run.begun["project"]) == ("apart", project.name)
    assert run.begun["config"]["method"] == "separate"
    assert run.begun["settings"]["console"] == "off"
    assert run.metrics == [(f"{name}/*", f"{name}/step") for name in ("va", "expr", "au")]
    rows = history(project / "runs/apart")
    logged = [(row["model"], row["step"], row["P"]) for row in rows]
    found = [
        (model, values[f"{model}/step"], values[f"{model}/P"])
        for values in run.logged
        for model in [next(iter(values)).partition("/")[0]]
    ]
    assert [one[:2] for one in sorted(found)] == [one[:2] for one in sorted(logged)]
    assert [one[2] for one in sorted(found)] == pytest.approx([one[2] for one in sorted(logged)])
    metrics = read_json(project / "runs/apart/metrics.json")
    assert run.summary["report.P"] == metrics["report"]["P"]
    assert run.summary["select.va.ccc_mean"] == metrics["select"]["va.ccc_mean"]
    assert run.num_ended == 1
    call("train-head", "--name", "apart", "--method", "separate", "--track", "wandb")  # found: nothing to track
    assert len(wandb) == 1


def test_of_a_search_the_runs_of_this_search_are_tracked(
    project: Path, wandb: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "write_study_report", lambda *_: None)
    Path("g.toml").write_text('[product]\ntemporal = ["none", "gru"]\nseed = [0, 1]\n[set]\nsteps = 6\n')
    call("search", "--grid", "g.toml", "--limit", "1")
    assert wandb == []
    call("search", "--grid", "g.toml", "--track", "wandb")
    runs = {run.begun["name"]: run for run in wandb}
    assert len(wandb) == len(runs) == 3
    for name, run in runs.items():
        folder = project / "studies/g/runs" / name.removeprefix("g-")
        assert [values["joint/P"] for values in run.logged] == pytest.approx([row["P"] for row in history(folder)])
        assert run.summary["select.P"] == read_json(folder / "metrics.json")["select"]["P"]
        assert run.num_ended == 1


def test_a_stopped_training_is_closed(project: Path, wandb: list[FakeRun], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: FakeRun, values: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRun, "log", stop)
    from helpers.cli import invoke

    invoke("train-head", "--name", "stopped", "--track", "wandb", code=130)
    assert wandb[0].num_ended == 1
    assert wandb[0].summary == {}
    assert not (project / "runs/stopped").exists()


def test_trackio_has_the_interface_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    module = ModuleType("trackio")
    module.init = lambda **begun: said.append(begun)  # type: ignore[attr-defined]
    module.log = lambda values, step=None: said.append((values, step))  # type: ignore[attr-defined]
    module.finish = lambda: said.append("finished")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    tracker = open_tracker("trackio", Tracked(name="n", config={"a": 1}, home=Path("/x/home")))
    tracker.log("va", 3, {"P": 0.5})
    tracker.finish({"report.P": 1.0})
    begun = {"project": "home", "name": "n", "config": {"a": 1}}
    assert said == [begun, ({"va/P": 0.5}, 3), ({"report.P": 1.0}, None), "finished"]


def test_tensorboard_for_real(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, an optional extra, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tracker("tensorboard", Tracked(name="n", config={"temporal": "gru"}, home=tmp_path))
    tracker.log("va", 3, {"P": 0.5})
    tracker.finish({"report.P": 1.0})
    found = EventAccumulator(str(tmp_path / "tensorboard/n"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("va/P")] == [(3, 0.5)]
    assert found.Scalars("report.P")[0].value == 1.0


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.usefixtures("project")
def test_without_the_package_one_line_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else found(wanted, *rest)
    )
    line = refused("train-head", "--track", name)
    assert f"{name} is not installed; pip install 'mtl-affect[{name}]'" in line
    assert not Path("runs").exists()
    for command in (("search", "--grid", "g.toml"), ("finetune", "--task", "va")):
        assert "--track nothing: unknown tracker; known: tensorboard, wandb, trackio" in refused(
            *command, "--track", "nothing"
        )


def test_a_broken_package_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"--track trackio: .*pip install 'mtl-affect\[trackio\]'"):
        open_tracker("trackio", Tracked(name="n", config={}, home=Path()))
    check_tracker("")


def test_what_is_no_scalar_is_text() -> None:
    assert config_of({"tasks": ["va"], "lr": 0.1, "views": {}, "x": None}) == {
        "tasks": "['va']", "lr": 0.1, "views": "{}", "x": "None",
    }  # fmt: skip
