"""Several searches of one study through a real PostgreSQL server; skipped where none is installed."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import shared_search
from helpers.postgres import Server, running
from helpers.processes import Running, start


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as found:
        yield found


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("claims.HEARTBEAT_S", 1), ("claims.GRACE_S", 2), ("sharing.POLL_S", 0.3)):
        monkeypatch.setattr(f"pipelines.search.{name}", value)


def begin(folder: Path, url: str, env: dict[str, str] | None = None, **options: Any) -> Running:
    return start(shared_search.main, folder, url, json.dumps(options), env=env)


def end(process: Running) -> dict[str, Any]:
    code, out, err = process.end()
    assert code == 0, (code, out, err)
    found: dict[str, Any] = json.loads(out)
    return found


def recorded(server: Server, url: str) -> list[tuple[str, str]]:
    """(digest, state) of all entries that say how a trial ended."""
    attribute = "JOIN trial_user_attributes {0} ON {0}.trial_id = t.trial_id AND {0}.key = '{1}'"
    joins = " ".join(attribute.format(*pair) for pair in (("d", "digest"), ("f", "folder")))
    rows = server.ask(url, f"SELECT d.value_json, t.state FROM trials t {joins}")
    return [(json.loads(str(digest)), str(state)) for digest, state in rows]


def test_several_share_the_trials_and_none_is_trained_twice(server: Server, tmp_path: Path) -> None:
    url = server.url()
    workers = [begin(tmp_path / "s", url, seeds=24, stack=2, delay_s=0.02) for _ in range(4)]
    found = [end(worker) for worker in workers]
    assert Counter(seed for each in found for seed in each["trained"]) == Counter(range(24))
    assert sum(each["num_done"] for each in found) == 24
    assert all(each["num_left"] == 0 for each in found)
    entries = recorded(server, url)
    assert len(entries) == len(set(entries)) == 24
    assert {state for _, state in entries} == {"COMPLETE"}
    assert len(list((tmp_path / "s" / "runs").glob("*/run.json"))) == 24
