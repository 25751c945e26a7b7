"""`mtl live`: predictions of the faces that a camera or a playing video shows."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, PostOption, SetOption
from pipelines.torch_import import import_torch

MAX_DELAY = 10_000  # steps


def register(app: typer.Typer) -> None:
    app.command(name="live")(live)


def live(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The folder of a run, ensemble or refit, or its name; or a bundle.")
    ],
    source: Annotated[str, typer.Argument(help="The number of a camera, or a video that is played.")] = "0",
    delay: Annotated[int | None, typer.Option(help="Steps of the heads after which a prediction is final.")] = None,
    post: PostOption = True,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print a JSON object per line and nothing else.")] = False,
) -> None:
    """Predict the faces of a camera or of a playing video: a table on a terminal, elsewhere a line per second.

    Each face has a prompt prediction, from what was seen so far, and a final one for the frame `--delay` steps ago. By
    default these are a window, as heads read windows around a frame; causal heads need only what the smoothing takes
    in, without smoothing none. The latency is the time from a frame's arrival to its prompt prediction. Frames
    that arrive while another is worked on are dropped and counted. Ctrl-C ends it.

    \b
    Examples:
      mtl live tcn 0
      mtl live best interview.mp4 --json
    """
    import_torch()
    from pipelines.cli.pages.live import show_json, show_lines, show_summary
    from pipelines.cli.predict import config_for
    from pipelines.device import resolve_device
    from pipelines.faces import face_finder
    from pipelines.predict.alignments import as_trained
    from pipelines.predict.face_model import load_face_model
    from pipelines.predict.live import LivePredictor, open_live

    read = config_for(model, config, set_ or ())
    if delay is not None and not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"--delay {delay}: a number of steps from 0 to {MAX_DELAY:,}")
    frames = open_live(source)
    finder = face_finder(read)
    loaded = load_face_model(model, read, resolve_device(device), post=post)
    predictor = LivePredictor(
        model=loaded,
        finder=as_trained(finder, loaded.alignment),
        fps=read.data.fps,
        window=loaded.window,
        delay=loaded.lookahead if delay is None else delay,
    )
    with frames:
        updates = predictor.updates(frames)
        with contextlib.suppress(KeyboardInterrupt):  # how it is ended
            (show_json if json_output else show_lines)(updates, predictor, loaded.schema)
    show_summary(predictor.summary(frames.num_dropped, frames.why_ended), as_json=json_output)
    if frames.why_ended:
        raise typer.Exit(1)
