"""One of several searches of a study in a database, with a trainer that only pretends. No test, but what tests run.

`shared_search FOLDER URL JSON`: in the JSON `seeds` of the grid, `delay_s` of a trial, `stack` trials per stack, `die`
(SIGKILL in the so-manieth trial), `freeze_s` (the first trial stands still, heart and all), `skew_s` (its clock is
off), `fail` (seeds that fail), `retry_failed`, `limit`, `grace_s`, `wait_s`. Prints what it trained.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import stub_study as stub
from pipelines.search.grid import expand
from pipelines.search.loop import SearchSummary, one_at_a_time, run_trials
from pipelines.search.stack_queue import Stack
from pipelines.search.study import Trial, make_trials, open_study
from pipelines.strategy import Strategy, strategy_of

FRAMES, CONFIG = stub.make_frames(num_videos=3, num_frames=20), stub.make_config()
INPUTS = stub.make_inputs(FRAMES, CONFIG)


def search(folder: Path, url: str, **options: Any) -> tuple[SearchSummary, list[int]]:
    """How the search ended, and the seeds that it trained."""
    from pipelines.search.sharing import SharedRecord, SharedStacks, sharing

    document = {"product": {"seed": list(range(options.get("seeds", 8)))}, "study": {"storage": url}}
    grid = stub.make_grid(document | options.get("grid", {}))
    trials = make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, INPUTS)
    trained: list[int] = []
    limit, retry_failed = options.get("limit"), options.get("retry_failed", False)

    def before(strategy: Strategy) -> None:
        trained.append(strategy.train.seed)
        if len(trained) == options.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(options.get("delay_s", 0.0))
        if strategy.train.seed in options.get("fail", ()):
            raise ValueError("the loss is not finite")

    def grouping(some: Sequence[Trial]) -> list[Stack]:
        size = options.get("stack", 1)
        return [list(some[start : start + size]) for start in range(0, len(some), size)]

    with (
        open_study(folder, grid, INPUTS, trials, is_shared=True) as study,
        sharing(study, trials, grid.study) as claims,
    ):
        record = SharedRecord(claims, study, trials, grid.fields)
        queue = SharedStacks(
            claims,
            record,
            study,
            trials,
            grouping,
            options.get("choose", list),
            num_wanted=None,
            retry_failed=retry_failed,
            halted=True,
            advance=lambda count: None,
            on_waiting=lambda count: None,
        )
        engine = one_at_a_time(study, stub.make_trainer(FRAMES, CONFIG, before))
        outcome = run_trials(
            study, trials, engine, record, retry_failed=retry_failed, limit=limit, grouping=grouping, queue=queue
        )
    return outcome, trained


def hurry(grace_s: int = 2, wait_s: float = 60.0) -> None:
    """Hearts beat every second, and the dead are missed soon."""
    from pipelines.search import claims, database, sharing

    claims.HEARTBEAT_S, claims.GRACE_S, sharing.POLL_S, database.WAIT_S = 1, grace_s, 0.3, wait_s


def main() -> None:
    folder, url, text = sys.argv[1:]
    options = json.loads(text)
    hurry(options.get("grace_s", 2), options.get("wait_s", 60.0))
    try:
        outcome, trained = search(Path(folder), url, **options)
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(2) from None
    found = {"trained": trained, "num_done": outcome.num_done, "num_left": outcome.num_left}
    print(json.dumps({**found, "num_elsewhere": outcome.num_elsewhere, "failed": len(outcome.failed)}))
