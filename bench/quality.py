"""Q1 and Q2: held-out scores of heads on the same embeddings, ours against those of `bench.rival_heads`.

Two made data sets, three seeds; all train, select and are scored once on the same rows.
Rows are printed as they come; what rivals predicted is kept beside the data, so that a second measurement trains ours
alone. About 25 minutes for a data set on one core the first time, 10 the second.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from safetensors import safe_open

from bench.measure import Row, Target
from bench.quality_data import SEEDS, demo_folder, frames_of, fresh_project, place, read_project, run_command
from bench.quality_entries import (
    INPUTS,
    Entry,
    held_out_table,
    ratio,
    rival_entry,
    rival_held,
    rival_names,
)
from bench.rival_frames import Frames

NUM_SEEDS = 3
GRID = Path(__file__).with_name("quality_search.toml")
Q1, Q2 = Target(1.00), Target(1.03)
OURS = ("default", "both")  # by default a head sees embeddings alone
WORDS = {"embedding": "embeddings", "both": "embeddings and deviation", "default": "nothing set"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A data set: its `project`, all of its frames, and those that are held out."""

    seed: int
    data: Path
    project: Path
    frames: Frames
    table: pl.DataFrame

    @property
    def held(self) -> pl.DataFrame:
        return self.table.filter(self.frames.report)


def default_head(device: torch.device) -> list[Row]:
    """Q1: `mtl train-head` with nothing set against every rival on the same embeddings."""
    rows = []
    for made in data_sets():
        rivals = {inputs: rival_entries(made, inputs, post=False) for inputs in INPUTS}
        ours = {inputs: trained(made, inputs) for inputs in OURS}
        named = f"Q1 D{made.seed}"
        rows += [row_of(named, each, "ours") for each in ours.values()]
        rows += [row_of(named, each, "rival") for entries in rivals.values() for each in entries]
        every = [each for entries in rivals.values() for each in entries]
        rows += [shown(compared(named, ours["default"], every, Q1))]
        for inputs in INPUTS:
            allowed = [each for key in INPUTS[: INPUTS.index(inputs) + 1] for each in rivals[key]]
            mine = [each for key, each in ours.items() if inputs == "both" or key != "both"]
            best = max(mine, key=lambda each: each.mean)
            rows += [shown(compared(f"{named} {inputs}", best, allowed, Q1))]
    return rows


def searched_head(device: torch.device) -> list[Row]:
    """Q2: search, post-processing and ensemble against every rival with its own post-processing."""
    rows = []
    for made in data_sets():
        rivals = [each for inputs in INPUTS for each in rival_entries(made, inputs, post=True)]
        ours = searched(made)
        named = f"Q2 D{made.seed}"
        rows += [row_of(named, ours, "ours"), *(row_of(named, each, "rival") for each in rivals)]
        rows += [shown(compared(named, ours, rivals, Q2))]
    return rows


def data_sets() -> list[Made]:
    """Those of `SEEDS`, or of MTL_BENCH_QUALITY_SEEDS ("0" or "0,1")."""
    asked = os.environ.get("MTL_BENCH_QUALITY_SEEDS", ",".join(map(str, SEEDS)))
    return [data_set(int(seed)) for seed in asked.split(",")]


def data_set(seed: int) -> Made:
    """The data set of `seed`, with a project of its own for our side."""
    data = demo_folder(seed)
    project = fresh_project(data, place() / f"project{seed}-{os.getpid()}")
    config, dataset = read_project(project)
    return Made(seed=seed, data=data, project=project, frames=frames_of(config, dataset), table=dataset.frames)


def rival_entries(made: Made, inputs: str, *, post: bool) -> list[Entry]:
    """Every rival with these `inputs`, all seeds."""
    found = []
    for name in rival_names(inputs):
        results = {}
        for seed in range(NUM_SEEDS):
            results[seed] = rival_held(made.data / "rivals", name, inputs, made.frames, made.table, seed)
        found.append(rival_entry(name, inputs, results, post=post))
        say(f"D{made.seed}", found[-1])
    return found


