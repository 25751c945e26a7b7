"""`mtl compare`: two strategies on the same held-out videos, and whether they differ."""

from typing import Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, JsonOption, SetOption
from pipelines.terminal import make_console, say_json


def register(app: typer.Typer) -> None:
    app.command(name="compare")(compare)


def compare(
    names: Annotated[list[str], typer.Argument(help="STUDY A B (ranks, or runs of the study), or RUN_A RUN_B.")],
    tasks: Annotated[str, typer.Option(help="Ranks of the table of these tasks; default: the first table.")] = "",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare two strategies on the same held-out videos: difference, interval, p-value, for P and for each task.

    All seeds and folds of both count. The interval resamples videos, the same ones for both; p is how often swapping
    whole videos between the two gives as large a difference. Of strategies with other tasks, those in common compare.

    \b
    Examples:
      mtl compare joint 1 2
      mtl compare studies/joint 1 3 --tasks expr,au
      mtl compare runs/tcn runs/gru --json
    """

    from pipelines.cli.pages.comparison import comparison_page
    from pipelines.config import read_config
    from pipelines.results.comparison import compare_named

    found = compare_named(names, read_config(config, set_ or ()), tasks)
    if json_output:
        say_json(found.to_json())
        return
    make_console().print(comparison_page(found))
