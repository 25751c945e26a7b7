"""`mtl predict`: predictions of a run or an ensemble for frames of the frames table, or for faces of a source."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import (
    CONFIG,
    BoxOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    PostOption,
    SetOption,
    ViewsOption,
    with_views,
)
from pipelines.terminal import say, say_json
from pipelines.torch_import import import_torch

if TYPE_CHECKING:
    from pipelines.config import Config


def register(app: typer.Typer) -> None:
    app.command(name="predict")(predict)


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The folder of a run, ensemble or refit, or its name; or a bundle.")
    ],
    source: Annotated[
        str | None,
        typer.Argument(help="Faces, an archive or a list of them, pictures, a video, a folder of these, or a cache."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="train, val, test, none; or a run's own parts: select, report. Default: test.")
    ] = "",
    names: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Instead of a split, the frames or videos a list names."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .parquet or .csv file. Default: predictions/NAME-SOURCE.parquet beside mtl.toml."),
    ] = None,
    aligned: Annotated[
        bool | None,
        typer.Option("--aligned/--detect", help="SOURCE has aligned crops; or faces are to be looked for in it."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE.mp4", help="The video with the predictions drawn into it.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Predictions over time, as a .html page or a .png picture.")
    ] = None,
    compound: Annotated[
        bool, typer.Option("--compound", help="Also the seven compound expressions, from those of expressions.")
    ] = False,
    box: BoxOption = 0,
    post: PostOption = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier prediction.")] = False,
    views: ViewsOption = "",
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Predict frames from cached embeddings, or the faces of SOURCE, and write one row per face.

    Without SOURCE, frames of the frames table are predicted from the cache. Columns: video, frame, path, valid (false:
    the frame has no embedding and the prediction of the nearest frame of its video), then those of the model's tasks.
    Of abaw: valence and arousal in -1 to 1; expression 0 to 7 (Neutral, Anger, Disgust, Fear, Happiness, Sadness,
    Surprise, Other) with probabilities p_Neutral .. p_Other; AU1 .. AU26 0 or 1 with probabilities p_AU1 .. p_AU26.

    With SOURCE, the backbones in mtl.toml are run on its faces. Columns: video, frame, time_s (seconds), face (its
    number in the video), x0 y0 x1 y1 (pixels), detection_score, valid, then as above, and the class's name as
    expression_name. Interrupted, the same command resumes.

    --compound adds compound 0 to 6 (Fearfully, Happily, Sadly, Disgustedly, Angrily Surprised, Sadly Fearful, Sadly
    Angry) with probabilities p_Fearfully_Surprised ..: the sums of those of their two expressions, scaled to 1.

    \b
    Examples:
      mtl predict tcn --split test
      mtl predict best --list test_set_release.txt --out best.csv
      mtl predict best interview.mp4 --out interview.csv --overlay drawn.mp4
      mtl predict best crops --timeline crops.html
    """
    from pipelines.cli.pages.predict import predict_lines

    if box and not compound:
        raise ValueError("--box averages compound expressions; give --compound too, or leave it out")
    if split and names is not None:
        raise ValueError("--split and --list: give one of them; a list names its frames whatever their split")
    width = box if compound else None
    read = config_for(model, config, with_views(set_, views))
    if source == "":
        raise ValueError("SOURCE is empty; name faces, pictures, a video, a folder of them or a cache")
    if source is None:
        if aligned is not None or overlay is not None or timeline is not None:
            raise ValueError("--aligned, --detect, --overlay and --timeline go with a SOURCE; name one")
        done = _from_cache(read, model, split, names, out, width, post=post, force=force, device=device)
    else:
        if split or names is not None:
            raise ValueError(f"--split and --list choose frames of the cache; leave them out, or leave out {source}")
        files = {"out": out, "overlay": overlay, "timeline": timeline}
        done = _from_source(read, model, Path(source), aligned, files, width, post=post, force=force, device=device)
    if json_output:
        say_json(done)
    else:
        for line in predict_lines(done | {"asked_post": post}):
            say(line)
    if done.get("incomplete") or done.get("num_unreadable"):
        raise typer.Exit(1)


def config_for(model: Path, config: Path, overrides: Sequence[str]) -> "Config":
    """mtl.toml; for a bundle, which needs none, the defaults where there is none."""
    from pipelines.config import apply_override, parse_config, read_config
    from runtime.mtl_runtime import is_bundle

    if config == CONFIG and not config.exists() and is_bundle(model):
        document: dict[str, Any] = {}
        for override in overrides:
            apply_override(document, override)
        return parse_config(document, Path(), "--set")
    return read_config(config, overrides)


def _from_cache(
    config: "Config",
    model: Path,
    split: str,
    names: Path | None,
    out: Path | None,
    box: int | None,
    *,
    post: bool,
    force: bool,
    device: str,
    cache: Path | None = None,
) -> dict[str, Any]:
    import_torch()
    from pipelines.predict.predict import FrameRequest, predict_to_file

    request = FrameRequest(
        model=model, split=split or "test", names=names, cache=cache, out=out, box=box, post=post, force=force
    )
    return predict_to_file(config, request, device)


def _from_source(
    config: "Config",
    model: Path,
    given: Path,
    aligned: bool | None,
    files: dict[str, Path | None],
    box: int | None,
    *,
    post: bool,
    force: bool,
    device: str,
) -> dict[str, Any]:
    from pipelines.predict.sources import find_source

    source = find_source(given, aligned, config.at(config.data.faces))
    if source.kind == "cache":
        if files["overlay"] is not None or files["timeline"] is not None:
            raise ValueError(f"--overlay and --timeline need faces, and {given} is a cache of embeddings")
        out = files["out"]
        return _from_cache(config, model, "", None, out, box, post=post, force=force, device=device, cache=given)
    import_torch()
    from pipelines.device import resolve_device
    from pipelines.faces import face_finder
    from pipelines.predict.alignments import as_trained
    from pipelines.predict.face_model import load_face_model
    from pipelines.predict.from_source import Outputs, check_outputs, default_table, predict_source

    table = files["out"] or default_table(config, model.name, source.name)
    outputs = Outputs(table=table, overlay=files["overlay"], timeline=files["timeline"], box=box, force=force)
    check_outputs(outputs, source)
    finder = None if source.kind == "aligned" else face_finder(config)
    loaded = load_face_model(model, config, resolve_device(device), post=post)
    finder = None if finder is None else as_trained(finder, loaded.alignment)
    return predict_source(loaded, source, config, outputs, finder)