def trained(made: Made, inputs: str) -> Entry:
    """`mtl train-head` with each seed and nothing else, or with `inputs` alone."""
    given = [] if inputs == "default" else ["--set", f"head.inputs={inputs}"]
    held, seconds, num = {}, [], 0
    for seed in range(NUM_SEEDS):
        name = f"{inputs}-s{seed}"
        begin = time.process_time()
        with contextlib.chdir(made.project):
            run_command(["train-head", "--seed", str(seed), "--name", name, "--device", "cpu", "--json", *given])
        seconds.append(time.process_time() - begin)
        folder = made.project / "runs" / name
        held[seed] = held_out_table(pl.read_parquet(folder / "predictions.parquet"), made.held)
        num = num_parameters(folder)
    found = Entry(name="mtl train-head", inputs=inputs, held=held, num_parameters=num, seconds=seconds)
    say(f"D{made.seed}", found)
    return found


def searched(made: Made) -> Entry:
    """`mtl search` with `quality_search.toml`, then `mtl ensemble` of all its runs with its post-processing: for each
    seed the grid with seeds of its own."""
    held, seconds, num = {}, [], 0
    for seed in range(NUM_SEEDS):
        study = f"study{seed}"
        grid = made.project / f"{study}.toml"
        grid.write_text(shifted(GRID.read_text(), seed))
        begin = time.process_time()
        with contextlib.chdir(made.project):
            run_command(["search", "--grid", str(grid), "--study", f"studies/{study}", "--device", "cpu"])
            run_command(["ensemble", f"studies/{study}"])
        seconds.append(time.process_time() - begin)
        folder = made.project / "studies" / study / "ensembles" / "best"
        processed, plain = folder / "predictions.post.parquet", folder / "predictions.parquet"
        held[seed] = held_out_table(pl.read_parquet(processed if processed.exists() else plain), made.held)
        num = sum(num_parameters(run) for run in members(folder))
    found = Entry(name="search + post + ensemble", inputs="default", held=held, num_parameters=num, seconds=seconds)
    say(f"D{made.seed}", found)
    return found


def shifted(grid: str, by: int) -> str:
    """The grid with every list of seeds moved on: what it searches with other seeds."""

    def moved(match: re.Match[str]) -> str:
        seeds = json.loads(match.group(2))
        return f"{match.group(1)}{[seed + by * len(seeds) for seed in seeds]}"

    return re.sub(r"(?m)^(seed\s*=\s*)(\[[0-9, ]*\])", moved, grid)


def members(ensemble: Path) -> list[Path]:
    """Folders of the runs that an ensemble draws from, for any task."""
    record = json.loads((ensemble / "ensemble.json").read_text())
    return sorted({(ensemble / each["run"]).resolve() for task in record["members"].values() for each in task})


def num_parameters(run: Path) -> int:
    """How many numbers are in all weights of a run."""
    total = 0
    for path in sorted((run / "weights").glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            total += sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    return total


def compared(name: str, ours: Entry, rivals: Sequence[Entry], target: Target) -> Row:
    """Ours over the rival of the highest held-out P."""
    best = max(rivals, key=lambda each: each.mean)
    middle, low, high = ratio(ours, best)
    note = (
        f"{ours.name}, {WORDS[ours.inputs]}: {ours.mean:.3f}; {best.name}, {WORDS[best.inputs]}: {best.mean:.3f}; "
        f"least and greatest are the middle 95 % over subjects drawn again"
    )
    return Row(
        id=name,
        what="held-out P ÷ the best rival's",
        values=[low, middle, high],
        middle=middle,
        target=target,
        note=note,
    )


def row_of(name: str, entry: Entry, side: str) -> Row:
    """An entry's P as a line of the table."""
    what = f"held-out P, {side}: {entry.name}, {WORDS[entry.inputs]}"
    return Row(
        id=f"{name} {entry.name}, {entry.inputs}", what=what, values=entry.scores, middle=entry.mean, note=entry.words()
    )


def say(where: str, entry: Entry) -> None:
    """A line as soon as a contender is through."""
    scores = ", ".join(f"{value:.3f}" for value in entry.scores)
    print(
        f"{where} {entry.name}, {WORDS[entry.inputs]}: P {entry.mean:.3f} ({scores}); {entry.words()}",
        file=sys.stderr,
        flush=True,
    )


def shown(row: Row) -> Row:
    print(
        f"{row.id}: {row.value:.3f} ({min(row.values):.3f} to {max(row.values):.3f}) {row.note}",
        file=sys.stderr,
        flush=True,
    )
    return row


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"Q1": default_head, "Q2": searched_head}
ON_CUDA = ()
