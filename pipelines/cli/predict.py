"""`mtl predict`: predictions of a run or an ensemble for frames of the frames table, labelled or not."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    CONFIG,
    ConfigOption,
    DeviceOption,
    JsonOption,
    PostOption,
    PredictorArgument,
    SetOption,
)
from pipelines.terminal import say, say_json


def register(app: typer.Typer) -> None:
    app.command(name="predict")(predict)


def predict(
    model: PredictorArgument,
    split: Annotated[
        str, typer.Option(help="train, val, test, none; or a run's own parts: select, report. Default: test.")
    ] = "",
    names: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Instead of a split, the frames or videos a list names."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .parquet or .csv file. Default: predictions/NAME-SPLIT.parquet beside mtl.toml."),
    ] = None,
    post: PostOption = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the table of an earlier prediction.")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Predict frames from the cached embeddings, and write one row per frame.

    Columns: video, frame, path, valid (false: the frame has no embedding and the prediction of the nearest frame of its
    video), then those of the model's tasks. Of abaw: valence and arousal in -1 to 1; expression 0 to 7 (Neutral, Anger,
    Disgust, Fear, Happiness, Sadness, Surprise, Other) with probabilities p_Neutral .. p_Other; AU1 .. AU26 0 or 1 with
    probabilities p_AU1 .. p_AU26.

    \b
    Examples:
      mtl predict tcn --split test
      mtl predict best --list test_set_release.txt --out best.csv
    """
    from pipelines.cli.pages.predict import predict_lines
    from pipelines.config import read_config
    from pipelines.predict.predict import FrameRequest, predict_to_file

    if split and names is not None:
        raise ValueError("--split and --list: give one of them; a list names its frames whatever their split")
    request = FrameRequest(model=model, split=split or "test", names=names, out=out, post=post, force=force)
    done = predict_to_file(read_config(config, set_ or ()), request, device)
    if json_output:
        say_json(done)
        return
    for line in predict_lines(done | {"asked_post": post}):
        say(line)
