"""`mtl report`: one HTML page about a run, a study or an ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, JsonOption, SetOption
from pipelines.terminal import say, say_json


def register(app: typer.Typer) -> None:
    app.command(name="report")(report)


def report(
    model: Annotated[
        Path, typer.Argument(metavar="NAME", help="The folder of a run, study, ensemble or refit, or its name.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="An .html file for the page alone. Default: report.html in its folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier page at --out.")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write one HTML page about a run, a study, an ensemble or a refit; it needs no network and no other program.

    Without --out its figures (SVG, PNG) and tables (Markdown, LaTeX, CSV) are written beside it, to figures/ and
    tables/. Nothing is trained or predicted again. Faces are shown where they lie on disk.

    \b
    Examples:
      mtl report tcn
      mtl report studies/joint --out joint.html
      mtl report studies/joint/ensembles/best
    """
    from pipelines.config import read_config
    from pipelines.report.command import make_report

    done = make_report(read_config(config, set_ or ()), model, out, force=force)
    if json_output:
        say_json(done)
        return
    for key in ("figures", "tables", "page"):
        if key in done:
            say(done[key])
