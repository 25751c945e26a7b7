"""`mtl export`: a run or an ensemble as a bundle that runs without mtl and without torch."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    CONFIG,
    ConfigOption,
    JsonOption,
    PostOption,
    PredictorArgument,
    SetOption,
    ViewsOption,
    with_views,
)
from pipelines.terminal import say, say_json
from pipelines.torch_import import import_torch


def register(app: typer.Typer) -> None:
    app.command(name="export")(export)


def export(
    model: PredictorArgument,
    onnx: Annotated[
        Path, typer.Option("--onnx", metavar="FOLDER|FILE.zip", help="Where the bundle goes: a folder, or one file.")
    ],
    face_px: Annotated[
        int,
        typer.Option(
            min=0,
            max=4096,
            help="Side of the faces it takes. Default: of those it was trained on.",
            show_default=False,
        ),
    ] = 0,
    heads_only: Annotated[
        bool, typer.Option("--heads-only", help="Without the backbones: the bundle takes embeddings.")
    ] = False,
    post: PostOption = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    views: ViewsOption = "",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a run, an ensemble or a refit as ONNX, with its backbones and all that lies between faces and predictions.

    The bundle holds backbones with resizing and normalisation, heads, windows, ensemble weights, smoothing, offsets,
    thresholds, labels and alignment, and mtl_runtime.py, which runs it with NumPy and onnxruntime alone. Before it is
    there, its predictions are compared with torch's on made faces and embeddings; a difference above 1e-4 is refused.

    \b
    Examples:
      mtl export tcn --onnx tcn-bundle
      mtl export studies/joint/ensembles/best --onnx best.zip
    """
    import_torch()
    from pipelines.cli.pages.export import export_lines
    from pipelines.config import read_config
    from pipelines.export.write import ExportRequest
    from pipelines.export.write import export as write_bundle
    from pipelines.progress import waiting

    request = ExportRequest(model=model, out=onnx, face_px=face_px, heads_only=heads_only, post=post, force=force)
    with waiting("export: backbones, heads, check against torch"):
        done = write_bundle(read_config(config, with_views(set_, views)), request)
    if json_output:
        say_json(done)
        return
    for line in export_lines(done):
        say(line)
