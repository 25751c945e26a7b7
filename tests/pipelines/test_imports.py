"""What commands import: torch takes 1.3 s of CPU time, so those that read what is stored do without."""

import json
from pathlib import Path

import polars as pl

from helpers import stub_runs as stub
from helpers.processes import python

HEAVY = ("torch", "timm", "optuna", "scipy", "sklearn", "matplotlib", "obstore", "zarr", "ray")
# One process, so from light to heavy: each with all that it and those before it may load of `HEAVY`.
COMMANDS = {
    "backbones": (),
    "recipes": (),
    "cache ls --config none.toml": (),
    "score predictions.csv frames.parquet": (),
    "postprocess runs/run0": (),
    "ensemble runs/run0 runs/run1 --size 2 --name pair": (),
}
RUN = """
import contextlib, gc, io, json, pkgutil, sys
from importlib import import_module
from pipelines.cli import main
from pipelines.torch_import import import_torch

heavy, commands, rooms = json.loads(sys.argv[1])
found = {}
for words in commands:
    sys.argv = ["mtl", *words.split()]
    code = 0
    with contextlib.redirect_stdout(io.StringIO()):
        if words.startswith("ensemble"):
            import pipelines.report.command as command
            command.write_model_files = lambda *_: None
        try:
            main()
        except SystemExit as end:
            code = end.code
    found[words] = [code, [name for name in heavy if name in sys.modules]]
for room in rooms:
    module = import_module(room)
    for each in pkgutil.iter_modules(getattr(module, "__path__", []), room + "."):
        import_module(each.name)
    found[room] = [0, [name for name in ("torch", "timm") if name in sys.modules]]
import_torch()
found["torch"] = ["torch" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000]
print(json.dumps(found))
"""
# What others of them import, in which torch must not be either.
ROOMS = (
    *("pipelines.cards", "pipelines.ensemble", "pipelines.metrics", "pipelines.report", "pipelines.studies"),
    *("pipelines.cli.pages.comparison", "pipelines.cli.pages.search", "pipelines.results.comparison"),
)


def test_commands_that_read_what_is_stored_do_without_torch(tmp_path: Path) -> None:
    stub.write_project(tmp_path)
    (tmp_path / "studies" / "s" / "runs").rename(tmp_path / "runs")
    table = pl.read_parquet(tmp_path / "runs" / "run0" / "predictions.parquet")
    table = table.drop("part").with_columns(pl.col("valence", "arousal").clip(-1, 1))
    table.write_csv(tmp_path / "predictions.csv")
    (tmp_path / "none.toml").write_text('[cache]\npath = "none"\n')
    done = python("-c", RUN, json.dumps([HEAVY, list(COMMANDS), ROOMS]), cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found.pop("torch") == [True, True, True], "imported, collections go on, without what it made"
    expected = {words: [2 if words.startswith("cache") else 0, list(heavy)] for words, heavy in COMMANDS.items()}
    assert found == expected | {room: [0, []] for room in ROOMS}, done.stderr
