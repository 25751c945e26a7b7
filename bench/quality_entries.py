"""One contender of Q1 and Q2 and its held-out scores: ours and the rivals' go through the same functions.

Letters: R rows that are scored, K seeds.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.rival_frames import Frames, Predicted
from bench.rival_heads import NAMES, VERSION, fit_rival
from bench.rival_post import post_process
from cache.labels import ABAW
from cache.names import ACTION_UNITS, TASKS, VA_COLUMNS
from pipelines.folds import NO_FOLD, Fold
from pipelines.labels import labels_of
from pipelines.metrics.challenge import main_key, score
from pipelines.metrics.intervals import (
    GroupSums,
    Interval,
    drawn,
    group_sums,
    groups_of_runs,
    interval,
    middle,
    resampled,
)
from pipelines.metrics.predictions import Decisions, Probabilities
from pipelines.splits import groups_of

NUM_RESAMPLES = 500
INPUTS = ("embedding", "both")
# What a rival's user takes as its result: these two are nothing without their post-processing.
POST_PROCESSED = ("linear", "trees", "mlp")
# As their own script has them: embeddings alone.
EMBEDDING_ONLY = tuple(name for name in NAMES if name.startswith("abaw11"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Held-out scores of one training: all metrics, and the sums of every subject from which others are drawn."""

    metrics: Mapping[str, Any]
    sums: GroupSums


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contender: its `held` by seed, numbers it fitted, and CPU seconds of each training."""

    name: str
    inputs: str
    held: Mapping[int, Held]
    num_parameters: int
    seconds: Sequence[float]

    @property
    def scores(self) -> list[float]:
        """P of each seed."""
        return [each.metrics["P"] for each in self.held.values()]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def runs(self) -> dict[Fold, dict[int, GroupSums]]:
        """As `pipelines.metrics.intervals` wants them."""
        return {NO_FOLD: {seed: each.sums for seed, each in self.held.items()}}

    def interval(self) -> Interval:
        """The middle 95 % of the mean P over subjects drawn again."""
        found = interval(self.runs, TASKS)
        assert found is not None, "more than one subject is held out"
        return found

    def task(self, task: str) -> float:
        """The task's mean score over the seeds."""
        return float(np.mean([each.metrics[main_key(ABAW.group(task))] for each in self.held.values()]))

    def words(self) -> str:
        """Everything but P in a line."""
        tasks = ", ".join(f"{task.upper()} {self.task(task):.3f}" for task in TASKS)
        found = self.interval()
        size = f"{self.num_parameters / 1e3:,.0f} k parameters, {np.mean(self.seconds):.0f} s"
        return f"{tasks}; 95 % {found.low:.2f} to {found.high:.2f} over {found.sample.words}; {size}"


def held_out(decisions: Decisions, frames: pl.DataFrame, tasks: Sequence[str] = TASKS) -> Held:
    """Scores of `decisions` [R], row for row with the labels and subjects of `frames`: the rows that are held out."""
    labels = labels_of(frames)
    columns = {"video": frames["video"]}
    for group in ABAW:
        part = decisions.parts.get(group.name, np.zeros((len(frames), len(group.columns))))  # no task asks for these
        part = part[:, None] if part.ndim == 1 else part
        columns |= {name: pl.Series(part[:, k]) for k, name in enumerate(group.columns)}
    table = pl.DataFrame(columns)
    return Held(metrics=score(decisions, labels, tasks), sums=group_sums(table, labels, groups_of(frames)))


def held_out_table(table: pl.DataFrame, frames: pl.DataFrame, tasks: Sequence[str] = TASKS) -> Held:
    """The same of a run's or an ensemble's predictions of `tasks`, matched by video and frame: its part "report" has to
    be exactly the rows `frames`."""
    table = table.filter(pl.col("part") == "report").sort("video", "frame")
    assert table.select("video", "frame").equals(frames.select("video", "frame")), "other rows than the rivals'"
    read = {
        "va": lambda: table.select(VA_COLUMNS).to_numpy().astype(np.float64),
        "expr": lambda: table["expression"].to_numpy().astype(np.int64),
        "au": lambda: table.select(ACTION_UNITS).to_numpy().astype(np.int8),
    }
    return held_out(Decisions(parts={task: read[task]() for task in tasks}), frames, tasks)


