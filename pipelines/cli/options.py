"""Options every command shares, written once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cache.labels import SCHEMAS

if TYPE_CHECKING:
    from pipelines.cluster.connection import ClusterChoices

ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration; `mtl init` writes one.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one value of the configuration; repeatable."),
]
LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels", metavar="NAME|FILE", help=f"The schema of the labels: {', '.join(SCHEMAS)}, or a TOML file."
    ),
]
OrientationOption = Annotated[
    bool, typer.Option("--ignore-orientation", help="Take faces as stored, whatever their EXIF or rotation says.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]
PredictorArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run or an ensemble, or its name.")
]
PostOption = Annotated[
    bool, typer.Option("--post/--no-post", help="With the stored post-processing, where there is one.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
ShardOption = Annotated[
    str,
    typer.Option(
        "--shard", metavar="I/N", help="Do the I-th of N parts; slurm: the part of this task of an array job."
    ),
]
OutsideOption = Annotated[
    str,
    typer.Option(
        "--outside", metavar="STREAM", help="A classifier's scores, whose class may be taken where it is surer."
    ),
]
ViewsOption = Annotated[
    str, typer.Option("--views", metavar="VIEW,..", help="Predict the mean over these views: base,hflip,crop0.9.")
]
TrackOption = Annotated[
    str, typer.Option("--track", metavar="NAME", help="Also log to tensorboard, wandb or trackio, if installed.")
]
BoxOption = Annotated[
    int,
    typer.Option(
        min=0, max=1000, help="Average compound expressions over so many frames on each side.", show_default=False
    ),
]
OnConflictOption = Annotated[
    Literal["error", "first", "last", "missing"],
    typer.Option(
        "--on-conflict",
        help="Rows of one annotation file that disagree about a frame: an error, or the first or last counts, or "
        "what differs is missing.",
    ),
]

EngineOption = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="Where the work is done: here, or by a Ray cluster.")
]
AddressOption = Annotated[
    str,
    typer.Option("--address", metavar="HOST:PORT", help="The Ray cluster; default: $RAY_ADDRESS, or this machine's."),
]
GpusOption = Annotated[
    float, typer.Option(min=0.01, max=1, help="With --engine ray: the share of a GPU that each worker takes.")
]
CpusOption = Annotated[
    int, typer.Option(min=0, help="With --engine ray: cores per worker; 0: one, or a GPU's share of its node.")
]

CONFIG = Path("mtl.toml")


def with_views(overrides: list[str] | None, views: str, outside: str = "") -> list[str]:
    """The overrides of `--set`, with what `--views` and `--outside` stand for."""
    from extract.view_names import parse_views

    chosen = {"views": parse_views(views) if views else None, "outside": outside or None}
    return [*(overrides or ()), *(f"predict.{key}={json.dumps(each)}" for key, each in chosen.items() if each)]


def cluster_of(engine: str, address: str, gpus: float, cpus: int) -> "ClusterChoices | None":
    """What the options of `--engine ray` say; None for this machine."""
    if engine == "local":
        if address:
            raise ValueError(f"--address {address}: goes with --engine ray only")
        return None
    from pipelines.cluster.connection import ClusterChoices

    return ClusterChoices(address=address, gpus_per_worker=gpus, cpus_per_worker=cpus)


def with_orientation(overrides: list[str] | None, ignore_orientation: bool) -> list[str]:
    """The overrides of `--set`, with what `--ignore-orientation` stands for."""
    return [*(overrides or ()), *(["data.ignore_orientation=true"] if ignore_orientation else [])]
