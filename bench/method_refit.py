"""The part of M about refits: a strategy trained again on train and val against the mean of its runs, both of three
seeds; three times, each with seeds of its own. Test is labelled in the made data, so a refit can be scored there."""

import contextlib
from pathlib import Path

import polars as pl

from bench.measure import Row
from bench.method_entries import compared, trained
from bench.quality import NUM_SEEDS, Made, num_parameters
from bench.quality_data import run_command
from bench.quality_entries import Entry, Held, held_out_table
from cache.names import ACTION_UNITS, EXPRESSIONS, VA_COLUMNS

TIMES = 3


def refit(made: Made) -> Row:
    """Held-out P of refits minus that of the mean of the runs."""
    ours: dict[int, Held] = {}
    base: dict[int, Held] = {}
    seconds, num = 0.0, 0
    for number in range(TIMES):
        study, seconds = trained(made, {}, NUM_SEEDS * number)
        runs = sorted((study / "runs").iterdir())
        base[number] = held_out_table(mean_of(runs), made.held)
        ours[number] = held_out_table(refitted(made, study), made.held)
        num = len(runs) * num_parameters(runs[0])
    sides = [
        Entry(name=name, inputs="default", held=held, num_parameters=num, seconds=[seconds])
        for name, held in (("refit", ours), ("mean", base))
    ]
    return compared(f"M D{made.seed} refit: on train and val, mean of three seeds", *sides)


def refitted(made: Made, study: Path) -> pl.DataFrame:
    """Predictions of the test rows by a refit of `study`."""
    table = study / "refit.parquet"
    with contextlib.chdir(made.project):
        run_command(["refit", str(study), "--seeds", str(NUM_SEEDS), "--force", "--device", "cpu"])
        (folder,) = (study / "refits").iterdir()
        run_command(["predict", str(folder), "--split", "test", "--no-post", "--out", str(table)])
    return pl.read_parquet(table).with_columns(part=pl.lit("report"))


def mean_of(runs: list[Path]) -> pl.DataFrame:
    """The mean of the predictions of `runs`, decided anew."""
    means = (*VA_COLUMNS, *(f"p_{name}" for name in (*EXPRESSIONS, *ACTION_UNITS)))
    keys = ["video", "frame", "part"]
    tables = pl.concat([pl.read_parquet(run / "predictions.parquet").select(*keys, *means) for run in runs])
    table = tables.group_by(keys).agg(pl.col(means).mean())
    classes = pl.concat_list([f"p_{name}" for name in EXPRESSIONS]).list.arg_max().cast(pl.Int64)
    units = {name: (pl.col(f"p_{name}") >= 0.5).cast(pl.Int8) for name in ACTION_UNITS}
    return table.with_columns(classes.alias("expression"), **units)