def ratio(ours: Entry, theirs: Entry) -> tuple[float, float, float]:
    """Mean P of `ours` over that of `theirs`, and the middle 95 % of it, both on the same subjects drawn again."""
    groups = groups_of_runs([ours.runs, theirs.runs])
    weights = drawn(groups, NUM_RESAMPLES, 0)
    first, second = (resampled(each.runs, groups, weights, TASKS)["P"] for each in (ours, theirs))
    return ours.mean / theirs.mean, *middle(first / second)


def rival_names(inputs: str) -> list[str]:
    """The rivals that are tried with these `inputs`."""
    return [name for name in NAMES if inputs == "embedding" or name not in EMBEDDING_ONLY]


def rival_held(kept: Path, name: str, inputs: str, frames: Frames, table: pl.DataFrame, seed: int) -> "RivalResult":
    """The scores of one training of a rival, plain and post-processed; `table` are the rows of the frames table.

    Its predictions are kept in the folder `kept` and used again as long as data and recipes are the same.
    """
    frames = frames.beside_deviation() if inputs == "both" else frames
    predicted, seconds = _kept(kept / f"{name}-{inputs}-s{seed}.npz", name, frames, seed)
    smooth, thresholds = post_process(predicted, frames)
    rows, held = frames.report, table.filter(frames.report)
    return RivalResult(
        plain=held_out(_probabilities(predicted, rows).decide(), held),
        post=held_out(_probabilities(smooth, rows).decide({"au": thresholds.tolist()}), held),
        num_parameters=predicted.num_parameters,
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalResult:
    """One training of a rival."""

    plain: Held
    post: Held
    num_parameters: int
    seconds: float


def rival_entry(name: str, inputs: str, results: Mapping[int, RivalResult], *, post: bool) -> Entry:
    """The rival's results of all seeds; with `post`, or where it is nothing without, post-processed."""
    processed = post or name in POST_PROCESSED
    return Entry(
        name=name + (" + post" if processed else ""),
        inputs=inputs,
        held={seed: each.post if processed else each.plain for seed, each in results.items()},
        num_parameters=next(iter(results.values())).num_parameters,
        seconds=[each.seconds for each in results.values()],
    )


def _probabilities(predicted: Predicted, rows: np.ndarray) -> Probabilities:
    return Probabilities(parts={"va": predicted.va[rows], "expr": predicted.expr[rows], "au": predicted.au[rows]})


def _kept(path: Path, name: str, frames: Frames, seed: int) -> tuple[Predicted, float]:
    """The rival's predictions and the CPU seconds that they took, from `path` where they are of these very data."""
    digest = _digest(frames)
    if path.exists():
        with np.load(path) as found:
            if str(found["digest"]) == digest:
                values = {key: found[key] for key in ("va", "expr", "au")}
                return Predicted(**values, num_parameters=int(found["num_parameters"])), float(found["seconds"])
    begin = time.process_time()
    predicted = fit_rival(name, frames, seed)
    seconds = time.process_time() - begin
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part.npz")
    np.savez(
        written,
        va=predicted.va,
        expr=predicted.expr,
        au=predicted.au,
        num_parameters=predicted.num_parameters,
        seconds=seconds,
        digest=digest,
    )
    written.rename(path)
    return predicted, seconds


def _digest(frames: Frames) -> str:
    """Of all that a rival sees, and of how it is trained."""
    found = hashlib.blake2b(str(VERSION).encode(), digest_size=16)
    for name in sorted(frames.__dataclass_fields__):
        found.update(np.ascontiguousarray(getattr(frames, name)))
    return found.hexdigest()
