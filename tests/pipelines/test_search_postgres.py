"""Several searches of one study through a real PostgreSQL server; skipped where none is installed."""

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from helpers import shared_search
from helpers.cli import refused, typed
from helpers.postgres import Server, running
from helpers.processes import Running, environment, start
from pipelines.json_files import read_json
from pipelines.search import claims
from pipelines.search.claims import Claims
from pipelines.search.record import Entries, fixed_distributions
from pipelines.search.stack_queue import ClaimLost
from pipelines.search.study import make_trials
from pipelines.strategy import strategy_of

NUM = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as found:
        yield found


def begin(folder: Path, url: str, env: dict[str, str] | None = None, **options: Any) -> Running:
    return start(shared_search.main, folder, url, json.dumps({"seeds": NUM, **options}), env=env)


def end(process: Running, code: int = 0) -> dict[str, Any]:
    found, out, err = process.end()
    assert found == code, (found, out, err)
    return dict(json.loads(out)) if out else {}


def wait_for(what: Callable[[], object], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun(folder: Path, process: Running) -> list[int]:
    """The seeds that it began to train."""
    log = folder.with_name(f"{folder.name}.{process.process.pid}.log")
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def finished(folder: Path) -> int:
    return len(list((folder / "runs").glob("*/run.json")))


def recorded(server: Server, url: str) -> list[tuple[str, str]]:
    """(digest, state) of all entries that say how a trial ended. One that failed and gives no reason does not: it was
    given up, by a process that lost the database between the attributes of an entry and its state."""
    attribute = "JOIN trial_user_attributes {0} ON {0}.trial_id = t.trial_id AND {0}.key = '{1}'"
    joins = " ".join(attribute.format(*pair) for pair in (("d", "digest"), ("f", "folder")))
    reason = "LEFT " + attribute.format("r", "reason")
    says = "t.state <> 'FAIL' OR r.value_json IS NOT NULL"
    rows = server.ask(url, f"SELECT d.value_json, t.state FROM trials t {joins} {reason} WHERE {says}")
    return [(json.loads(str(digest)), str(state)) for digest, state in rows]


def states(server: Server, url: str) -> Counter[str]:
    return Counter(str(state) for (state,) in server.ask(url, "SELECT state FROM trials"))


def assert_whole(server: Server, url: str, folder: Path, num: int = NUM) -> None:
    """Every trial is finished, and recorded once; nothing waits or is in hand."""
    entries = recorded(server, url)
    assert len(entries) == len(set(entries)) == num
    assert {state for _, state in entries} == {"COMPLETE"}
    assert not states(server, url).keys() & {"WAITING", "RUNNING"}
    assert finished(folder) == num


@pytest.mark.slow
def test_several_share_the_trials_and_none_is_trained_twice(server: Server, tmp_path: Path) -> None:
    """The tables and the study too are made by several at once."""
    url = server.url()
    workers = [begin(tmp_path / "s", url, seeds=24, stack=2, delay_s=0.02) for _ in range(3)]
    found = [end(worker) for worker in workers]
    assert Counter(seed for each in found for seed in each["trained"]) == Counter(range(24))
    assert sum(each["num_done"] for each in found) == 24
    assert all(each["num_left"] == 0 for each in found)
    assert_whole(server, url, tmp_path / "s", 24)


@pytest.mark.slow
def test_what_a_killed_search_had_in_hand_another_takes(server: Server, tmp_path: Path) -> None:
    """Killed as soon as a stack is claimed, in its second trial, and just before it is recorded."""
    url, folder = server.url(), tmp_path / "s"
    killed = list[Running]()
    for die in ("claiming", 2, "recording"):
        killed.append(begin(folder, url, stack=2, die=die))
        end(killed[-1], -signal.SIGKILL)
    found = end(begin(folder, url, stack=2, delay_s=0.1))
    assert found["num_left"] == 0
    assert [begun(folder, each) for each in killed] == [[], [2, 3], [4, 5]]
    assert sorted(found["trained"]) == [0, 1, 3, 6, 7], "runs that are there are recorded, not trained again"
    assert_whole(server, url, folder)
    assert states(server, url)["FAIL"] == 3


def test_a_search_that_stood_still_gives_up_what_another_took(server: Server, tmp_path: Path) -> None:
    url, folder = server.url(), tmp_path / "s"
    frozen = begin(folder, url, seeds=2, delay_s=1.0)
    wait_for(lambda: begun(folder, frozen))
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        other = end(begin(folder, url, seeds=2))
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    assert sorted(other["trained"]) == [0, 1]
    late = end(frozen)
    assert (len(late["trained"]), late["num_done"], late["num_left"]) == (1, 0, 0)
    assert_whole(server, url, folder, 2)


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_gives_back_what_was_in_hand(server: Server, tmp_path: Path, number: int, words: str) -> None:
    url, folder = server.url(), tmp_path / "s"
    worker = begin(folder, url, delay_s=0.5)
    wait_for(lambda: begun(folder, worker))
    os.kill(worker.process.pid, number)
    assert end(worker)["stopped"] == words
    assert states(server, url).keys() <= {"WAITING", "COMPLETE"}
    assert end(begin(folder, url, time_limit_s=60))["num_left"] == 0
    assert_whole(server, url, folder)


@pytest.mark.long
@pytest.mark.slow
def test_a_database_that_goes_away_and_comes_back_costs_nothing(server: Server, tmp_path: Path) -> None:
    """It stays away for longer than the grace: nobody is given up for that."""
    url, folder = server.url(), tmp_path / "s"
    workers = [begin(folder, url, seeds=12, delay_s=0.3) for _ in range(2)]
    wait_for(lambda: finished(folder) >= 2)
    for number in (signal.SIGINT, signal.SIGQUIT):
        server.stop(number)
        time.sleep(4.0)
        server.start()
        time.sleep(1.0)
    found = [end(worker) for worker in workers]
    assert Counter(seed for each in found for seed in each["trained"]) == Counter(range(12))
    assert_whole(server, url, folder, 12)


def test_a_database_that_stays_away_is_one_line_and_costs_no_run(server: Server, tmp_path: Path) -> None:
    url, folder = server.url(), tmp_path / "s"
    worker = begin(folder, url, delay_s=0.3, wait_s=1.0)
    wait_for(lambda: finished(folder))
    server.stop()
    try:
        error = end(worker, 2)["error"]
    finally:
        server.start()
    assert error.startswith("[study] storage postgresql:...: gone for 1 s: ")
    assert error.endswith("finished runs are kept: put the database right and type the same command again")
    assert "\n" not in error
    kept = finished(folder)
    found = end(begin(folder, url))
    assert len(found["trained"]) == NUM - kept
    assert_whole(server, url, folder)


@pytest.mark.long
def test_nobody_is_given_up_for_silence_that_the_database_could_not_hear(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 1e6)
    monkeypatch.setattr(claims, "GRACE_S", 2)
    url = server.url()
    trial = make_trials([strategy_of(shared_search.CONFIG)], shared_search.CONFIG, shared_search.INPUTS)[0]
    entries = Entries(tmp_path, ["seed"], fixed_distributions(["seed"]))

    def in_hand(after: Callable[[Claims], object]) -> bool:
        """Whether a stack that was silent for longer than the grace is in hand still, as another process sees it."""
        other = Claims(url, "s", "there", [trial.digest], {})
        after(other)
        with other.turn():
            other.reclaim()
        found = bool(other.entries().running)
        other.close()
        return found

    silent = Claims(url, "s", "here", [trial.digest], {})
    with silent.turn() as turn:
        silent.give_out([entries.waiting(trial, [trial.digest])], turn)
    assert silent.claim(silent.entries().waiting) == (trial.digest,)
    time.sleep(2.5)
    assert in_hand(lambda other: other._note_gone()), "this process could not reach it a moment ago"
    server.stop()
    server.start()
    assert in_hand(lambda other: None), "it has just been started"
    time.sleep(2.5)
    assert not in_hand(lambda other: None)
    with pytest.raises(ClaimLost):
        silent.confirm()
    silent.close()


@pytest.mark.long
@pytest.mark.slow
def test_clocks_that_are_off_by_an_hour_and_other_zones_change_nothing(server: Server, tmp_path: Path) -> None:
    """Each trial takes longer than the grace, so a heartbeat that seems an hour old would be given up."""
    url, folder = server.url(), tmp_path / "s"
    clocks = [(3600, "Etc/GMT-1"), (-3600, "Etc/GMT+1"), (0, "UTC")]
    workers = [
        begin(folder, url, environment(PGTZ=zone), seeds=3, delay_s=4.0, skew_s=seconds) for seconds, zone in clocks
    ]
    trained = Counter(seed for worker in workers for seed in end(worker)["trained"])
    assert trained == Counter(range(3))
    assert not states(server, url)["FAIL"]
    assert_whole(server, url, folder, 3)


@pytest.mark.slow
def test_failures_are_shared_and_tried_again_once(server: Server, tmp_path: Path) -> None:
    url, folder = server.url(), tmp_path / "s"
    found = [end(worker) for worker in [begin(folder, url, stack=4, fail=[1, 6]) for _ in range(2)]]
    assert [each["num_failed"] for each in found] == [2, 2]
    assert len(read_json(folder / "failed.json")) == 3  # and the seal
    again = [end(worker) for worker in [begin(folder, url, retry_failed=True, fail=[1]) for _ in range(2)]]
    assert sorted({seed for each in again for seed in each["trained"]}) == [1, 6]
    assert [each["num_failed"] for each in again] == [1, 1]
    assert finished(folder) == NUM - 1


@pytest.mark.slow
def test_searches_may_write_to_folders_of_their_own(server: Server, tmp_path: Path) -> None:
    url = server.url()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [tmp_path / "a" / "s", tmp_path / "b" / "s"]
    found = [end(each) for each in [begin(folder, url, delay_s=0.2) for folder in folders]]
    counts = [finished(folder) for folder in folders]
    assert sum(counts) == NUM
    assert [each["num_elsewhere"] for each in found] == [NUM - count for count in counts]
    for run in (folders[1] / "runs").iterdir():
        shutil.copytree(run, folders[0] / "runs" / run.name)
    together = end(begin(folders[0], url))
    assert (together["trained"], together["num_elsewhere"], finished(folders[0])) == ([], 0, NUM)
    shutil.rmtree(min((folders[1] / "runs").iterdir()))  # a run that is lost is made again, where it was made
    assert len(end(begin(folders[1], url))["trained"]) == 1


@pytest.mark.slow
def test_a_sampler_that_goes_by_results_tries_no_more_than_it_should(server: Server, tmp_path: Path) -> None:
    """It asks for more while stacks are in other hands."""
    url, rates = server.url(), [1e-4 * n for n in range(1, 21)]
    options = {"product": {"lr": rates}, "study": {"sampler": "tpe", "trials": 11}, "delay_s": 0.1}
    found = [end(worker) for worker in [begin(tmp_path / "s", url, **options) for _ in range(2)]]
    assert sum(each["num_done"] for each in found) == 11
    assert_whole(server, url, tmp_path / "s", 11)


def test_a_grid_may_grow_and_no_more(server: Server, tmp_path: Path) -> None:
    """By values of every kind: numbers, choices, and names that a schema gives."""
    url, folder = server.url(), tmp_path / "s"
    first = {"product": {"seed": [0, 1], "temporal": ["none"], "tasks": [["va"]]}}
    grown = {"product": {"seed": [0, 1, 2], "temporal": ["none", "gru"], "tasks": [["va"], ["va", "au"]]}}
    assert len(end(begin(folder, url, limit=1, **first))["trained"]) == 1
    assert len(end(begin(folder, url, stack=2, **grown))["trained"]) == 11
    assert_whole(server, url, folder, 12)
    error = end(begin(folder, url, **first), 2)["error"]
    assert "its study 's' has 10 of 12 trials that this grid has not on these data" in error
    assert error.endswith("name another study with --study")


@pytest.mark.long
@pytest.mark.slow
def test_a_grid_may_grow_while_a_search_of_the_smaller_one_runs(server: Server, tmp_path: Path) -> None:
    url, folder = server.url(), tmp_path / "s"
    before = begin(folder, url, delay_s=0.5)
    wait_for(lambda: begun(folder, before))
    grown = begin(folder, url, seeds=2 * NUM, delay_s=0.2, stack=3)
    found = [end(worker) for worker in (before, grown)]
    assert Counter(seed for each in found for seed in each["trained"]) == Counter(range(2 * NUM))
    assert set(found[0]["trained"]) < set(range(NUM))
    assert [each["num_left"] for each in found] == [0, 0]
    assert_whole(server, url, folder, 2 * NUM)


def test_a_stack_of_a_grown_grid_is_no_claim_of_the_smaller_one(server: Server, tmp_path: Path) -> None:
    url, strategy = server.url(), strategy_of(shared_search.CONFIG)
    strategies = [strategy.changed({"seed": seed}) for seed in range(3)]
    trials = make_trials(strategies, shared_search.CONFIG, shared_search.INPUTS)
    entries, digests = Entries(tmp_path, ["seed"], fixed_distributions(["seed"])), [one.digest for one in trials]
    ways = {"halving": 0}
    small, grown = Claims(url, "s", "here", digests[:2], ways), Claims(url, "s", "there", digests, ways)
    try:
        with pytest.raises(ValueError, match="its study 's' was begun with halving = 0; write the same under"):
            Claims(url, "s", "there", digests, {"halving": 2})
        with grown.turn() as turn:
            grown.give_out([entries.waiting(trials[1], digests[1:]), entries.waiting(trials[2], digests[2:])], turn)
        found = small.entries()
        assert (len(found.waiting), list(found.mixed.values())) == (0, [(digests[1],)])
        assert found.open == {digests[1]}, "its trials are not given out a second time"
        with small.turn():
            small.withdraw(found.mixed)
        assert not small.entries().open
        assert grown.claim(grown.entries().waiting) == tuple(digests[2:])
    finally:
        small.close()
        grown.close()


GRIDS = {"alone": "alone", "s": "grid"}  # by study
GRID = """
[study]
storage = "URL"
[product]
temporal = ["none", "gru"]
seed = [0, 1]
"""


def leaves(found: Any, name: str = "") -> dict[str, Any]:
    """Every value of a JSON document, by its path."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else None
    if items is None:
        return {name: found}
    return {key: leaf for part, value in items for key, leaf in leaves(value, f"{name}.{part}").items()}


@pytest.mark.long
@pytest.mark.slow
def test_commands_that_share_end_with_the_leaderboard_of_one(server: Server, project: Path) -> None:
    (project / "grid.toml").write_text(GRID.replace("URL", server.url()))
    (project / "alone.toml").write_text(GRID.replace("URL", ""))
    options = {name: ["search", "--grid", f"{grid}.toml", "--study", name] for name, grid in GRIDS.items()}
    for killed in (shared_search.killed_in_training, shared_search.killed_in_writing):
        assert start(killed, *options["s"], cwd=project).end()[0] == -signal.SIGKILL
    assert 0 < finished(project / "s") < 4
    for process in [start(shared_search.command, *options[name], cwd=project) for name in ("alone", "s", "s")]:
        code, out, err = process.end()
        assert code == 0, (out, err)
        assert "ranked by the selection score" in out
    alone, shared = (read_json(project / name / "leaderboard.json") for name in GRIDS)
    assert leaves(shared).keys() == leaves(alone).keys()
    other = {key for key, value in leaves(shared).items() if value != leaves(alone)[key]}
    assert {key.rpartition(".")[2] for key in other} <= {"study", "grid", "seconds"}
    tables = [pl.read_csv(project / name / "leaderboard.csv").drop("seconds") for name in GRIDS]
    assert tables[0].equals(tables[1], null_equal=True)
    assert not (project / "s" / "study.journal").exists()
    error = refused("search", "--grid", "grid.toml", "--study", "s", "--shard", "1/2")
    assert "shares the trials among all searches; leave out --shard" in error


@pytest.mark.long
@pytest.mark.slow
def test_a_command_whose_database_stays_away_is_one_line_and_goes_on_later(server: Server, project: Path) -> None:
    """Gone before it begins, and while it trains."""
    (project / "grid.toml").write_text(GRID.replace("URL", server.url()))
    words, lost = ("search", "--grid", "grid.toml", "--study", "s", "--quiet"), "[study] storage postgresql:..."
    server.stop()
    try:
        code, _, err = typed(*words)
        assert (code, err.count("\n"), finished(project / "s")) == (2, 1, 0)
        assert err.startswith(f"mtl: error: {lost}: ")
        server.start()
        process = start(shared_search.command_soon_without, *words, cwd=project)
        wait_for(lambda: finished(project / "s"))
        server.stop()
        code, out, err = process.end()
    finally:
        server.stop()
        server.start()
    assert (code, out.count("ranked"), err.count("\n")) == (2, 0, 1), (out, err)
    assert err.startswith(f"mtl: error: {lost}: gone for 1 s: ")
    kept = finished(project / "s")
    code, out, err = start(shared_search.command, *words, cwd=project).end()
    assert (code, 0 < kept < 4) == (0, True), (out, err)
    assert f"4 trials: {kept} finished before, {4 - kept} to run" in out


def test_a_password_does_not_belong_in_a_grid(project: Path) -> None:
    for url in ("postgresql://me:secret@host/db", "postgresql://me@host/db?password=secret"):
        (project / "grid.toml").write_text(GRID.replace("URL", url))
        error = refused("search", "--grid", "grid.toml")
        assert "set PGPASSWORD or write ~/.pgpass" in error
        assert "secret" not in error
