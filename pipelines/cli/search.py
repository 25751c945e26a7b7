"""`mtl search`: every strategy of a grid, trained over the cache, ranked, and reported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache.locks import WHOLE
from pipelines.cli.options import (
    CONFIG,
    AddressOption,
    ConfigOption,
    CpusOption,
    DeviceOption,
    EngineOption,
    GpusOption,
    JsonOption,
    SetOption,
    ShardOption,
    TrackOption,
    cluster_of,
)
from pipelines.cli.shards import parse_shard
from pipelines.terminal import say, say_json

if TYPE_CHECKING:
    from pipelines.config import Config

STOPPED = {"Ctrl-C": 130, "SIGTERM": 143}  # exit codes


def register(app: typer.Typer) -> None:
    app.command(name="search")(search)


def search(
    grid: Annotated[Path, typer.Option("--grid", help="The grid of strategies; `mtl init` writes examples to grids/.")],
    study: Annotated[Path | None, typer.Option(help="The study's folder; default: studies/NAME OF THE GRID.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show trials, time and memory; run nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trials again.")] = False,
    limit: Annotated[int | None, typer.Option(min=0, help="Run at most so many trials now.")] = None,
    shard: ShardOption = "1/1",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    track: TrackOption = "",
    engine: EngineOption = "local",
    address: AddressOption = "",
    gpus_per_worker: GpusOption = 1.0,
    cpus_per_worker: CpusOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Train every strategy of a grid, rank them, and write a leaderboard and a report page.

    Finished trials are never run again: the same command resumes where it was stopped, and a grid that has grown runs
    only what is new. Strategies are ranked by the selection score; the held-out score plays no part in the ranking.
    Exit code 1 when a trial failed.

    \b
    Examples:
      mtl search --grid grids/joint.toml --dry-run
      mtl search --grid grids/joint.toml
      mtl search --grid grids/temporal.toml --study studies/windows
      mtl search --grid grids/joint.toml --shard 2/8 # the second of eight jobs
      mtl search --grid grids/joint.toml --engine ray --address 10.0.0.1:6379
    """
    from pipelines.cli.pages.consoles import wide_console
    from pipelines.cli.pages.search import SearchPage, print_failures, print_results
    from pipelines.config import read_config
    from pipelines.studies import run_search
    from pipelines.trackers import check_tracker

    part, cluster = parse_shard(shard), cluster_of(engine, address, gpus_per_worker, cpus_per_worker)
    if cluster is not None and part != WHOLE:
        raise ValueError(f"--shard {shard}: --engine ray shares out the whole grid itself; leave out one of the two")
    settings = read_config(config, set_ or ())
    check_tracker(track)
    if dry_run:
        if part != WHOLE:
            raise ValueError("--dry-run is of the whole grid; leave out --shard")
        _preview(settings, grid, study, device, retry_failed=retry_failed, limit=limit, as_json=json_output)
        return
    console = wide_console(stderr=json_output)
    found = run_search(
        settings,
        grid,
        study,
        device,
        SearchPage(console),
        retry_failed=retry_failed,
        limit=limit,
        track=track,
        part=part,
        cluster=cluster,
    )
    if json_output:
        say_json(found.to_json())
    else:
        print_results(found, console)
    print_failures(found)
    if found.outcome.stopped in STOPPED:
        raise typer.Exit(STOPPED[found.outcome.stopped])
    if found.outcome.failed:
        raise typer.Exit(1)


def _preview(
    settings: "Config",
    grid: Path,
    study: Path | None,
    device: str,
    *,
    retry_failed: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    from pipelines.cli.pages.consoles import wide_console
    from pipelines.cli.pages.preview import print_preview
    from pipelines.search.preview import preview_search

    found = preview_search(settings, grid, study, device, retry_failed=retry_failed, limit=limit)
    for reason in found.damaged:
        say(reason, err=True)
    if as_json:
        say_json(found.facts)
    else:
        print_preview(found.facts, wide_console())
