"""One side of a comparison of M: a strategy trained, and the difference of two.

A strategy is a study of its seeds, trained as one stack and scored once on the held-out rows. The interval is over
subjects drawn again, the same ones for both sides.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl

from bench.measure import Row
from bench.method_pieces import CLASS_UNITS, SMALL, UNITS_FILE, Side, Values
from bench.quality import NUM_SEEDS, Made, num_parameters
from bench.quality_data import run_command
from bench.quality_entries import NUM_RESAMPLES, Entry, held_out_table
from cache.names import ACTION_UNITS, EXPRESSIONS, TASKS
from pipelines.metrics.intervals import drawn, groups_of_runs, middle, resampled
from pipelines.postprocess import fit


def entry_of(made: Made, side: Side, tasks: Sequence[str] = TASKS) -> Entry:
    """The held-out scores of a strategy's seeds."""
    study, seconds = trained(made, side.values)
    held, num = {}, 0
    for run in sorted((study / "runs").iterdir()):
        seed = json.loads((run / "run.json").read_text())["seed"]
        held[seed] = held_out_table(predictions(made, run, side), made.held, tasks)
        num = num_parameters(run)
    assert len(held) == NUM_SEEDS, f"{study}: {len(held)} of {NUM_SEEDS} runs"
    return Entry(name=study.name, inputs="default", held=held, num_parameters=num, seconds=[seconds])


def trained(made: Made, values: Values, first_seed: int = 0) -> tuple[Path, float]:
    """A study of the strategy with `values` and nothing else set, and the CPU seconds of one of its trainings; a study
    that was trained before is read."""
    study = made.project / "studies" / (name_of(values) + (f"_from_{first_seed}" if first_seed else ""))
    record = study / "bench.json"
    if not record.exists():
        grid = made.project / f"{study.name}.toml"
        grid.write_text(grid_of(values, first_seed))
        np.save(made.project / UNITS_FILE, class_units())
        begin = time.process_time()
        with contextlib.chdir(made.project):
            run_command(["search", "--grid", str(grid), "--study", str(study), "--device", "cpu"])
        record.write_text(json.dumps((time.process_time() - begin) / NUM_SEEDS))
    return study, float(json.loads(record.read_text()))


def predictions(made: Made, run: Path, side: Side) -> pl.DataFrame:
    """The run's predictions of the held-out rows, over views or post-processed where the side asks for it."""
    with contextlib.chdir(made.project):
        if side.views:
            return over_views(run, side.views)
        if side.post:
            with only(side.post):
                run_command(["postprocess", str(run), "--force", "--json"])
    processed = run / "predictions.post.parquet"
    return pl.read_parquet(processed if side.post and processed.exists() else run / "predictions.parquet")


def over_views(run: Path, views: Sequence[str]) -> pl.DataFrame:
    """The mean over `views` of the test rows: those that are held out in the made data."""
    words, table = ",".join(views), run / "views.parquet"
    run_command(["extract", "--views", words, "--device", "cpu"])
    run_command(["predict", str(run), "--split", "test", "--no-post", "--views", words, "--out", str(table), "--force"])
    return pl.read_parquet(table).with_columns(part=pl.lit("report"))


@contextlib.contextmanager
def only(components: Sequence[str]) -> Iterator[None]:
    """Nothing but these components of post-processing are tried."""
    options = {
        kind: tuple(each for each in options if set(each) <= set(components)) for kind, options in fit.OPTIONS.items()
    }
    with patch.object(fit, "OPTIONS", options):
        yield


def class_units() -> np.ndarray:
    """[classes, units + 1] 1 where an expression shows an action unit, and a last column of 1 for those without."""
    shown = [[f"AU{unit}" for unit in CLASS_UNITS[name]] for name in EXPRESSIONS]
    return np.array([[*(name in units for name in ACTION_UNITS), True] for units in shown], dtype=np.float32)


def name_of(values: Values) -> str:
    """A folder's name: what is set."""
    words = [f"{key}-{value}" for key, value in values.items()] or ["nothing set"]
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in " ".join(words))[:120]


def grid_of(values: Values, first_seed: int = 0) -> str:
    """A grid of one strategy, small, and all seeds."""
    seeds = list(range(first_seed, first_seed + NUM_SEEDS))
    lines = [f"{_key(key)} = {_toml(value)}" for key, value in (SMALL | values).items()]
    return "\n".join(["[set]", *lines, "[product]", f"seed = {seeds}", ""])


def _key(name: str) -> str:
    return json.dumps(name) if "." in name else name


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def compared(name: str, ours: Entry, base: Entry, tasks: Sequence[str] = TASKS) -> Row:
    """Mean P over `tasks` of `ours` minus that of `base`, and the middle 95 % of it over subjects drawn again."""
    low, high = difference(ours, base, tasks)
    gains = {task: ours.task(task) - base.task(task) for task in tasks}
    parts = ", ".join(f"{task.upper()} {ours.task(task):.3f} ({gain:+.3f})" for task, gain in gains.items())
    scores = ", ".join(f"{value:.3f}" for value in ours.scores)
    size = f"{ours.num_parameters / 1e3:,.0f} k ({base.num_parameters / 1e3:,.0f} k)"
    cost = f"{np.mean(ours.seconds):.1f} s ({np.mean(base.seconds):.1f} s)"
    return Row(
        id=name,
        what="held-out P minus that without the piece",
        values=[low, ours.mean - base.mean, high],
        middle=ours.mean - base.mean,
        note=f"P {ours.mean:.3f} ({scores}) for {base.mean:.3f}; {parts}; parameters {size}, CPU {cost}",
    )


def difference(ours: Entry, base: Entry, tasks: Sequence[str] = TASKS) -> tuple[float, float]:
    """The middle 95 % of the difference of both mean P, on the same subjects drawn again."""
    groups = groups_of_runs([ours.runs, base.runs])
    weights = drawn(groups, NUM_RESAMPLES, 0)
    first, second = (resampled(each.runs, groups, weights, tasks)["P"] for each in (ours, base))
    return middle(first - second)
