"""One of several searches of a study in a database, with a trainer that only pretends. No test, but what tests run.

`shared_search FOLDER URL JSON`, where the JSON may have: `seeds` or `product` of the grid, and `study`, its section;
`stack`, trials per stack; `delay_s` of a trial; `die`, the number of the trial in which SIGKILL comes, or "claiming":
when a stack is just its own, or "recording": when one is to be recorded; `skew_s`, by which its clock is off; `fail`,
seeds that fail; `retry_failed`, `limit`, `time_limit_s`, `wait_s`. It notes the seeds that it begins in FOLDER.PID.log,
and prints how it ended.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from helpers import stub_study as stub
from pipelines.search.grid import expand
from pipelines.search.loop import SearchSummary, one_at_a_time, run_trials
from pipelines.search.samplers import next_trials
from pipelines.search.stack_queue import Stack
from pipelines.search.study import Trial, make_trials, open_study, read_study
from pipelines.strategy import Strategy, strategy_of

FRAMES, CONFIG = stub.make_frames(num_videos=3, num_frames=20), stub.make_config()
INPUTS = stub.make_inputs(FRAMES, CONFIG)


def search(folder: Path, url: str, **options: Any) -> tuple[SearchSummary, list[int]]:
    """How the search ended, and the seeds that it trained."""
    from pipelines.search.sharing import sharing

    product = options.get("product") or {"seed": list(range(options.get("seeds", 8)))}
    grid = stub.make_grid({"product": product, "study": {"storage": url, **options.get("study", {})}})
    trials = make_trials(expand(grid, strategy_of(CONFIG)), CONFIG, INPUTS)
    trained: list[int] = []
    limit, retry_failed = options.get("limit"), options.get("retry_failed", False)

    def before(strategy: Strategy) -> None:
        trained.append(strategy.train.seed)
        with folder.with_name(f"{folder.name}.{os.getpid()}.log").open("a") as log:
            log.write(f"{strategy.train.seed}\n")
        if len(trained) == options.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(options.get("delay_s", 0.0))
        if strategy.train.seed in options.get("fail", ()):
            raise ValueError("the loss is not finite")

    def grouping(some: Sequence[Trial]) -> list[Stack]:
        size = options.get("stack", 1)
        return [list(some[start : start + size]) for start in range(0, len(some), size)]

    def choose(left: Sequence[Trial]) -> list[Trial]:
        there = read_study(folder)
        return next_trials(
            grid.study, trials, left, lambda: [there.result(trial) for trial in trials if there.is_finished(trial)]
        )

    with (
        open_study(folder, grid, INPUTS, trials, is_shared=True) as study,
        sharing(study, trials, grid, grouping, choose, retry_failed=retry_failed, halted=True) as (record, queue),
    ):
        engine = one_at_a_time(study, stub.make_trainer(FRAMES, CONFIG, before))
        outcome = run_trials(
            study,
            trials,
            engine,
            record,
            retry_failed=retry_failed,
            limit=limit,
            time_limit_s=options.get("time_limit_s", 0.0),
            grouping=grouping,
            queue=queue,
        )
    return outcome, trained


def hurry(wait_s: float = 60.0) -> None:
    """Hearts beat often, and the dead are missed soon."""
    from pipelines.search import claims, database, sharing

    claims.HEARTBEAT_S, claims.GRACE_S, sharing.POLL_S, database.WAIT_S = 0.4, 3, 0.3, wait_s


def skew(seconds: float) -> None:
    """The clock of this process is off by so much, for all that asks for the time of day."""
    import datetime as module

    from optuna.storages._rdb import storage

    class Skewed(module.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Skewed":
            return cast("Skewed", module.datetime.now(tz) + module.timedelta(seconds=seconds))

    right = time.time
    storage.datetime = Skewed  # type: ignore[attr-defined]
    time.time = lambda: right() + seconds


def main() -> None:
    folder, url, text = sys.argv[1:]
    options = json.loads(text)
    hurry(options.get("wait_s", 60.0))
    if "skew_s" in options:
        skew(options["skew_s"])
    if options.get("die") == "claiming":
        from optuna.storages import RDBStorage

        claim = RDBStorage.set_trial_state_values

        def claimed(self: Any, *words: Any, **named: Any) -> bool:
            claim(self, *words, **named)
            os.kill(os.getpid(), signal.SIGKILL)
            return True

        RDBStorage.set_trial_state_values = claimed  # type: ignore[method-assign]
    if options.get("die") == "recording":
        from pipelines.search.claims import Claims

        Claims.done = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    try:
        outcome, trained = search(Path(folder), url, **options)
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(2) from None
    found = {"trained": trained, "num_done": outcome.num_done, "num_left": outcome.num_left}
    others = {"num_elsewhere": outcome.num_elsewhere, "num_failed": len(outcome.failed), "stopped": outcome.stopped}
    print(json.dumps(found | others))


def command(wait_s: float = 60.0) -> None:
    """`mtl`, without the report, which takes longer than such trainings."""
    from pipelines import cli, studies

    hurry(wait_s)
    studies.write_study_report = lambda *_: None
    cli.main()


def command_soon_without() -> None:
    """`command`, which trains one trial at a time, waits after each, and a second for a database that is gone."""
    from pipelines.training import packing, run

    write = run.write_run

    def write_slowly(*words: Any, **named: Any) -> None:
        write(*words, **named)
        time.sleep(1.0)

    packing.MOST["cpu"], run.write_run = 1, write_slowly
    command(wait_s=1.0)


def killed_in_training() -> None:
    """`command`, killed in its first stack just after that was saved."""
    from pipelines.training.stack_checkpoint import StackCheckpoint

    calls = list[str]()

    def save(self: StackCheckpoint, model: str, state: Any) -> None:
        calls.append(model)
        if len(calls) == 8:
            self._write(model, state())
            os.kill(os.getpid(), signal.SIGKILL)

    StackCheckpoint.save = save  # type: ignore[method-assign]
    command()


def killed_in_writing() -> None:
    """`command`, killed when the first run of a stack is written."""
    from pipelines.training import run

    write = run.write_run

    def write_one(*words: Any, **named: Any) -> None:
        write(*words, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    run.write_run = write_one
    command()
