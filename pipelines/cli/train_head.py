"""`mtl train-head`: trains one strategy on cached embeddings."""

from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import CONFIG, ConfigOption, DeviceOption, JsonOption, SetOption, TrackOption
from pipelines.terminal import say
from pipelines.torch_import import import_torch

if TYPE_CHECKING:
    from pipelines.fitting.epochs import Evaluation


def register(app: typer.Typer) -> None:
    app.command(name="train-head")(train_head)


def train_head(
    fusion: Annotated[str, typer.Option(help="concat, sum, gated, attention or cross-attention.")] = "",
    temporal: Annotated[
        str, typer.Option(help="none, gru, lstm, ssm, tcn, tcn-multi, transformer or tcn-transformer.")
    ] = "",
    tasks: Annotated[
        str, typer.Option(help="Tasks of the schema, such as va, valence, arousal, expr, au; several with commas.")
    ] = "",
    streams: Annotated[str, typer.Option(help="all, own (backbones made for the task), or names.")] = "",
    method: Annotated[str, typer.Option(help="separate, joint, progressive or self-training.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of weights, data order and dropout.")] = None,
    fold: Annotated[str, typer.Option(help="Train and val pooled, cut by subject; scored here: 2, or 2.1.")] = "",
    name: Annotated[str, typer.Option(help="Name of the run folder; default: from the strategy.")] = "",
    runs: Annotated[Path | None, typer.Option(help="Where run folders go; default: from mtl.toml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Train again although the run is there.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Then train it again on train and val (mtl refit).")] = False,
    config: ConfigOption = CONFIG,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    track: TrackOption = "",
    json_output: JsonOption = False,
) -> None:
    """Train one head on cached embeddings, and write a run folder.

    What is not given comes from mtl.toml. The best weights are selected on one set of rows and scored once on another;
    both scores are shown. The same strategy on the same data is not trained twice.

    \b
    Examples:
      mtl train-head --fusion attention --temporal tcn
      mtl train-head --tasks expr,au --streams own --method progressive --seed 1
      mtl train-head --set loss.binary_loss=asymmetric --name asymmetric
    """
    import_torch()
    from pipelines.cli.pages.training import print_result, training_progress
    from pipelines.cli.refit import refit_model
    from pipelines.concerns import own_without_effect, warn_of, without_effect
    from pipelines.config import read_config
    from pipelines.fitting.interrupts import Interrupts
    from pipelines.folds import NO_FOLD
    from pipelines.report.command import write_model_files
    from pipelines.strategy import strategy_of
    from pipelines.trackers import LiveTracker, check_tracker, config_of
    from pipelines.training.run import train_or_find
    from pipelines.words import stored_words

    given: dict[str, Any] = {
        "fusion": fusion or None,
        "temporal": temporal or None,
        "tasks": words(tasks),
        "streams": streams if streams in ("all", "own") else words(streams),
        "method": method or None,
        "seed": seed,
        "fold": fold or None,
    }
    settings = read_config(config, set_ or ())
    chosen = {key: value for key, value in given.items() if value is not None}
    if tasks:
        chosen["tasks"] = list(settings.schema.ordered(chosen["tasks"], "mtl train-head tasks"))
    strategy = strategy_of(settings).replace(chosen, "mtl train-head")
    warn_of((without_effect(strategy) | own_without_effect(strategy)).values(), "mtl train-head")
    if refit and strategy.train.fold != NO_FOLD:
        raise ValueError("--refit trains on train and val together, and a fold holds part of them out; leave out one")
    check_tracker(track)
    live = LiveTracker(track, config_of(strategy.flat()), settings.at(Path()))
    interrupts = Interrupts(SIGINT, SIGTERM)
    try:
        with interrupts, live as tracker, training_progress(settings.schema) as show:

            def on_evaluation(note: "Evaluation") -> None:
                show(note)
                tracker.log(note.model, note.step, note.numbers)

            run = train_or_find(
                settings,
                strategy,
                device,
                folder=runs,
                name=name,
                force=force,
                on_evaluation=on_evaluation,
                on_start=tracker.open,
                on_stored=lambda names: say(stored_words(names), err=True),
                poll=interrupts.check,
            )
            tracker.finish(run.metrics)
    except KeyboardInterrupt:
        say("mtl: stopped; the same command resumes", err=True)
        raise typer.Exit(interrupts.exit_code) from None
    if run.found and not json_output:
        say("this strategy was trained on these data before; --force trains it again", err=True)
    if not (refit and json_output):  # the refit's JSON has the scores of the run
        print_result(run.folder, run.manifest, run.metrics, as_json=json_output)
    if not run.found:
        write_model_files(settings, run.folder, "run")
    if refit:
        refit_model(run.folder, settings, device, force=force, json_output=json_output)


def words(text: str) -> list[str] | None:
    """The comma separated words of an option; None where it was not given."""
    return [word.strip() for word in text.split(",") if word.strip()] or None
