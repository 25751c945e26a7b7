"""The training of a refit: nothing chooses, so every model trains for a given number of steps. N frames."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.config import Config
from pipelines.fitting.epochs import Evaluation
from pipelines.splits import pooled_split
from pipelines.strategy import Strategy, streams_of
from pipelines.training.dataset import Dataset
from pipelines.training.manifest import digest_on
from pipelines.training.methods import METHODS, TrainedModel
from pipelines.training.packing import in_stacks
from pipelines.training.setup import Setup
from pipelines.training.stack_checkpoint import FOLDER, StackCheckpoint
from pipelines.training.train import Trained, TrainRequest, make_setup, predict_models


def train_refit(
    config: Config,
    dataset: Dataset,
    strategies: Sequence[Strategy],
    num_steps: Mapping[str, int],
    place: Path,
    *,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    poll: Callable[[], None] = lambda: None,
) -> tuple[list[Trained], list[StackCheckpoint]]:
    """Trains `strategies`, which differ in their seed, on train and val, each model for its `num_steps`.

    Where `poll` raises KeyboardInterrupt the training is saved beside the folder `place`, and resumes there; the
    checkpoints are to be removed once that folder is written.

    Raises:
        ValueError: a task has no labelled frame, or numbers stop being finite.
    """
    device = dataset.resident.device
    names = {name for used in streams_of(strategies[0], config).values() for name in used}
    widths = dataset.resident.widths(sorted(names), strategies[0].train.view)
    found: list[Trained] = []
    checkpoints = []
    for number, stack in enumerate(in_stacks([(one, None) for one in strategies], config, widths, device)):
        members = [strategy for strategy, _ in stack]
        checkpoint = StackCheckpoint(place.parent / f"{FOLDER}-{place.name}-{number}", poll=poll)
        digests = [refit_digest(config, dataset, strategy, num_steps) for strategy in members]
        checkpoint.open([run_folder(strategy) for strategy in members], digests)
        checkpoints.append(checkpoint)
        found += _train(config, dataset, members, num_steps, checkpoint, on_evaluation)
        checkpoint.flush()
    return found, checkpoints


def refit_digest(config: Config, dataset: Dataset, strategy: Strategy, num_steps: Mapping[str, int]) -> str:
    """16 hex digits over all that decides what is trained."""
    made_from = [digest_on(dataset, config, strategy), dict(num_steps)]
    return hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=8).hexdigest()


def run_folder(strategy: Strategy) -> str:
    """Where in the refit's folder the run of a seed is."""
    return f"runs/s{strategy.train.seed}"


def _train(
    config: Config,
    dataset: Dataset,
    strategies: Sequence[Strategy],
    num_steps: Mapping[str, int],
    checkpoint: StackCheckpoint,
    on_evaluation: Callable[[Evaluation], None] | None,
) -> list[Trained]:
    begin = time.perf_counter() - checkpoint.seconds_before
    split = pooled_split(dataset.frames, dataset.labels)
    requests = [TrainRequest(strategy=strategy, on_evaluation=on_evaluation) for strategy in strategies]
    setups = [
        make_setup(config, dataset, request, split, checkpoint=checkpoint, num_steps=num_steps) for request in requests
    ]
    outcomes = METHODS[strategies[0].train.method](setups)
    share = (time.perf_counter() - begin) / len(setups)
    return [_trained(setup, models, share) for setup, models in zip(setups, outcomes, strict=True)]


def _trained(setup: Setup, models: list[TrainedModel] | ValueError, seconds: float) -> Trained:
    if isinstance(models, ValueError):
        raise models
    modules = [(model.spec, model.module) for model in models]
    nothing = predict_models(modules, setup.dataset, setup.strategy, setup.used, setup.split.select)
    return Trained(
        strategy=setup.strategy,
        models=tuple(models),
        streams=setup.used,
        split=setup.split,
        predictions={"select": nothing, "report": nothing},
        metrics={
            "tasks": list(setup.strategy.head.predicted),
            "step": {model.spec.name: model.step for model in models},
            "halted": 0,
        },
        seconds=seconds,
    )
