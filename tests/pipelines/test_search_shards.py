"""`mtl search --shard`: several processes in one study folder, each with its own trials."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers import stub_study as stub
from helpers.cli import invoke, refused
from pipelines import studies
from pipelines.search.grid import expand
from pipelines.search.loop import NoRecord, one_at_a_time, run_trials
from pipelines.search.study import make_trials, open_study
from pipelines.strategy import strategy_of

GRID = """
[product]
temporal = ["none", "gru"]
seed = [0, 1, 2]
"""
CONFIG, FRAMES = stub.make_config(), stub.make_frames()
INPUTS = stub.make_inputs(FRAMES, CONFIG)
MADE = stub.make_grid({"product": {"seed": list(range(6))}})
TRIALS = make_trials(expand(MADE, strategy_of(CONFIG)), CONFIG, INPUTS)


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (project / "small.toml").write_text(GRID)
    monkeypatch.setattr(studies, "write_study_report", lambda *_: None)
    return project


def search(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke("search", "--grid", "small.toml", *words, "--json").stdout)
    return found


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return list(found["rankings"][0]["rows"])


def test_shards_and_a_last_search_make_the_leaderboard_of_one_process(project: Path) -> None:
    whole = search("--study", "whole", "--set", "train.steps=6")
    parts = [search("--study", "parts", "--set", "train.steps=6", "--shard", f"{n}/4") for n in (3, 1, 4, 2)]
    assert [part["shard"] for part in parts] == ["3/4", "1/4", "4/4", "2/4"]
    assert sum(part["num_done"] for part in parts) == 6
    assert all(part["num_left"] == 0 and part["num_before"] == 0 for part in parts)
    assert not (project / "parts" / "leaderboard.json").exists()
    assert not (project / "parts" / "study.journal").exists()
    last = search("--study", "parts", "--set", "train.steps=6")
    assert (last["num_before"], last["num_done"]) == (6, 0)
    for mine, one in zip(rows(last), rows(whole), strict=True):
        assert mine["runs"] == one["runs"]
        for part in ("select", "report"):
            assert mine[part]["P"]["mean"] == pytest.approx(one[part]["P"]["mean"], abs=1e-4)


def test_parts_are_the_same_whatever_is_finished(project: Path) -> None:
    search("--limit", "2", "--set", "train.steps=2")
    counts = [search("--shard", f"{n}/2", "--set", "train.steps=2") for n in (1, 2)]
    assert sum(part["num_done"] for part in counts) == 4
    assert [part["num_before"] + part["num_done"] for part in counts] == [3, 3]
    again = search("--shard", "1/2", "--set", "train.steps=2")
    assert (again["num_before"], again["num_done"]) == (3, 0)


def test_what_has_no_parts_is_refused(project: Path) -> None:
    (project / "small.toml").write_text(f'[study]\nsampler = "tpe"\ntrials = 2\n{GRID}')
    assert "has no parts; use sampler = 'random'" in refused("search", "--grid", "small.toml", "--shard", "1/2")
    assert "leave out --shard" in refused("search", "--grid", "small.toml", "--shard", "1/2", "--dry-run")
    assert not (project / "studies" / "small").exists()


def test_parts_that_overlap_and_whole_searches_keep_each_other_out(tmp_path: Path) -> None:
    def opened(part: tuple[int, int]) -> Any:
        return open_study(tmp_path / "s", MADE, INPUTS, TRIALS, part=part)

    with opened((1, 2)):
        with opened((2, 2)):
            pass
        for part in ((1, 2), (1, 1), (1, 3)):
            with pytest.raises(ValueError, match=r"this study.* is being written by process"), opened(part):
                pass
    with opened((1, 1)), pytest.raises(ValueError, match="is being written by"), opened((1, 2)):
        pass


def test_failures_of_several_at_once_are_all_kept(tmp_path: Path) -> None:
    """Each rewrites failed.json, in turn."""

    def fail(strategy: Any) -> None:
        raise ValueError(f"seed {strategy.train.seed} fails")

    def work(number: int) -> None:
        with open_study(tmp_path / "s", MADE, INPUTS, TRIALS, part=(number, 6)) as study:
            trainer = stub.make_trainer(FRAMES, CONFIG, fail)
            run_trials(study, TRIALS[number - 1 : number], one_at_a_time(study, trainer), NoRecord())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_study(tmp_path / "s", MADE, INPUTS, TRIALS) as study:
        assert sorted(entry["reason"] for entry in study.failures().values()) == [f"seed {n} fails" for n in range(6)]
